import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import psutil
import pytest

from memorycluster.process import (
    FREE_RESTARTS,
    LONGEST_DELAY,
    Process,
    bound_output,
    last_line,
    restart_delay,
)

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]

POLITE = """
import signal, sys, time

def leave(*_):
    print("bye", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition has not come true"
        await asyncio.sleep(0.005)


class Harness:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes: list[str] = []
        self.processes: list[Process] = []

    async def start(self, argv: Sequence[str]) -> Process:
        process = Process("thing", lambda: argv, self.directory / "out.log", self.notes.append)
        self.processes.append(process)
        await process.start()
        return process


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    for process in harness.processes:
        await process.stop(0.1)


async def test_a_killed_process_is_started_again_at_once(harness: Harness) -> None:
    process = await harness.start(SLEEP)
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: process.pid not in (None, first))
    assert harness.notes == ["thing ended (killed by SIGKILL); started again"]


async def test_the_configuration_is_written_before_each_start(tmp_path: Path) -> None:
    starts: list[int] = []

    def prepare() -> Sequence[str]:
        starts.append(len(starts))
        return SLEEP

    process = Process("thing", prepare, tmp_path / "out.log", lambda _: None)
    await process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: len(starts) == 2)
    await process.stop(1)


async def test_stop_is_for_good_and_lets_the_process_end_by_itself(harness: Harness) -> None:
    process = await harness.start([sys.executable, "-c", POLITE])
    await until(lambda: last_line(process.output) == "up")
    pid = process.pid
    await process.stop(20)
    assert last_line(process.output) == "bye"
    assert process.pid is None
    assert not psutil.pid_exists(pid or 0)
    assert harness.notes == []


async def test_stop_kills_what_does_not_listen_even_when_it_is_frozen(harness: Harness) -> None:
    process = await harness.start([sys.executable, "-c", DEAF])
    await until(lambda: last_line(process.output) == "up")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    await process.stop(0.2)
    assert process.pid is None
    assert harness.notes == ["thing does not end within 0.2 s: killed"]


async def test_a_crash_loop_slows_down_and_says_why(harness: Harness) -> None:
    await harness.start([sys.executable, "-c", "import sys; sys.exit('out of cheese')"])
    await until(lambda: any("keeps ending" in note for note in harness.notes))
    assert harness.notes[:FREE_RESTARTS] == ["thing ended (exit status 1); started again"] * FREE_RESTARTS
    assert harness.notes[FREE_RESTARTS].startswith("thing keeps ending (exit status 1): out of cheese - see ")


def test_delays_grow_to_a_limit() -> None:
    delays = [restart_delay(ends, 0) for ends in range(12)]
    assert delays[: FREE_RESTARTS + 1] == [0] * (FREE_RESTARTS + 1)
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY
    assert [restart_delay(ends, 0.5) for ends in range(4)] == [0.5] * 4


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    code = f"""
import asyncio
from pathlib import Path
from memorycluster.process import Process
async def main():
    process = Process("thing", lambda: {SLEEP!r}, Path({str(tmp_path)!r}) / "out.log", print)
    await process.start()
    print(process.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        deadline = time.monotonic() + 20
        while last_line(tmp_path / "out.log") != "up":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        supervisor.kill()
        supervisor.wait()
    child.wait(timeout=20)


def test_output_is_bounded_without_the_process_noticing(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=path.open("ab")) as writer:
        assert writer.stdin is not None

        def write(text: str) -> None:
            assert writer.stdin is not None
            size = path.stat().st_size
            writer.stdin.write(text.encode())
            writer.stdin.flush()
            while path.stat().st_size == size:
                time.sleep(0.001)

        write("first " * 100)
        bound_output(path, limit=100)
        write("second")
        bound_output(path, limit=100)
        writer.stdin.close()
    assert path.read_text() == "second"
    assert (tmp_path / "out.log.1").read_text() == "first " * 100


def test_the_last_line_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert last_line(tmp_path / "none") == ""
    (tmp_path / "log").write_text("one\ntwo \n\n")
    assert last_line(tmp_path / "log") == "two"


def test_without_a_file_of_its_own_it_prints_where_its_supervisor_prints() -> None:
    code = """
import asyncio
from memorycluster.process import Process
async def main():
    process = Process("thing", lambda: ["echo", "said"], None, print)
    await process.start()
    await process.retire()
    await process.ended()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "said\n"
