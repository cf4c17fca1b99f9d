"""The log services of all clusters: what they say, and what they are asked to do.

Asked when something about their pods changes, every few seconds while something is not as it should be, and
rarely at rest.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self
from uuid import UUID

from memorycluster.log.healing import Copy, Kind, decide
from memorycluster.log.interface import LogError, LogMissing, LogUnavailable
from memorycluster.log.server import Server
from memorycluster.log.service import LogService, LogUnfit
from memorycluster_operator.cache import ClusterKey
from memorycluster_operator.objects.log import LOG_USER, PORTS
from memorycluster_operator.snapshot import LogMember, LogReport, LogState, ShardLog

logger = logging.getLogger(__name__)

AT_REST = 300.0
"""Seconds between looks at a log with which all is well."""
IN_TROUBLE = 5.0
"""The same while something is not."""
VERIFIED_FOR = 900.0
"""Seconds until a log that was found to be the right one is checked again."""
REFRESH_WITHIN = 20.0
"""Seconds for one look."""
SCRUB_EVERY = 24 * 3600.0
"""Seconds between readings of everything that a log service holds, through each of its members."""
SCRUB_RATE = 10e6
"""Bytes per second of that; one log service at a time."""
URGENT_RATE = 50e6
"""The same when one copy is known to be rotten: it is made anew once the others are known to be sound."""
READ_FOR = 3 * 3600.0
"""Seconds for which the others count as sound after a reading: what has rotted since, nobody has seen."""
SCRUB_PAUSE = 30.0
"""Seconds between two log services."""
LOOK_WITHIN = 8.0
"""Seconds for reading one record that a reader has found to be wrong."""
END_WITHIN = 3.0
"""Seconds for the connections to end."""
AT_ONCE = 8
"""Logs of one cluster that are asked at the same time."""


@dataclass(frozen=True, slots=True)
class Member:
    """A server of a log service."""

    name: str
    host: str
    zone: str = ""
    pod_uid: str = ""
    state: str = ""
    """Of its pod: whatever changes when it is worth a look."""


@dataclass(frozen=True, slots=True)
class Target:
    """A log service, and the logs that it should have."""

    members: tuple[Member, ...]
    password: str
    streams: tuple[tuple[str, UUID], ...] = ()
    """By shard: the log's name and its generation. None: not settled yet."""

    @property
    def servers(self) -> tuple[Server, ...]:
        """How to reach them."""
        return tuple(
            Server(m.name, m.zone, m.host, PORTS["clients"], PORTS["routes"], PORTS["monitor"])
            for m in self.members
        )


