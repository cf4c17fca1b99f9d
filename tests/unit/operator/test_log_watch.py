"""No copy of the log is given up unless the others were read through, and that is not long ago."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast
from uuid import UUID

import pytest

from memorycluster.log.healing import LIST, Copy
from memorycluster.log.service import LogService
from memorycluster_operator import logs
from memorycluster_operator.logs import Member, Target, _Watch

NAMES = ("log-0", "log-1", "log-2")
HOUR = 3600.0


@dataclass
class Clock:
    """Monotonic time."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Service:
    """A log service one of whose servers says that it has lost something."""

    clock: Clock
    read: list[str] = field(default_factory=list)

    async def copies(self) -> list[Copy]:
        return [
            Copy(log, name, leads=name == "log-0", lost=int(name == "log-1" and log != LIST))
            for log in ("orders-0", LIST)
            for name in NAMES
        ]

    async def scrub(self, stream: str, member: str, *, rate: float, only: int | None = None) -> str:
        self.read.append(member)
        self.clock.now += HOUR
        return ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


TARGET = Target(
    tuple(Member(name, name, pod_uid=f"{name}-pod") for name in NAMES), "secret", (("orders-0", UUID(int=1)),)
)


def replaced(name: str) -> Target:
    members = tuple(
        replace(member, pod_uid="another") if member.name == name else member for member in TARGET.members
    )
    return replace(TARGET, members=members)


async def rotten(watch: _Watch) -> str:
    watch.report = await watch._copies(watch.service, watch.target)
    return watch.report.rotten


async def read(clock: Clock) -> _Watch:
    """Return a watch that knows of a rotten copy, and has read all three through since."""
    watch = _Watch(TARGET, lambda: None, asyncio.Event())
    watch.service = cast(LogService, Service(clock))
    assert await rotten(watch) == "", "nobody has read the others yet"
    clock.now += 1
    await watch.scrub()
    assert await rotten(watch) == "log-1"
    return watch


async def test_a_reading_is_of_use_for_a_while_from_its_end(clock: Clock) -> None:
    watch = await read(clock)
    clock.now += logs.READ_FOR - 1
    assert await rotten(watch) == "log-1"
    watch.urgent.clear()
    clock.now += 1
    assert await rotten(watch) == ""
    assert watch.urgent.is_set(), "it is read anew"
    await watch.scrub()
    assert await rotten(watch) == "log-1"


@pytest.mark.parametrize("name", NAMES)
async def test_a_reading_says_nothing_of_a_pod_that_has_come_since(clock: Clock, name: str) -> None:
    watch = await read(clock)
    watch.retarget(replaced(name))
    assert watch.urgent.is_set()
    assert await rotten(watch) == ""
    clock.now += 1
    await watch.scrub()
    assert await rotten(watch) == "log-1"
