"""What a container is told, as it changes while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.pod.test_config import cluster
from tests.unit.pod.test_node import ENVIRONMENT

from memorycluster.pod.container import Told, prepare
from memorycluster.pod.node import Files, engine_texts


@pytest.fixture
def told(volumes: Path) -> Told:
    (volumes / "config").mkdir()
    (volumes / "config" / "cluster.json").write_text(cluster().dump())
    return Told(volumes, ENVIRONMENT)


def test_a_change_is_seen_and_what_does_not_change_is_the_same(told: Told, volumes: Path) -> None:
    assert told.config is told.config
    (volumes / "config" / "cluster.json").write_text(cluster(nodes_per_shard=5).dump())
    assert told.config == cluster(nodes_per_shard=5)


def test_what_can_not_be_used_changes_nothing(
    told: Told, volumes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = volumes / "config" / "cluster.json"
    path.write_text('{"cluster": 7}')
    assert told.config == cluster()
    path.unlink()
    assert told.config == cluster()
    assert "can't be used, going on with what it said before" in capsys.readouterr().out


def test_the_zone_may_be_told_late_and_secrets_stay(told: Told, volumes: Path) -> None:
    assert told.pod.zone == ""
    (volumes / "pod").mkdir()
    (volumes / "pod" / "zone").write_text("zone-a")
    (volumes / "secrets" / "agent-password").write_text("another")
    assert (told.pod.zone, told.pod.agent_password) == ("zone-a", "a")


def test_files_are_written_anew_before_each_start_for_nobody_else_to_read(told: Told, tmp_path: Path) -> None:
    files = Files(tmp_path / "run")
    files.directory.mkdir()
    write = prepare(told, files, engine_texts, ["valkey-server"])
    for _ in range(2):
        assert write() == ["valkey-server"]
        text = files.nodes_conf.read_text()
        assert "myself" in text
        assert files.engine_conf.stat().st_mode & 0o777 == 0o600
        files.nodes_conf.write_text("what an engine has made of it")