class _Watch:
    """One cluster's log service."""

    def __init__(self, target: Target, news: Callable[[], None], urgent: asyncio.Event) -> None:
        self.target = target
        self.urgent = urgent
        """Set when all that the log service holds is to be read at once."""
        self._news = news
        self.service = LogService(target.servers, user=LOG_USER, password=target.password)
        self.report = LogReport()
        self.asked = asyncio.Event()
        """Set once it has answered, or has not."""
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.scrubbed = time.monotonic()
        """When the last scrub began."""
        self._read = self.scrubbed
        """When it ended."""
        self.retry_at = 0.0
        """Monotonic time before which it is not scrubbed: others first."""
        self._condemned: dict[str, str] = {}
        """Members that reading found to be rotten, and the log of which it was."""
        self._suspected: dict[tuple[str, str], int] = {}
        """Records that a reader found to be wrong, by log and member."""
        self._trouble_since: float | None = None
        """Monotonic time at which a copy was first known to be rotten, or was made anew."""
        self._times = 0
        """How often something was changed: what was asked before may be no longer so."""
        self._verified: dict[tuple[str, UUID], float] = {}

    async def look(self) -> LogReport:
        """Ask now. Raises TimeoutError, OSError."""
        service, target, times = self.service, self.target, self._times
        async with asyncio.timeout(REFRESH_WITHIN):
            servers = await service.unfit()
            if target.streams and not all(servers.values()):
                limit = asyncio.Semaphore(AT_ONCE)

                async def one(shard: int, stream: str, generation: UUID) -> ShardLog:
                    async with limit:
                        return await self._shard(service, shard, stream, generation)

                shards = await asyncio.gather(*(one(i, *each) for i, each in enumerate(target.streams)))
            else:
                why = "; ".join(f"{name}: {trouble}" for name, trouble in servers.items() if trouble)
                shards = [
                    ShardLog(shard, LogState.UNKNOWN, why or "not asked yet")
                    for shard in range(len(target.streams))
                ]
            report = await self._copies(service, target) if target.streams else LogReport()
        report = replace(report, servers=servers, shards=tuple(shards))
        if (target.members, target.streams) == (self.target.members, self.target.streams):
            news = not self.asked.is_set() or _weight(report) != _weight(self.report)
            self.report = report
            if times == self._times:
                self.asked.set()
            if news:
                self._news()
        return report

    def look_again(self) -> None:
        """Look anew before anybody relies on the last report: once, however many logs have just been made."""
        self._times += 1
        self.asked.clear()
        self.changed.set()

    async def _shard(self, service: LogService, shard: int, stream: str, generation: UUID) -> ShardLog:
        try:
            health = await service.health(stream)
            if health.last_sequence == 0:
                # Its first record is missing: whoever made it has died over it. Making it again completes it.
                return ShardLog(shard, LogState.MISSING, f"log {stream}: is empty, and was never used")
            if time.monotonic() - self._verified.get((stream, generation), -VERIFIED_FOR) >= VERIFIED_FOR:
                await service.verify(stream, generation)
                self._verified[(stream, generation)] = time.monotonic()
        except LogMissing as error:
            return ShardLog(shard, LogState.MISSING, str(error))
        except LogUnfit as error:
            return ShardLog(shard, LogState.UNFIT, str(error))
        except LogError as error:
            return ShardLog(shard, LogState.UNKNOWN, str(error) or "the log service does not answer")
        return ShardLog(
            shard,
            LogState.INTACT,
            first_sequence=health.first_sequence,
            last_sequence=health.last_sequence,
            bytes=health.bytes,
            max_bytes=health.max_bytes,
            members=tuple(LogMember(m.name, m.current, m.leader, m.lag) for m in health.members),
        )

    async def _copies(self, service: LogService, target: Target) -> LogReport:
        """Return what is to be said of the members' copies."""
        last = self.report
        unknown = LogReport({}, (), last.trouble)
        await self._look_at_suspected(service)
        try:
            copies = await service.copies()
        except LogUnavailable:
            return unknown
        copies += [Copy(log, member, lost=1) for member, log in self._condemned.items()]
        step = decide([member.name for member in target.members], copies)
        if step.kind is Kind.NOTHING:
            self._trouble_since = None
            return LogReport({}, (), "")
        if self._trouble_since is None:
            self._trouble_since = time.monotonic()
        if not self.read_since_trouble:
            self.urgent.set()
        if step.kind is not Kind.WIPE:
            shards = [i for i, (stream, _) in enumerate(target.streams) if stream == step.log]
            led = tuple(shards) if step.kind is Kind.STEP_DOWN else ()
            return LogReport({}, (), step.reason, led_by_rotten=led)
        if not self.read_since_trouble:
            return LogReport(
                {},
                (),
                f"{step.reason}; all copies are read first, as soon as each is "
                "current, to know that the others are sound",
            )
        return LogReport({}, (), step.reason, rotten=step.member)

    async def _look_at_suspected(self, service: LogService) -> None:
        """Read what readers found to be wrong, and condemn who is: it may have been healed since."""
        if self._suspected:  # one at a time: a look takes not for ever
            (stream, member), sequence = self._suspected.popitem()
            with suppress(LogError, TimeoutError):
                async with asyncio.timeout(LOOK_WITHIN):
                    if trouble := await service.scrub(stream, member, rate=URGENT_RATE, only=sequence):
                        logger.warning("log %s: member %s: %s", stream, member, trouble)
                        self._condemned[member] = stream

    def suspect(self, stream: str, member: str, sequence: int) -> None:
        """Look soon at a record that a reader found to be wrong in one member's copy."""
        ours = any(stream == each for each, _ in self.target.streams)
        if (
            ours
            and any(member == each.name for each in self.target.members)
            and member not in self._condemned
        ):
            self._suspected[stream, member] = sequence
            self.changed.set()

    @property
    def read_since_trouble(self) -> bool:
        """All copies have been read since one was found to be rotten, and not long ago."""
        if self._trouble_since is None:
            return True
        return self.scrubbed > self._trouble_since and time.monotonic() - self._read < READ_FOR

    async def scrub(self) -> None:
        """Read everything through each member, and remember those that do not have what was written.

        :raises LogError:
        """
        service, target = self.service, self.target
        condemned, began = {}, time.monotonic()
        rate = SCRUB_RATE if self.read_since_trouble else URGENT_RATE
        for stream, _ in target.streams:
            for member in target.members:
                if trouble := await service.scrub(stream, member.name, rate=rate):
                    logger.warning("log %s: member %s: %s", stream, member.name, trouble)
                    condemned[member.name] = stream
        if service is self.service and _held(target) == _held(self.target):
            self._condemned, self.scrubbed, self._read = condemned, began, time.monotonic()
            self.changed.set()

    def retarget(self, target: Target) -> Coroutine[None, None, None] | None:
        """Look at ``target`` from now on; return what closes the old connection, if there is a new one."""
        old, self.target = self.target, target
        self.changed.set()
        before = {member.name: member.pod_uid for member in old.members}
        replaced = [member.name for member in target.members if before.get(member.name) != member.pod_uid]
        if replaced:
            # What was said of another pod's copy is no word about this one's.
            self.report = LogReport()
            self.asked.clear()
            if self._trouble_since is not None or self._condemned.keys() & set(replaced):
                # It may have been made anew, or brought back: reading it shows. A volume is only ever
                # replaced along with its pod.
                self._trouble_since = time.monotonic()
                self.urgent.set()
        if (old.servers, old.password) == (target.servers, target.password):
            return None
        service, self.service = (
            self.service,
            LogService(target.servers, user=LOG_USER, password=target.password),
        )
        return service.close()

    @property
    def well(self) -> bool:
        """All is as it should be."""
        return self.whole and not self.report.trouble

    @property
    def whole(self) -> bool:
        """Every member answers, and has everything, as far as it knows."""
        report = self.report
        return (
            self.asked.is_set()
            and not any(report.servers.values())
            and len(report.shards) == len(self.target.streams) > 0
            and all(_well(each, len(self.target.members)) for each in report.shards)
        )


