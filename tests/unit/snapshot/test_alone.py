"""Keeping snapshots by a Job: what it tells when something goes wrong, and what it does not take for gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.snapshot.manifests import GENERATION
from tests.unit.snapshot.world import World

from memorycluster.snapshot import store
from memorycluster.snapshot.alone import keep, left
from memorycluster.snapshot.job import JobConfig
from memorycluster.snapshot.store import Directory, Object, StoreError


class Kept(World):
    """A shard that a Job keeps, without agents."""

    def config(self, **keep: Any) -> JobConfig:
        (self.root / "token").touch()
        told = {"agents": {}, "api_token_file": self.root / "token", "retention": {"count": 1}, **keep}
        return JobConfig.model_validate(
            {
                "cluster": "orders",
                "shard": 0,
                "slots": [[0, 16383]],
                "generation": GENERATION,
                "stream": "orders-0",
                "log_servers": ["nats://log:4222"],
                "log_user": "log",
                "store": {"directory": {"path": str(self.root / "store")}},
                "work": self.root,
                "keep": told,
            }
        )

    async def keep(self, **told: Any) -> dict[str, Any]:
        return await keep(self.config(**told), self.log)

    async def names(self) -> set[str]:
        return {each.manifest.name for each in await self.catalogue.all()}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


async def test_a_trouble_that_may_pass_is_waited_for(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nobody looks again before the next snapshot."""

    async def away(*_: object) -> None:
        raise StoreError("away")

    with monkeypatch.context() as broken:
        broken.setattr(Directory, "list", away)
        assert await kept.keep() == {"trouble": "shard 0: away", "waits": True}
    said = await kept.keep()
    assert (said["trouble"], said["waits"]) == ("", False)


async def test_what_another_cluster_is_made_of_is_not_deleted_by_who_asks_for_it(kept: Kept) -> None:
    made = {name: await kept.snapshot(at, name=name) for at, name in ((3, "one"), (5, "two"), (7, "three"))}
    unwanted = {made["one"].place: "one"}
    said = await kept.keep(spared=["one"], unwanted=unwanted)
    assert said["unwanted"] == {}
    assert "can't be deleted" in left(kept.config(unwanted=unwanted), said)
    assert await kept.names() == {"one", "two", "three"}
    said = await kept.keep(unwanted=unwanted)
    assert said["unwanted"] == {made["one"].place: "gone"}
    assert await kept.names() == {"two", "three"}


@pytest.mark.parametrize("away", [False, True])
async def test_what_another_copy_of_the_store_has_is_neither_gone_nor_forgotten(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    made = [await kept.snapshot(at, name=f"s{at}", reason="user") for at in (3, 5, 7)]
    hidden = made[0].place

    class Half(Directory):
        async def list(self, prefix: str) -> list[Object]:
            return [each for each in await super().list(prefix) if not each.key.startswith(hidden)]

        async def known(self, prefix: str) -> set[str]:
            if away:
                raise StoreError("a copy is away")
            return {each.key for each in await super().list(prefix)}

    with monkeypatch.context() as half:
        half.setattr(store, "Directory", Half)
        said = await kept.keep(listed={hidden: "s3"}, unwanted={hidden: "s3"})
    assert (said["deleted"], said["unwanted"]) == ([], {})
    await kept.catalogue.check_data(made[0])
    said = await kept.keep(unwanted={hidden: "s3"})
    assert said["unwanted"] == {hidden: "gone"}


async def test_what_can_not_be_forgotten_ends_no_look(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in (3, 5):
        await kept.snapshot(at, name=f"s{at}")
    former = "orders/0/00000000-0000-0000-0000-000000000009/00000000000000000007-00000000"
    await kept.catalogue.store.put(f"{former}/data.rdb", b"1")

    async def refused(*_: object) -> None:
        raise StoreError("access denied")

    monkeypatch.setattr(Directory, "delete", refused)
    said = await kept.keep(unwanted={former: "old"})
    assert [each["name"] for each in said["kept"]] == ["s5", "s3"]
    assert "access denied" in said["trouble"]
    assert said["unwanted"] == {}
