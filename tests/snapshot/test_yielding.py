"""A making leaves the CPU to those that serve, until the log is a quarter full."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import psutil
import pytest
from tests.snapshot.test_deaths import ENGINE, config, its_engine
from tests.snapshot.world import World, command

from memorycluster.local.snapshots import NICE, making
from memorycluster.log.interface import LogHealth, LogUnavailable
from memorycluster.snapshot import job

GROUP = Path("/proc/self/autogroup")


def nice(pid: int) -> int | None:
    """Return how nice a process's session is; None: it has none of its own (nothing called setsid)."""
    said = Path(f"/proc/{pid}/autogroup").read_text().split()
    return int(said[-1]) if said else None


@pytest.mark.skipif(not GROUP.exists(), reason="this kernel does not share CPU time out by sessions")
async def test_a_making_and_its_engines_are_a_session_that_is_nice_to_others(world: World) -> None:
    await world.lead()
    await world.write(*(command("SET", f"k{number}", "x" * 1000) for number in range(200)))
    ours = nice(psutil.Process().pid)
    found: set[tuple[bool, int | None]] = set()

    async def watch() -> None:
        while True:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, FileNotFoundError):  # it has ended meanwhile
                    if its_engine(process, world) or "memorycluster.snapshot" in process.cmdline():
                        found.add((process.name() == ENGINE, nice(process.pid)))
            await asyncio.sleep(0.005)

    watching = None
    async for said in making(config(world) | {"work": str(world.work)}, world.work / "job"):
        watching = watching or asyncio.create_task(watch())  # it is a session by now
        assert "failed" not in said
    assert watching
    watching.cancel()
    await asyncio.wait([watching])
    assert watching.cancelled(), "it has watched to the end"
    assert found == {(False, NICE), (True, NICE)}
    assert nice(psutil.Process().pid) == ours


class Filling:
    """A log that fills, and can't always be asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def health(self) -> LogHealth:
        self.asked += 1
        if self.asked == 2:
            raise LogUnavailable("not now")
        return LogHealth(1, 100, 10 * self.asked, 100)


async def test_a_making_hurries_once_the_log_is_a_quarter_full(monkeypatch: pytest.MonkeyPatch) -> None:
    log, told = Filling(), list[tuple[int, int]]()
    monkeypatch.setattr(job, "LOOK_EVERY", 0)
    monkeypatch.setattr(job, "yield_cpu", lambda _, nice: told.append((log.asked, nice)))
    async with asyncio.timeout(30):
        await job._hurry(log)  # type: ignore[arg-type]
    assert told == [(3, 0)]
