"""Healing: finding a member of the log service whose copy is rotten, and having it copied anew.

A server that notices rot when it starts counts the messages that it lost as deleted; nothing else deletes
from the middle of a log, so such a count is proof. One that meets rot later just leaves the message out, and
says nothing: only reading through each member finds that (``scrub``). Either way it goes on, looks healthy,
can come to lead, and may hand its holes on to a member that has to catch up. Meanwhile, readers read around
it (``reader.follow``), and say where (``findings``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from memorycluster.log.interface import SNAPSHOTS_STREAM, Log, LogCorrupt, LogTrimmed, LogUnavailable
from memorycluster.log.record import InvalidRecord, Record

logger = logging.getLogger(__name__)

INSPECT_EVERY = 5.0
"""Seconds between inspections."""

SCRUB_EVERY = 900.0
SCRUB_RATE = 10e6
"""Seconds between readings of everything through every member, and bytes per second, so as not to disturb."""

SCRUB_TRIES = 5
"""How often a reading goes on where the log begins by then, as what was to be read has been trimmed."""

LOOK_WITHIN = 10.0
"""Seconds for reading one record from a member that is suspected; it may be away."""

SETTLE_WITHIN = 60.0
"""Seconds for the others to be current while the rotten member is stopped; else it is started as it was."""

LIST = "the list of logs"
"""Stands for a log's name: what the servers keep of which logs there are is replicated likewise."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What one server holds of one log."""

    log: str
    member: str
    leads: bool = False
    current: bool = True
    """It holds all that is committed: its leader says so, and so does the copy itself."""
    lost: int = 0
    """Messages that should be there and are not."""
    first: int = 0
    last: int = 0
    """Sequences of the first and the last message that it has."""
    reaches: frozenset[str] = frozenset()
    """If this server says that it leads: the other servers that are not offline, as it says."""


class Kind(Enum):
    """What to do next."""

    NOTHING = "nothing"
    WAIT = "wait"
    STEP_DOWN = "step down"
    """Have another member lead ``log``."""
    WIPE = "wipe"
    """Have ``member`` copied anew."""
    ALARM = "alarm"
    """Nothing can be done without a human."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next, and why."""

    kind: Kind
    member: str = ""
    log: str = ""
    reason: str = ""


def decide(members: Collection[str], copies: Sequence[Copy]) -> Step:
    """Return the next step towards a log service with no rotten copy.

    A wiped member forgets what it has acknowledged, so none is wiped unless both others hold everything.

    :param members: all servers, also those that don't answer and so have no copy in ``copies``.
    """
    rotten = {copy.member for copy in copies if copy.lost}
    if not rotten:
        return Step(Kind.NOTHING)
    what = "; ".join(sorted(f"{c.member} has lost {c.lost} messages of {c.log}" for c in copies if c.lost))
    if len(members) < 3 or len(rotten) > 1:
        return Step(Kind.ALARM, reason=f"{what}: there are no two sound copies to restore it from")
    (member,) = rotten
    if missing := unsettled([other for other in members if other != member], copies):
        return Step(Kind.WAIT, member, reason=f"{what}: waiting, as {missing}")
    for copy in copies:
        if copy.member == member and copy.leads and copy.log not in (LIST, SNAPSHOTS_STREAM):
            return Step(Kind.STEP_DOWN, member, copy.log, reason=f"{what}: it must not lead {copy.log}")
    return Step(Kind.WIPE, member, reason=what)


def unsettled(members: Collection[str], copies: Sequence[Copy]) -> str:
    """Return why these members do not each hold all of every log, or an empty string if they do."""
    logs = {LIST, *(copy.log for copy in copies)}
    for log in sorted(logs):
        if not any(copy.leads for copy in copies if copy.log == log):
            return f"{log} has no leader"
        held = {copy.member: copy for copy in copies if copy.log == log}
        for member in sorted(members):
            if member not in held:
                return f"{member} does not answer, or has no copy of {log}"
            if not held[member].current:
                return f"{member} is behind in {log}"
    return ""


class Servers(Protocol):
    """Who runs the servers: the local supervisor, or the operator."""

    async def stop(self, member: str) -> None:
        """Stop the server with SIGTERM, so that it hands over what it leads, and return once it has ended."""

    async def wipe(self, member: str) -> None:
        """Delete all that the stopped server has stored."""

    async def start(self, member: str) -> None:
        """Start it again."""


class Inspected(Protocol):
    """The log service, as far as healing needs it; ``LogService`` is one."""

    async def copies(self) -> list[Copy]:
        """Return what each server that answers says that it holds."""

    async def step_down(self, stream: str) -> None:
        """Have the log's leader give way."""

    async def scrub(self, stream: str, member: str, *, rate: float, only: int | None = None) -> str:
        """Read what ``member`` holds of the log, and return what is wrong with it; see ``scrub``."""


