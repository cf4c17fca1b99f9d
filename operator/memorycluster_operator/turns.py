"""Whose turn it is to be made: a few clusters at once, the oldest first.

All side by side, hundreds of new clusters would keep each other, and the API server, so busy that none is
ready before nearly all are. A turn is one pass of a cluster that has never served. It ends with the pass, or
when it has been held for long: then whoever it is waits for somebody else, and keeps nobody from going on. A
cluster that serves, or has served, needs none: it never waits for those that are being made.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from memorycluster_operator.cache import ClusterKey
from memorycluster_operator.snapshot import Manifest

AT_ONCE = 8
"""Turns at the same time."""

HELD_FOR = 5.0
"""Seconds for which a turn keeps others waiting."""

FAIR = 4
"""Each time so many turns were given, one goes to who has waited longest: so everybody's comes, whatever the
oldest ones are up to."""


def needs_turn(obj: Manifest) -> bool:
    """Whether the MemoryCluster is being made: it has never been Ready, and is not being deleted."""
    phase = (obj.get("status") or {}).get("phase", "Pending")
    return phase == "Pending" and "deletionTimestamp" not in obj["metadata"]


class Line:
    """Who waits. Pure."""

    def __init__(self) -> None:
        self._waiting: dict[ClusterKey, str] = {}
        """Since when they are there, those that have waited longest first."""
        self._given = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, key: ClusterKey, created: str) -> None:
        """Wait from now on.

        :param created: when the cluster was, as the API server says it.
        """
        self._waiting[key] = created

    def leave(self, key: ClusterKey) -> None:
        """Wait no longer."""
        self._waiting.pop(key, None)

    def next(self) -> ClusterKey | None:
        """Return whose turn it is, who waits no longer; None: nobody waits."""
        if not self._waiting:
            return None
        self._given += 1
        if self._given % FAIR == 0:
            key = next(iter(self._waiting))
        else:
            key = min(self._waiting, key=lambda each: (self._waiting[each], each))
        self.leave(key)
        return key


class Turns:
    """The turns of all clusters."""

    def __init__(self, at_once: int = AT_ONCE, held_for: float = HELD_FOR) -> None:
        self._line = Line()
        self._asked: dict[ClusterKey, Turn] = {}
        self._free = at_once
        self._held_for = held_for

    def ask(self, key: ClusterKey, created: str) -> Turn:
        """Ask for a turn: a context, at whose end it is over. One at a time for each cluster."""
        turn = Turn(self, key)
        self._line.join(key, created)
        self._asked[key] = turn
        self._give()
        return turn

    def _give(self) -> None:
        while self._free and (key := self._line.next()):
            self._free -= 1
            self._asked.pop(key).begin(self._held_for)

    def over(self, turn: Turn, *, begun: bool) -> None:
        """A turn is over, or is not wanted any more."""
        if begun:
            self._free += 1
        elif self._asked.get(turn.key) is turn:
            del self._asked[turn.key]
            self._line.leave(turn.key)
        self._give()


class Turn:
    """A cluster's turn: it comes, and ends."""

    def __init__(self, turns: Turns, key: ClusterKey) -> None:
        self.key = key
        self._turns = turns
        self._begun = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def comes(self, within: float) -> bool:
        """Wait for it; return whether it has come."""
        try:
            async with asyncio.timeout(within):
                await self._begun.wait()
        except TimeoutError:
            return False
        return True

    def begin(self, held_for: float) -> None:
        """It has come."""
        self._begun.set()
        self._timer = asyncio.get_running_loop().call_later(held_for, self._end)

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._turns.over(self, begun=self._begun.is_set())
