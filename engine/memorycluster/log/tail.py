"""The tail of a log: its messages in order, each from a member that has it, and where the end is."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from typing import Any, Protocol, Self

from memorycluster.log.doubt import MISSING_FOR, SHORTER_FOR, Doubt, Retry
from memorycluster.log.feed import Feed, Hole, Torn
from memorycluster.log.findings import Findings
from memorycluster.log.interface import Entry, LogCorrupt, LogMissing, LogTrimmed, LogUnavailable

CONFIRM_EVERY = 0.25
"""Seconds between questions for the end, while the reader keeps up."""

CONFIRM_WITHIN = 0.5
"""Seconds for which the answer counts."""

STALLED_AFTER = 0.5
"""Seconds without a message, while the leader says that there are more: then the feed is made anew."""

QUORUM_WITHIN = 4.0
"""Seconds: a leader that has not heard of a majority of its members for longer confirms nothing."""

DISTRUST_FOR = 60.0
"""Seconds for which a member that lacked a message is not read from again, if others are there."""


@dataclass(frozen=True, slots=True)
class State:
    """What a log's leader says of it."""

    first: int
    last: int
    led: bool
    """It has heard of a majority lately."""
    members: frozenset[str]

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        """Return the state in a STREAM.INFO ``answer``."""
        cluster = answer.get("cluster", {})
        leader, replicas = cluster.get("leader", ""), cluster.get("replicas", [])
        heard = [r for r in replicas if not r.get("offline") and r.get("active", 0) < QUORUM_WITHIN * 1e9]
        return cls(
            first=answer["state"]["first_seq"],
            last=answer["state"]["last_seq"],
            led=answer["config"]["num_replicas"] == 1 or (bool(leader) and 2 * len(heard) >= len(replicas)),
            members=frozenset([leader, *(replica["name"] for replica in replicas)]),
        )


class Source(Protocol):
    """What a tail reads from."""

    findings: Findings

    async def state(self) -> State:
        """Ask the leader."""

    async def feed(self, start: int, avoid: Collection[str]) -> Feed:
        """Start a feed from sequence ``start`` on a member that is none of ``avoid``."""


class Tail:
    """One reader of a log."""

    def __init__(self, source: Source, after: int, avoid: Collection[str]) -> None:
        self._source = source
        self._last = after
        self._feed: Feed | None = None
        self._lacking = Lacking(avoid)
        self._members: frozenset[str] = frozenset()
        self._missing = Doubt(MISSING_FOR)
        self._shorter = Doubt(SHORTER_FOR)
        self._asked = -CONFIRM_EVERY
        """When the leader was last asked for its end."""
        self._state: State | None = None
        """What it said, until that is used up."""
        self._progress = 0.0
        """When we last got on, or found that there is something to get on to."""

    async def items(self) -> AsyncGenerator[Entry | None, None]:
        """Yield the messages, and None at arrivals at the end; see ``Log.tail``."""
        retry = Retry()
        while True:
            hole = False
            try:
                while self._feed is not None and (entry := self._feed.next(self._last)) is not None:
                    self._last = entry.sequence
                    self._progress = time.monotonic()
                    yield entry
            except Hole:
                hole = True
            except Torn:
                self.close()
            if hole or time.monotonic() - self._asked >= CONFIRM_EVERY:
                await self._ask()
                if not hole:
                    continue  # more may have come meanwhile
            if self._state is not None and self._state.last <= self._last:
                self._state = None
                if time.monotonic() - self._asked < CONFIRM_WITHIN:
                    yield None
                else:
                    self._asked = -CONFIRM_EVERY
                continue
            self._check_feed(hole)
            if self._feed is not None:
                await self._feed.wait(self._asked + CONFIRM_EVERY - time.monotonic())
                continue
            try:
                avoid = self._lacking.avoid(self._last + 1, self._members)
                self._feed = await self._source.feed(self._last + 1, avoid)
            except LogUnavailable:
                await retry.wait()
            else:
                retry = Retry()
                self._progress = time.monotonic()

    def close(self) -> None:
        """End the feed."""
        if self._feed is not None:
            feed, self._feed = self._feed, None
            feed.close()

    async def _ask(self) -> None:
        self._asked = time.monotonic()
        waiting = self._state is not None
        self._state = None
        try:
            state = await self._source.state()
        except LogUnavailable:
            return
        except LogMissing as error:
            self._missing.insists(error)
            return
        self._missing.forget()
        self._members = state.members
        if state.last < self._last:
            # Said by a member that does not know yet that it leads no more; or the log has lost its end.
            gone = f"log record {state.last + 1}: gone; the log ends before it, and went on to {self._last}"
            self._shorter.insists(LogCorrupt(gone))
            return
        self._shorter.forget()
        self._state = state
        if not waiting:
            self._progress = self._asked

    def _check_feed(self, hole: bool) -> None:
        """End a feed that does not get us on, and draw conclusions."""
        state, wanted = self._state, self._last + 1
        if self._feed is not None:
            stalled = state is not None and time.monotonic() - self._progress > STALLED_AFTER
            if hole or (stalled and state is not None and wanted < state.first):
                self._lacking.add(self._feed.member, wanted)
                if state is None or wanted >= state.first:
                    missing = f"log record {wanted}: missing"
                    self._source.findings.add(self._feed.member, wanted, missing)
            if hole or stalled or self._feed.silent:
                self.close()
        if state is not None:
            self._lacking.judge(wanted, state)


class Lacking:
    """Members that lack a message: not to be read from, for a while only, as they may be healed."""

    def __init__(self, never: Collection[str]) -> None:
        """Note that members ``never`` must not be read from at all."""
        self._never = frozenset(never)
        self._found: dict[str, tuple[int, float]] = {}

    def add(self, member: str, sequence: int) -> None:
        """Note that ``member`` lacks message ``sequence``."""
        self._found[member] = sequence, time.monotonic()

    def avoid(self, sequence: int, members: frozenset[str]) -> frozenset[str]:
        """Return which of ``members`` not to read from: all that lacked any message, if others are left."""
        since = time.monotonic() - DISTRUST_FOR
        recent = self._never.union(member for member, (_, found) in self._found.items() if found > since)
        return recent if not recent.issuperset(members) else self._lacking(sequence)

    def judge(self, sequence: int, state: State) -> None:
        """Raise what must be concluded, if anything, from which members lack message ``sequence``."""
        lacking = self._lacking(sequence) & state.members
        if sequence < state.first and len(lacking) > len(state.members) // 2:
            raise LogTrimmed(f"log record {sequence}: trimmed; the first one is {state.first}")
        if lacking == state.members:
            asked = ", ".join(sorted(lacking - self._never))
            raise LogCorrupt(
                f"log record {sequence}: missing on every member that was asked ({asked or 'none'})"
            )

    def _lacking(self, sequence: int) -> frozenset[str]:
        return self._never.union(member for member, (lacked, _) in self._found.items() if lacked == sequence)