class Healer:
    """Watches a log service and heals it, one member at a time."""

    def __init__(self, service: Inspected, members: Collection[str], servers: Servers) -> None:
        """Heal the service of these ``members`` by means of ``servers``."""
        self._service = service
        self._members = frozenset(members)
        self._servers = servers
        self._condemned: dict[str, str] = {}
        self._suspected: dict[tuple[str, str], int] = {}
        self._wanted = asyncio.Event()
        self._last = Step(Kind.NOTHING)
        self.message = ""
        """What is wrong with the log service, for its status; empty if nothing is."""

    async def run(self) -> None:
        """Inspect, scrub and heal, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._every(INSPECT_EVERY, self.step, or_at=self._wanted))
            tasks.create_task(self._every(SCRUB_EVERY, self.scrub, or_at=asyncio.Event()))

    async def _every(
        self, seconds: float, what: Callable[[], Awaitable[object]], *, or_at: asyncio.Event
    ) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await or_at.wait()
            or_at.clear()
            try:
                await what()
            except LogUnavailable as error:
                logger.info("healing: %s", error)

    async def scrub(self) -> None:
        """Read every log through every member, and condemn those that do not have what was written.

        :raises LogUnavailable:
        """
        for log, member in sorted({(copy.log, copy.member) for copy in await self._service.copies()}):
            if log != LIST and (reason := await self._service.scrub(log, member, rate=SCRUB_RATE)):
                self.condemn(member, log, reason)

    def suspect(self, member: str, log: str, sequence: int) -> None:
        """Look soon at what ``member`` holds at ``sequence``: a reader found something wrong there.

        What readers say is not enough to wipe a member: it may be told again after that was healed.
        """
        if member in self._members and member not in self._condemned:
            self._suspected[member, log] = sequence
            self._wanted.set()

    def condemn(self, member: str, log: str, reason: str) -> None:
        """Treat ``member`` as rotten although it does not say so: reading it has shown that."""
        logger.warning("healing: member %s, log %s: %s", member, log, reason)
        self._condemned[member] = log

    async def _look(self) -> None:
        """Look at what is suspected, and condemn who is found to be rotten there."""
        suspected, self._suspected = self._suspected, {}
        for (member, log), sequence in suspected.items():
            reason = ""
            with contextlib.suppress(LogUnavailable, TimeoutError):
                async with asyncio.timeout(LOOK_WITHIN):
                    reason = await self._service.scrub(log, member, rate=SCRUB_RATE, only=sequence)
            if reason:
                self.condemn(member, log, reason)

    async def step(self) -> Step:
        """Inspect once, and do what is next. A member is only wiped if two inspections in a row say so.

        :raises LogUnavailable:
        """
        await self._look()
        copies = await self._service.copies()
        copies += [Copy(log, member, lost=1) for member, log in self._condemned.items()]
        step = decide(self._members, copies)
        if step.reason != self.message and step.reason:
            logger.warning("healing: %s: %s", step.kind.value, step.reason)
        self.message = step.reason
        confirmed, self._last = step == self._last, step
        if step.kind is Kind.STEP_DOWN:
            await self._service.step_down(step.log)
        elif step.kind is Kind.WIPE and confirmed:
            await self._wipe(step.member)
        return step

    async def _wipe(self, member: str) -> None:
        """Wipe ``member`` if the others hold everything once it is stopped: then they go on doing so."""
        self._last = Step(Kind.NOTHING)
        await self._servers.stop(member)
        try:
            if missing := await settle(self._service, self._members - {member}):
                logger.warning("healing: %s is not wiped, as %s", member, missing)
                return
            logger.warning("healing: wiping %s; it is copied anew from the others", member)
            await self._servers.wipe(member)
            self._condemned.pop(member, None)
        finally:
            await self._servers.start(member)
        missing = await settle(self._service, self._members)
        logger.warning(
            "healing: %s is started again%s", member, f"; still {missing}" if missing else ", and current"
        )


async def settle(service: Inspected, members: Collection[str], within: float = SETTLE_WITHIN) -> str:
    """Wait until each of these members holds all of every log.

    :param within: seconds.
    :return: what is missing if that does not come; else empty.
    """
    until = time.monotonic() + within
    while True:
        try:
            missing = unsettled(members, await service.copies())
        except LogUnavailable as error:
            missing = str(error)
        if not missing or time.monotonic() > until:
            return missing
        await asyncio.sleep(0.2)


async def scrub(log: Log, member: str, *, rate: float, only: int | None = None) -> str:
    """Read all that ``member`` holds of a log, at most ``rate`` bytes per second.

    :param only: the one record to read.
    :return: what is wrong with it: a message that is missing, or is not a record; empty if all is right.
    :raises LogUnavailable, LogMissing:
    """
    began, size, first = time.monotonic(), 0, 0
    for _ in range(SCRUB_TRIES):
        health = await log.health()
        others = [other.name for other in health.members if other.name != member]
        first = max(health.first_sequence, 1, first)
        if only is not None and only < first:
            return ""  # It is trimmed.
        entry = None
        try:
            async with aclosing(log.tail((first if only is None else only) - 1, avoid=others)) as entries:
                async for entry in entries:
                    if entry is None or (only is not None and entry.sequence > only):
                        return ""
                    if others and entry.member != member:
                        raise LogUnavailable(
                            f"log record {entry.sequence}: {entry.member or 'nobody knows who'} has sent it, "
                            f"not {member}"
                        )
                    record = Record.decode(entry.data)
                    if record.sequence != entry.sequence:
                        return f"log record {entry.sequence}: says that it is record {record.sequence}"
                    first = entry.sequence + 1
                    size += len(entry.data)
                    if (ahead := size / rate - (time.monotonic() - began)) > 0.1:
                        await asyncio.sleep(ahead)
        except InvalidRecord as error:
            return f"log record {entry.sequence if entry else 0}: {error}"
        except LogCorrupt as error:
            return str(error)
        except LogTrimmed:
            continue  # meanwhile; what was not read is not known to be sound
        return ""
    raise LogUnavailable("it is trimmed faster than it can be read")
