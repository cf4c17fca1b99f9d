"""The note of a freeze: when it holds for an agent's successor, and when it must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from memorycluster.agent.freeze import Freeze, Owner
from memorycluster.log.chain import Position

GENERATION = UUID(int=7)
AT = Position(GENERATION, 9, 3, "b", True, "c", 100, 2**64 - 1, 120, 5)


@pytest.fixture
def engine() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def noted(path: Path, pid: int) -> Freeze:
    note = Freeze(Owner.of(pid), "the log ends too early", 3, AT)
    note.save(path)
    return note


def test_it_says_all_that_was_known_while_the_engine_lives(
    tmp_path: Path, engine: subprocess.Popen[bytes]
) -> None:
    note = noted(tmp_path / "note", engine.pid)
    assert Freeze.load(tmp_path / "note", GENERATION) == note
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.mark.parametrize("reaped", [True, False])
def test_it_ends_with_the_engine(tmp_path: Path, engine: subprocess.Popen[bytes], reaped: bool) -> None:
    noted(tmp_path / "note", engine.pid)
    engine.kill()
    if reaped:
        engine.wait()
    else:
        os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
    assert Freeze.load(tmp_path / "note", GENERATION) is None


@pytest.mark.parametrize("other", [{"boot": "another"}, {"pid_namespace": 1}, {"started": 1}])
def test_another_process_is_not_the_one_whatever_its_pid(
    tmp_path: Path, engine: subprocess.Popen[bytes], other: dict[str, Any]
) -> None:
    note = noted(tmp_path / "note", engine.pid)
    replace(note, engine=replace(note.engine, **other)).save(tmp_path / "note")
    assert Freeze.load(tmp_path / "note", GENERATION) is None


def test_the_log_of_another_cluster_has_nothing_to_do_with_it(tmp_path: Path) -> None:
    noted(tmp_path / "note", os.getpid())
    assert Freeze.load(tmp_path / "note", UUID(int=8)) is None
    assert Freeze.load(tmp_path / "note") is not None


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"position": 1}', "\0"])
def test_what_can_not_be_read_as_a_note_holds(tmp_path: Path, text: str) -> None:
    (tmp_path / "note").write_text(text)
    for generation in (None, GENERATION):
        note = Freeze.load(tmp_path / "note", generation)
        assert note is not None
        assert f"can't be read, {tmp_path / 'note'}" in note.reason
        assert (note.epoch, note.position.sequence) == (0, 0), "nothing is known"
    assert note is not None
    assert note.position.generation == GENERATION


def test_a_note_that_can_not_be_opened_holds(tmp_path: Path) -> None:
    (tmp_path / "note").mkdir()
    assert Freeze.load(tmp_path / "note", GENERATION) is not None
    assert Freeze.load(tmp_path / "none", GENERATION) is None


@pytest.mark.parametrize("field", ["engine", "reason", "epoch", "position"])
def test_a_note_without_one_of_its_parts_holds(tmp_path: Path, field: str) -> None:
    noted(tmp_path / "note", os.getpid())
    fields = json.loads((tmp_path / "note").read_text())
    del fields[field]
    (tmp_path / "note").write_text(json.dumps(fields))
    assert Freeze.load(tmp_path / "note", GENERATION) is not None


def test_it_can_be_forgotten(tmp_path: Path) -> None:
    noted(tmp_path / "note", os.getpid())
    for _ in range(2):
        Freeze.forget(tmp_path / "note")
        assert Freeze.load(tmp_path / "note", GENERATION) is None


def test_one_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "note").mkdir()  # so that no file can take its place
    noted(tmp_path / "note", os.getpid())
    assert "do not end its agent" in caplog.text
