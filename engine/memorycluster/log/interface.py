"""The interface of a shard's log. Every implementation passes the contract suite in tests/log/contract.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from memorycluster.log.findings import Findings

SNAPSHOTS_STREAM = "OBJ_snapshots"
"""Name of what is no log, in a log service that keeps its cluster's snapshots too."""


class LogError(Exception):
    """Base of what can go wrong with a log."""


class LogUnavailable(LogError):
    """The log does not answer, or has no quorum. Nothing is known to be lost; try again."""


class LogConflict(LogError):
    """Another record stands where this one was to go: the append is refused, for good."""


class LogFull(LogError):
    """The log has reached its size limit: the append is refused, nothing was written."""


class LogMissing(LogError):
    """There is no such log. A log that existed must never be made anew in its place."""


class LogTrimmed(LogError):
    """The message is below the trim point: it was there, and a snapshot holds what it said."""


class LogCorrupt(LogError):
    """The log holds what no correct writer can have written, or lacks what it must hold.

    Serve nothing from there on. The message names the sequence and the reason.
    """


class Entry(NamedTuple):
    """A message of the log."""

    sequence: int
    data: bytes
    member: str = ""
    """Name of the log's member that it was read from."""
    time: datetime | None = None
    """When the log took it, by its leader's clock (clocks of two leaders may differ); None: not known."""


@dataclass(frozen=True, slots=True)
class Member:
    """One server of the log service, as seen from its leader."""

    name: str
    zone: str
    current: bool
    """Holds all that is committed, but perhaps what was committed just now."""
    leader: bool
    lag: int = 0
    """Messages that it has yet to apply."""


@dataclass(frozen=True, slots=True)
class LogHealth:
    """What an operator wants to know of a log."""

    first_sequence: int
    last_sequence: int
    bytes: int
    """Size on each member."""
    max_bytes: int
    """Limit at which appends are refused."""
    members: tuple[Member, ...] = field(default=())

    @property
    def quorum(self) -> bool:
        """A majority of the members is current."""
        return sum(member.current for member in self.members) > len(self.members) // 2


class Log(Protocol):
    """One shard's log: contiguous messages from sequence 1, replicated and fsynced before they count."""

    trouble: str
    """Why the append in flight is still undecided; empty if it goes well."""
    findings: Findings
    """What reading has shown to be wrong with single members' copies."""

    async def append(self, data: bytes, *, sequence: int) -> None:
        """Append ``data`` as message ``sequence``; return once a majority has it on disk.

        The condition is that the log's last sequence is ``sequence - 1``. An answer that leaves the outcome
        open (timeout, lost connection, no quorum) is retried unchanged until it is decided, for as long as
        that takes, so cancel the call to give up: the message may then still be appended. A retry that
        finds these very bytes at ``sequence`` has succeeded; callers therefore make ``data`` unique.
        One append at a time.

        :raises LogConflict: another message is there, or the log is shorter than the caller thinks.
        :raises LogFull: the size limit is reached.
        :raises LogMissing: there is no such log.
        """

    def tail(self, after: int, *, avoid: Collection[str] = ()) -> AsyncGenerator[Entry | None, None]:
        """Yield the messages after sequence ``after``, in order, forever; ``None`` at arrivals at the end.

        ``None`` means: the log's leader, with a majority behind it, was asked for its end less than half a
        second ago, and all that it had then has been yielded. So it also tells that the log is readable;
        while it is, and the reader keeps up, ``None`` comes about every 0.25 s. It is no proof against a
        leader that is being deposed at this moment: only an append proves where the end is.

        Survives elections and lost connections by reading on from where it was. While the log can't be read,
        nothing is yielded.

        :param avoid: members never to read from, because what they held was rotten (``Entry.member``).
        :raises LogTrimmed: message ``after + 1`` has been trimmed.
        :raises LogMissing: there is no such log.
        :raises LogCorrupt: a message that must be there is not, on every member but those to avoid.
        """

    async def get(self, sequence: int) -> bytes | None:
        """Return message ``sequence`` as the log's leader has it, or None if it is beyond the end.

        :raises LogUnavailable: the log does not answer within a few seconds.
        :raises LogTrimmed, LogMissing, LogCorrupt: as for ``tail``.
        """

    async def end(self) -> int:
        """Return the last sequence, as the log's leader knows it (0: the log is empty)."""

    async def trim(self, before: int) -> None:
        """Delete the messages below sequence ``before``, at most all.

        :raises LogConflict: the log ends before ``before - 1``.
        """

    async def health(self) -> LogHealth:
        """Return sizes, limits and members. Raises LogUnavailable, LogMissing."""