class Logs:
    """All log services."""

    def __init__(self, wake: Callable[[ClusterKey], None]) -> None:
        """Prepare to ask.

        :param wake: called when the log service of a cluster says something new.
        """
        self._wake = wake
        self._watches: dict[ClusterKey, _Watch] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._scrubbing: asyncio.Task[None] | None = None
        self._urgent = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._scrubbing = asyncio.create_task(self._scrub(), name="scrub")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._scrubbing is not None:
            self._scrubbing.cancel()
        for cluster in list(self._watches):
            self.watch(cluster, None)
        if self._closing:
            await asyncio.wait(self._closing, timeout=END_WITHIN)

    def watch(self, cluster: ClusterKey, target: Target | None) -> None:
        """Look after ``target`` as the cluster's log service from now on; None: not at all."""
        watch = self._watches.get(cluster)
        if target is None:
            if watch is not None:
                del self._watches[cluster]
                self._in_background(self._end(watch))
        elif watch is None:
            self._watches[cluster] = watch = _Watch(target, partial(self._wake, cluster), self._urgent)
            watch.task = asyncio.create_task(self._follow(cluster, watch), name=f"log of {cluster}")
        elif watch.target != target and (closing := watch.retarget(target)):
            self._in_background(closing)

    def report(self, cluster: ClusterKey) -> LogReport:
        """Return what a cluster's log service said last."""
        watch = self._watches.get(cluster)
        return watch.report if watch else LogReport()

    async def asked(self, cluster: ClusterKey) -> None:
        """Return once a cluster's log service has been asked at least once."""
        if watch := self._watches.get(cluster):
            await watch.asked.wait()

    async def ask(self, cluster: ClusterKey) -> LogReport:
        """Ask a cluster's log service now."""
        watch = self._watches.get(cluster)
        if watch is None:
            return LogReport()
        try:
            return await watch.look()
        except (TimeoutError, OSError):
            return replace(
                watch.report,
                shards=tuple(
                    ShardLog(each, LogState.UNKNOWN, "no answer in time")
                    for each in range(len(watch.target.streams))
                ),
            )

    async def create(
        self, cluster: ClusterKey, shard: int, generation: UUID, *, max_bytes: int, seed: bytes = b""
    ) -> None:
        """Make a shard's log. Raises LogError."""
        watch, stream = self._stream(cluster, shard, generation)
        await watch.service.create(stream, generation, max_bytes=max_bytes, seed=seed)
        watch.look_again()

    async def step_down(self, cluster: ClusterKey, shard: int) -> None:
        """Have another member lead a shard's log. Raises LogError."""
        watch, stream = self._stream(cluster, shard)
        await watch.service.step_down(stream)

    def suspect(self, cluster: ClusterKey, stream: str, member: str, sequence: int) -> None:
        """Look soon at a record that a reader found to be wrong in one member's copy."""
        if watch := self._watches.get(cluster):
            watch.suspect(stream, member, sequence)

    async def grow(self, cluster: ClusterKey, shard: int, *, max_bytes: int) -> None:
        """Raise the limit of a shard's log. Raises LogError."""
        watch, stream = self._stream(cluster, shard)
        await watch.service.grow(stream, max_bytes)
        watch.look_again()

    def _stream(self, cluster: ClusterKey, shard: int, generation: UUID | None = None) -> tuple[_Watch, str]:
        watch = self._watches.get(cluster)
        if watch is None or shard >= len(watch.target.streams):
            raise LogUnavailable("the log service is not known yet")
        stream, known = watch.target.streams[shard]
        if generation not in (None, known):
            raise LogUnavailable(f"log {stream}: its generation is {known} by now, not {generation}")
        return watch, stream

    async def _follow(self, cluster: ClusterKey, watch: _Watch) -> None:
        while True:
            watch.changed.clear()
            try:
                await watch.look()
            except (TimeoutError, OSError) as error:
                logger.info("%s: the log service does not answer: %s", cluster, error or "in time")
            if not watch.changed.is_set():
                watch.asked.set()
            try:
                async with asyncio.timeout(
                    (AT_REST if watch.well else IN_TROUBLE) * random.uniform(0.8, 1.2)
                ):
                    await watch.changed.wait()
                await asyncio.sleep(0.2)  # what changes a pod changes it several times
            except TimeoutError:
                pass

    async def _scrub(self) -> None:
        """Scrub one log service after another, for ever: first where a copy is rotten, then the one that has
        waited longest."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SCRUB_PAUSE):
                    await self._urgent.wait()
            self._urgent.clear()
            now = time.monotonic()
            due = [
                (watch.read_since_trouble, watch.scrubbed, cluster)
                for cluster, watch in self._watches.items()
                if watch.whole
                and watch.retry_at <= now
                and (not watch.read_since_trouble or now - watch.scrubbed > SCRUB_EVERY)
            ]
            if not due:
                continue
            _, _, cluster = min(due)
            watch = self._watches[cluster]
            try:
                await watch.scrub()
            except (LogError, OSError) as error:
                logger.info("%s: the log can't be scrubbed now: %s", cluster, error)
                watch.retry_at = time.monotonic() + SCRUB_PAUSE * (10 if watch.read_since_trouble else 1)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _end(self, watch: _Watch) -> None:
        if watch.task:
            watch.task.cancel()
            await asyncio.gather(watch.task, return_exceptions=True)
        await watch.service.close()


def _held(target: Target) -> tuple[object, ...]:
    """Return whose copies of which logs these are."""
    return target.streams, tuple((member.name, member.pod_uid) for member in target.members)


def _well(log: ShardLog, members: int) -> bool:
    return (
        log.state is LogState.INTACT and len(log.members) == members and all(m.current for m in log.members)
    )


def _weight(report: LogReport) -> tuple[object, ...]:
    """Return what of a report is worth a look: not sequences and sizes, which always move."""
    shards = tuple(
        (each.state, each.message, each.max_bytes, tuple((m.name, m.current, m.leader) for m in each.members))
        for each in report.shards
    )
    return tuple(report.servers.items()), shards, report.trouble, report.rotten, report.led_by_rotten
