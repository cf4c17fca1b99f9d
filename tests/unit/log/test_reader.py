"""Reading by the chain rule from members of which some are rotten."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from uuid import UUID

import pytest
from tests.log.records import Writer

from memorycluster.log import findings
from memorycluster.log.chain import Position, Read
from memorycluster.log.findings import Findings
from memorycluster.log.interface import Entry, LogCorrupt, LogHealth, LogUnavailable, Member
from memorycluster.log.reader import follow
from memorycluster.log.service import genesis

GENERATION = UUID(int=1)


def written(count: int) -> list[bytes]:
    writer = Writer(GENERATION)
    log = [genesis(GENERATION), writer.accept(writer.claim())]
    log += [writer.accept(writer.data(b"%d" % number)) for number in range(count)]
    return log


class Members:
    """A log of which each member holds its own copy; the first one that is not avoided is read."""

    def __init__(self, **held: list[bytes | None]) -> None:
        self.held = held
        self.unavailable = 0
        self.trouble = ""
        self.findings = Findings()

    async def append(self, data: bytes, *, sequence: int) -> None: ...

    async def tail(self, after: int, *, avoid: Collection[str] = ()) -> AsyncGenerator[Entry | None, None]:
        members = [member for member in self.held if member not in avoid]
        for sequence in range(after + 1, max(map(len, self.held.values())) + 1):
            for member in members:
                copy = self.held[member]
                if sequence <= len(copy) and (data := copy[sequence - 1]) is not None:
                    yield Entry(sequence, data, member)
                    break
            else:
                raise LogCorrupt(f"log record {sequence}: missing")
        yield None

    async def get(self, sequence: int) -> bytes | None: ...

    async def end(self) -> int:
        return 0

    async def trim(self, before: int) -> None: ...

    async def health(self) -> LogHealth:
        if self.unavailable:
            self.unavailable -= 1
            raise LogUnavailable("no answer")
        return LogHealth(1, 1, 1, 1, tuple(Member(name, "", True, False) for name in self.held))


async def read_to_end(log: Members) -> list[Read]:
    reads: list[Read] = []
    async with aclosing(follow(log, Position(GENERATION))) as items:
        async for item in items:
            if item is None:
                return reads
            reads.append(item)
    raise AssertionError


def spoiled(log: list[bytes], *sequences: int) -> list[bytes | None]:
    return [data[:-1] + b"?" if i in sequences else data for i, data in enumerate(log, 1)]


def missing(log: list[bytes], *sequences: int) -> list[bytes | None]:
    return [None if i in sequences else data for i, data in enumerate(log, 1)]


async def sequences(log: Members) -> list[int]:
    return [read.position.sequence for read in await read_to_end(log)]


async def test_sound_members() -> None:
    log = written(5)
    assert await sequences(Members(a=[*log], b=[*log])) == [1, 2, 3, 4, 5, 6, 7]


async def test_what_one_spoils_is_read_from_another() -> None:
    log = written(5)
    assert await sequences(Members(a=spoiled(log, 4), b=[*log], c=[*log])) == [1, 2, 3, 4, 5, 6, 7]


async def test_who_spoils_what_is_told() -> None:
    log = written(5)
    members = Members(a=spoiled(log, 4), b=spoiled(log, 6), c=[*log])
    assert not members.findings.recent()
    await read_to_end(members)
    assert [(found.member, found.sequence) for found in members.findings.recent()] == [("a", 4), ("b", 6)]
    assert "log record 4" in members.findings.recent()[0].reason


async def test_what_was_found_long_ago_is_told_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(5)
    members = Members(a=spoiled(log, 4), b=[*log])
    await read_to_end(members)
    monkeypatch.setattr(findings, "TOLD_FOR", 0.0)
    assert not members.findings.recent()


async def test_each_member_is_rotten_elsewhere() -> None:
    log = written(5)
    members = Members(a=spoiled(log, 3, 6), b=spoiled(log, 4), c=spoiled(log, 5))
    members.unavailable = 1
    assert await sequences(members) == [1, 2, 3, 4, 5, 6, 7]


async def test_what_one_spoils_the_next_lacks_later() -> None:
    log = written(5)
    assert await sequences(Members(a=spoiled(log, 3), b=missing(log, 5))) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("at", [1, 2, 4, 7])
async def test_what_all_spoil_is_corrupt(at: int) -> None:
    log = written(5)
    members = Members(a=spoiled(log, at), b=spoiled(log, at), c=spoiled(log, at))
    with pytest.raises(LogCorrupt, match=f"log record {at}: .*on every member"):
        await read_to_end(members)


async def test_what_all_spoil_or_lack_is_corrupt() -> None:
    log = written(5)
    with pytest.raises(LogCorrupt):
        await read_to_end(Members(a=spoiled(log, 4), b=missing(log, 4)))
    with pytest.raises(LogCorrupt):
        await read_to_end(Members(a=missing(log, 4)))
    with pytest.raises(LogCorrupt):
        await read_to_end(Members(a=spoiled(log, 4)))
