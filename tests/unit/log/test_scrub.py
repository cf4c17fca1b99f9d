"""A reading says that a copy is sound only if it has read all of that very copy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from tests.log.records import Writer

from memorycluster.log.findings import Findings
from memorycluster.log.healing import SCRUB_TRIES, scrub
from memorycluster.log.interface import Entry, LogHealth, LogTrimmed, LogUnavailable, Member
from memorycluster.log.service import genesis


def written(count: int) -> list[bytes]:
    writer = Writer(UUID(int=1))
    log = [genesis(UUID(int=1)), writer.accept(writer.claim())]
    return log + [writer.accept(writer.data(b"%d" % number)) for number in range(count - 2)]


@dataclass
class Log:
    """A log that is read from ``sender``, and trimmed while it is read."""

    records: list[bytes]
    sender: str = "b"
    members: tuple[str, ...] = ("a", "b", "c")
    trims: list[int] = field(default_factory=list)
    """What its first record comes to be, each time that two have been read."""
    first: int = 1
    trouble: str = ""
    starts: list[int] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    async def tail(self, after: int, *, avoid: Collection[str] = ()) -> AsyncGenerator[Entry | None, None]:
        self.starts.append(after + 1)
        for number, sequence in enumerate(range(after + 1, len(self.records) + 1)):
            if number == 2 and self.trims:
                self.first = self.trims.pop(0)
            if sequence < self.first:
                raise LogTrimmed(f"log record {sequence}: trimmed")
            yield Entry(sequence, self.records[sequence - 1], self.sender)
        yield None

    async def health(self) -> LogHealth:
        members = tuple(Member(name, "", True, name == "a") for name in self.members)
        return LogHealth(self.first, len(self.records), 1, 1, members)

    async def append(self, data: bytes, *, sequence: int) -> None: ...

    async def get(self, sequence: int) -> bytes | None: ...

    async def end(self) -> int:
        return len(self.records)

    async def trim(self, before: int) -> None: ...


async def test_a_sound_copy_is_read_whole() -> None:
    log = Log(written(9))
    assert await scrub(log, "b", rate=1e9) == ""
    assert log.starts == [1]


@pytest.mark.parametrize("sender", ["", "a"])
async def test_what_another_member_has_sent_says_nothing(sender: str) -> None:
    log = Log(written(9), sender=sender)
    with pytest.raises(LogUnavailable, match="not b"):
        await scrub(log, "b", rate=1e9)
    with pytest.raises(LogUnavailable, match="not b"):
        await scrub(log, "b", rate=1e9, only=3)


async def test_where_there_is_only_one_nobody_else_can_have_sent_it() -> None:
    assert await scrub(Log(written(9), sender="", members=("b",)), "b", rate=1e9) == ""


async def test_what_was_trimmed_meanwhile_is_skipped_and_the_rest_is_read() -> None:
    records = written(12)
    records[10] = b"mangled"
    log = Log(records, trims=[5, 9])
    assert "log record 11" in await scrub(log, "b", rate=1e9)
    assert log.starts == [1, 5, 9]


async def test_what_was_never_read_is_not_sound() -> None:
    log = Log(written(40), trims=list(range(4, 40, 3)))
    with pytest.raises(LogUnavailable, match="trimmed faster"):
        await scrub(log, "b", rate=1e9)
    assert len(log.starts) == SCRUB_TRIES


async def test_a_record_that_is_trimmed_is_not_wrong() -> None:
    log = Log(written(9), first=4)
    assert await scrub(log, "b", rate=1e9, only=3) == ""
    assert log.starts == []
