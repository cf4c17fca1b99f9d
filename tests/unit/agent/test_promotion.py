"""The note of a promotion: when it proves that the engine has exited, and when it must not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from memorycluster.agent.promotion import Promotion

GENERATION = UUID(int=7)


@pytest.fixture
def engine() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def noted(path: Path, pid: int) -> Promotion:
    Promotion.save(path, pid=pid, generation=GENERATION, epoch=3, nonce=2**64 - 1)
    note = Promotion.load(path)
    assert note is not None
    assert (note.pid, note.generation, note.epoch, note.nonce) == (pid, GENERATION, 3, 2**64 - 1)
    return note


def change(path: Path, **fields: object) -> Promotion | None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return Promotion.load(path)


async def test_an_engine_that_is_gone_has_exited(tmp_path: Path, engine: subprocess.Popen[bytes]) -> None:
    note = noted(tmp_path / "note", engine.pid)
    engine.kill()
    engine.wait()
    assert await note.exited()


async def test_an_engine_that_lives_has_not_exited_until_it_does(
    tmp_path: Path, engine: subprocess.Popen[bytes]
) -> None:
    note = noted(tmp_path / "note", engine.pid)
    waiting = asyncio.create_task(note.exited())
    engine.send_signal(signal.SIGSTOP)
    assert not (await asyncio.wait([waiting], timeout=0.2))[0]
    engine.kill()  # And is not reaped: its parent may be slow.
    assert await asyncio.wait_for(waiting, 30)
    assert engine.returncode is None


async def test_a_pid_that_is_used_again_proves_nothing_while_its_holder_lives(tmp_path: Path) -> None:
    note = noted(tmp_path / "note", os.getpid())
    waiting = asyncio.create_task(note.exited())
    assert not (await asyncio.wait([waiting], timeout=0.2))[0]
    waiting.cancel()


async def test_the_pid_of_a_thread_proves_nothing(tmp_path: Path) -> None:
    thread = await asyncio.to_thread(lambda: int(Path("/proc/thread-self").readlink().name))
    assert thread != os.getpid()
    assert not await noted(tmp_path / "note", thread).exited()


@pytest.mark.parametrize("place", [{"boot": "another"}, {"pid_namespace": 1}])
async def test_another_boot_or_pid_namespace_proves_nothing(
    tmp_path: Path, engine: subprocess.Popen[bytes], place: dict[str, object]
) -> None:
    noted(tmp_path / "note", engine.pid)
    engine.kill()
    engine.wait()
    note = change(tmp_path / "note", **place)
    assert note is not None
    assert not await note.exited()


def test_the_note_names_the_pid_namespace_that_it_is_written_in(tmp_path: Path) -> None:
    here = noted(tmp_path / "here", 1)
    code = (
        "import sys; from pathlib import Path; from uuid import UUID;"
        "from memorycluster.agent.promotion import Promotion;"
        "Promotion.save(Path(sys.argv[1]), pid=1, generation=UUID(int=7), epoch=3, nonce=1)"
    )
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    command = [*unshare, sys.executable, "-c", code, str(tmp_path / "there")]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("pid namespaces can't be made here")
    subprocess.run(command, check=True)
    there = Promotion.load(tmp_path / "there")
    assert there is not None
    assert there.boot == here.boot
    assert there.pid_namespace != here.pid_namespace


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"boot": 1, "pid_namespace": "x"}', "\0"])
def test_what_is_not_a_note_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "note").write_text(text)
    assert Promotion.load(tmp_path / "note") is None


@pytest.mark.parametrize("field", ["boot", "pid_namespace", "pid", "generation", "epoch", "nonce"])
def test_a_note_without_one_of_its_parts_is_none(tmp_path: Path, field: str) -> None:
    noted(tmp_path / "note", 1)
    fields = json.loads((tmp_path / "note").read_text())
    del fields[field]
    (tmp_path / "note").write_text(json.dumps(fields))
    assert Promotion.load(tmp_path / "note") is None


def test_no_note_is_none(tmp_path: Path) -> None:
    assert Promotion.load(tmp_path / "note") is None


def test_a_note_that_cannot_be_written_leaves_the_older_one_whole(tmp_path: Path) -> None:
    older = noted(tmp_path / "note", 1)
    (tmp_path / "note.new").mkdir()
    Promotion.save(tmp_path / "note", pid=2, generation=GENERATION, epoch=4, nonce=5)
    assert Promotion.load(tmp_path / "note") == older
