"""What a making does for whoever asked for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.snapshot.world import World

from memorycluster.snapshot.job import _keep, message
from memorycluster.snapshot.manifest import Reason


@pytest.mark.parametrize(
    ("was", "asked", "becomes"),
    [("replay", "user", "user"), ("schedule", "user", "user"), ("user", "replay", "user")],
)
async def test_the_newest_snapshot_is_kept_if_a_user_asks_for_what_it_holds(
    tmp_path: Path, was: Reason, asked: Reason, becomes: Reason
) -> None:
    world = World(tmp_path)
    snapshot = await world.snapshot(6, reason=was)
    await _keep(world.catalogue, snapshot, asked)
    (found,) = await world.catalogue.all()
    assert found.place == snapshot.place
    assert found.manifest == snapshot.manifest.model_copy(update={"reason": becomes})


LONG = {
    "made": "orders/0/" + "p" * 100,
    "manifest": {"name": "n" * 253},
    "kept": [{"name": "n" * 253}] * 2,
    "waits": False,
}


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"deleted": ["d" * 20] * 20, "trouble": "t" * 100, "broken": ["b"] * 9}, 3),
        ({"trouble": "\N{CYRILLIC SMALL LETTER A}" * 1000, "broken": ["b"], "deleted": ["d"]}, 3),
        ({"deleted": ["d" * 253] * 20, "trouble": "t" * 1000, "broken": ["b"]}, 2),
        ({"deleted": ["d"], "trouble": "\N{SNOWMAN}" * 1000, "broken": ["b" * 400] * 5}, 1),
        ({"deleted": ["d"], "trouble": "t" * 1000, "broken": ["b" * 1000] * 5}, 0),
    ],
)
def test_what_is_said_last_fits_into_a_containers_message(more: dict[str, Any], kept: int) -> None:
    written = message(LONG | more)
    assert len(written) <= 4096
    said = json.loads(written)
    assert {key: said.pop(key) for key in LONG} == LONG
    assert set(said) == set(("deleted", "trouble", "broken")[3 - kept :])
    assert len(said.get("broken", [])) <= 5


def test_a_long_reason_is_cut_and_what_is_no_text_is_replaced() -> None:
    written = message({"failed": "\N{SNOWMAN}" * 2000, "broken": []})
    assert len(written) <= 4096
    assert json.loads(written)["failed"].startswith("\N{SNOWMAN}" * 500)
    assert json.loads(message({"failed": "no file \udcff"})) == {"failed": "no file ?"}
