"""What an engine says while records are in flight is read at their ends, for as long as they end in time."""

from __future__ import annotations

import asyncio

import pytest

from memorycluster.agent import gathering
from memorycluster.agent.engine import Channel
from memorycluster.agent.gathering import Gathering


class Source(Channel):
    def __init__(self) -> None:
        self.reading = True
        self.taken = 0

    def put_off(self) -> None:
        self.reading = False

    def read_now(self) -> None:
        self.taken += 1

    def read_on(self) -> None:
        self.reading = True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(gathering, "_now", lambda: time[0])
    return time


def test_it_goes_on_gathering_for_as_long_as_records_end_in_time(now: list[float]) -> None:
    gathered, sources = Gathering(), (Source(), Source())
    gathered.begin(*sources)
    for turn in range(20):
        now[0] += 0.04
        gathered.take()
        gathered.begin(*sources)
        gathered.end_after(0.05)
        assert [(each.reading, each.taken) for each in sources] == [(False, turn + 1)] * 2
    now[0] += 0.06
    gathered.end_after(0.05)
    assert all(each.reading for each in sources), "the log is slow"
    gathered.take()
    assert sources[0].taken == 20, "it is read as it arrives"


def test_what_is_not_put_off_has_no_end(now: list[float]) -> None:
    gathered, source = Gathering(), Source()
    now[0] += 1000
    gathered.end_after(0.05)
    gathered.begin(source)
    gathered.end_after(0.05)
    assert not source.reading
    gathered.end()
    assert source.reading


async def test_its_clock_is_the_loops() -> None:
    assert gathering._now() == pytest.approx(asyncio.get_running_loop().time(), abs=1)
