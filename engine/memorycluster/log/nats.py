"""A shard's log as a NATS JetStream stream. The reasons of its rules: docs/architecture.md."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from fastcrc import crc64
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from memorycluster.log.interface import (
    Entry,
    LogConflict,
    LogCorrupt,
    LogFull,
    LogHealth,
    LogMissing,
    LogTrimmed,
    LogUnavailable,
    Member,
)
from memorycluster.log.wire import ANSWER_WITHIN, API, Link, Wire

T = TypeVar("T")

RETRY_FIRST = 0.02
RETRY_LAST = 0.25
"""Seconds between tries of an undecided append or question: doubled from first to last, with jitter."""

PATIENCE = 3.0
"""Seconds for which ``get``, ``end``, ``trim`` and ``health`` try before they say LogUnavailable."""

SHORTER_FOR = 15.0
"""Seconds for which the log must insist that it ends before what we know of.

A member that was stopped, or cut off, may believe for up to 10 s after it wakes that it still leads.
"""

MISSING_FOR = 2.0
"""Seconds for which the log service must insist that there is no such log."""

CONFIRM_EVERY = 0.25
"""Seconds between confirmations of the end, while a reader is there."""

STALLED_AFTER = 0.5
"""Seconds without a message, while the leader says that there are more: then the feed is made anew."""

HEARTBEAT = 1.0
SILENT_AFTER = 2.5
"""Seconds between heartbeats of a feed, and without one: then likewise."""

PLACEMENT_TRIES = 12
"""The log service puts a feed on any member; so many are made to get one on a member that we want."""

QUORUM_WITHIN = 4.0
"""Seconds: a leader that has not heard of a majority of its members for longer confirms nothing."""

DISTRUST_FOR = 60.0
"""Seconds for which a member that lacked a message is not read from again."""


class Code:
    """Error codes of the JetStream API that decide something."""

    NO_MESSAGE = 10037
    NO_CONSUMER_QUORUM = 10018
    TOO_LARGE = 10054
    NO_STREAM = 10059
    WRONG_LAST_SEQUENCE = (10071, 10164)
    STORE_FAILED = 10077
    STORE_FULL = "maximum bytes exceeded"
    """Text by which this STORE_FAILED is told from the others."""


def subject_of(stream: str) -> str:
    """Return the subject on which a log's stream takes messages."""
    return f"log.{stream}"


class NatsLog:
    """A ``memorycluster.log.interface.Log``, which says what the methods promise."""

    def __init__(self, servers: Sequence[str], stream: str, *, user: str, password: str) -> None:
        """Prepare to use the log ``stream`` on ``servers`` (``nats://host:port``, the nearest first)."""
        self._link = Link(servers, user=user, password=password, name=f"log {stream}")
        self._stream = stream
        self._subject = subject_of(stream)
        self._appending = False
        self.trouble = ""
        """Why the append in flight is still undecided; empty if it goes well."""

    @classmethod
    async def connect(cls, servers: Sequence[str], stream: str, *, user: str, password: str) -> Self:
        """Open the log ``stream`` on ``servers``; does not fail if none of them can be reached now."""
        log = cls(servers, stream, user=user, password=password)
        with contextlib.suppress(LogUnavailable):
            await log._link.wire()
        return log

    async def close(self) -> None:
        """End the connection. A tail or an append still under way is the caller's to cancel, before."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Appending

    async def append(self, data: bytes, *, sequence: int) -> None:
        """Append message ``sequence``."""
        if self._appending:
            raise RuntimeError("one append at a time")
        self._appending = True
        try:
            await self._append(data, sequence)
        finally:
            self._appending = False
            self.trouble = ""

    async def _append(self, data: bytes, sequence: int) -> None:
        headers = {
            "Nats-Expected-Last-Sequence": str(sequence - 1),
            "Nats-Msg-Id": f"{sequence}-{len(data)}-{crc64.xz(data):016x}",
        }
        retry = _Retry()
        undecided = False  # an earlier try of this append may still come to stand in the log
        shorter = _Doubt(SHORTER_FOR)
        missing = _Doubt(MISSING_FOR)
        while True:
            try:
                wire = await self._link.wire()
                answer = json.loads(
                    (await wire.request(self._subject, data, headers=headers, within=ANSWER_WITHIN)).data
                )
                error = answer.get("error")
                if error is None:
                    if answer["seq"] != sequence or answer["stream"] != self._stream:
                        raise LogCorrupt(f"log record {sequence}: acknowledged as {answer}")
                    if not answer.get("duplicate") or await self._get(sequence) == data:
                        return
                    raise LogConflict(f"log record {sequence}: another one has the same id")
                code, text = error.get("err_code"), error.get("description")
                if code in Code.WRONG_LAST_SEQUENCE:
                    there = await self._get(sequence)
                    if there == data:
                        return
                    if there is not None:
                        raise LogConflict(f"log record {sequence}: another one is there")
                    shorter.insists(
                        LogConflict(f"log record {sequence}: the log ends before {sequence - 1}: {text}")
                    )
                elif code == Code.TOO_LARGE:
                    raise ValueError(f"log record {sequence}: {len(data)} bytes: {text}")
                elif code == Code.STORE_FAILED and text == Code.STORE_FULL and not undecided:
                    raise LogFull(f"log record {sequence}: {text}")
                raise LogUnavailable(f"log record {sequence}: {text}")
            except LogUnavailable as error:
                self.trouble = str(error)
            except LogMissing as error:
                missing.insists(error)
            undecided = True
            await retry.wait()
            if retry.tries % 8 == 0:  # nobody answers: because there is no such log?
                try:
                    await self._state()
                except LogMissing as error:
                    missing.insists(error)
                except LogUnavailable:
                    pass

    # Reading

    async def get(self, sequence: int) -> bytes | None:
        """Return message ``sequence``, or None if it is beyond the end."""
        return await self._patiently(lambda: self._get(sequence))

    async def end(self) -> int:
        """Return the last sequence."""
        return (await self._patiently(self._state)).last

    async def tail(self, after: int, *, avoid: Collection[str] = ()) -> AsyncGenerator[Entry | None, None]:
        """Yield the messages after sequence ``after``, forever; ``None`` at arrivals at the end."""
        last = after
        asked = -CONFIRM_EVERY  # when the leader was asked for its end
        state: _State | None = None  # what it said, until all of that has been yielded
        behind = 0.0  # since when we have waited for what the leader says it has
        lacking = _Lacking(avoid)
        missing = _Doubt(MISSING_FOR)
        retry = _Retry()
        feed: _Feed | None = None
        try:
            while True:
                hole = False
                try:
                    while feed is not None and (entry := await feed.next(last)) is not None:
                        last = entry.sequence
                        behind = time.monotonic()
                        yield entry
                except _Hole:
                    hole = True
                except _Torn:
                    await feed.close()  # type: ignore[union-attr]
                    feed = None
                now = time.monotonic()
                if hole or now - asked >= CONFIRM_EVERY:
                    asked, known = now, state is not None and state.last > last
                    try:
                        state = await self._state()
                    except LogUnavailable:
                        state = None
                    except LogMissing as error:
                        missing.insists(error)
                        state = None
                    else:
                        missing.forget()
                    if state is not None and state.last < last:
                        state = None  # of a member that doesn't know yet that it leads no more
                    if not known:
                        behind = now
                    if not hole:
                        continue  # entries may have come meanwhile
                if state is not None and state.last <= last:
                    fresh = now - asked < 2 * CONFIRM_EVERY
                    state = None
                    if fresh:
                        yield None
                    else:
                        asked = -CONFIRM_EVERY
                    continue
                if feed is not None:
                    stalled = state is not None and now - behind > STALLED_AFTER
                    if hole or (stalled and state is not None and last + 1 < state.first):
                        lacking.add(feed.member)
                        if state is not None:
                            lacking.judge(last + 1, state)
                    if hole or stalled or feed.silent:
                        await feed.close()
                        feed = None
                if feed is None:
                    try:
                        feed = await self._feed(last + 1, lacking.members)
                    except LogUnavailable:
                        await retry.wait()
                    else:
                        retry = _Retry()
                        behind = time.monotonic()
                    continue
                await feed.wait(asked + CONFIRM_EVERY - time.monotonic())
        finally:
            if feed is not None:
                await feed.close()

    async def _get(self, sequence: int) -> bytes | None:
        for _ in range(2):  # it may come to be there between the two questions
            answer = await self._link.ask(f"STREAM.MSG.GET.{self._stream}", {"seq": sequence})
            error = answer.get("error")
            if error is None:
                return base64.b64decode(answer["message"].get("data", ""))
            if error.get("err_code") != Code.NO_MESSAGE:
                raise self._failure(error)
            state = await self._state()
            if sequence > state.last:
                return None
        # The leader lacks it. The other members may have it, or it has been trimmed.
        async with contextlib.aclosing(self.tail(sequence - 1)) as entries:
            async for entry in entries:
                if entry is not None:
                    return entry.data
        raise AssertionError("a tail never ends")

    async def _state(self) -> _State:
        answer = await self._link.ask(f"STREAM.INFO.{self._stream}")
        if "error" in answer:
            raise self._failure(answer["error"])
        state = _State.of(answer)
        if not state.led:
            raise LogUnavailable(f"log {self._stream}: no member leads with a majority behind it")
        return state

    async def _feed(self, start: int, avoid: Collection[str]) -> _Feed:
        wire = await self._link.wire()
        for _ in range(PLACEMENT_TRIES):
            feed = await _Feed.open(wire, self._stream)
            try:
                request = {"stream_name": self._stream, "config": feed.config(start)}
                answer = await wire.ask(f"CONSUMER.CREATE.{self._stream}.{feed.name}", request)
                if "error" in answer:
                    raise self._failure(answer["error"])
                feed.member = answer.get("cluster", {}).get("leader", "")
                if feed.member not in avoid:
                    return feed
            except BaseException:
                await feed.close()
                raise
            await feed.close()
        raise LogUnavailable(f"log {self._stream}: no member to read from but {', '.join(avoid)}")

    # Admin

    async def trim(self, before: int) -> None:
        """Delete the messages below sequence ``before``."""
        await self._patiently(lambda: self._trim(before))

    async def _trim(self, before: int) -> None:
        answer = await self._link.ask(f"STREAM.PURGE.{self._stream}", {"seq": before})
        if "error" in answer:
            raise self._failure(answer["error"])

    async def health(self) -> LogHealth:
        """Return sizes, limits and members, with no zones: ``LogService.health`` knows them."""
        answer = await self._patiently(lambda: self._link.ask(f"STREAM.INFO.{self._stream}"))
        if "error" in answer:
            raise self._failure(answer["error"])
        return health_of(answer)

    # Questions

    def _failure(self, error: dict[str, Any]) -> LogMissing | LogUnavailable:
        text = f"log {self._stream}: {error.get('description')}"
        return LogMissing(text) if error.get("err_code") == Code.NO_STREAM else LogUnavailable(text)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        retry = _Retry()
        missing = _Doubt(MISSING_FOR)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return await ask()
            except LogMissing as error:
                missing.insists(error)
            except LogUnavailable:
                if time.monotonic() >= until:
                    raise
            await retry.wait()


@dataclass(frozen=True, slots=True)
class _State:
    """What the stream's leader says of it."""

    first: int
    last: int
    led: bool
    """The leader has heard of a majority lately."""
    members: frozenset[str]

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        cluster = answer.get("cluster", {})
        replicas = cluster.get("replicas", [])
        leader = cluster.get("leader", "")
        heard = sum(
            not replica.get("offline") and replica.get("active", 0) < QUORUM_WITHIN * 1e9
            for replica in replicas
        )
        return cls(
            first=answer["state"]["first_seq"],
            last=answer["state"]["last_seq"],
            led=answer["config"]["num_replicas"] == 1 or (bool(leader) and heard >= (len(replicas) + 1) // 2),
            members=frozenset([leader, *(replica["name"] for replica in replicas)]),
        )


def health_of(answer: dict[str, Any]) -> LogHealth:
    """Return the health in a STREAM.INFO ``answer``; the zones are for the caller to add."""
    state, cluster = answer["state"], answer.get("cluster", {})
    replicas = cluster.get("replicas", [])
    members = [
        Member(r["name"], "", r["current"] and not r.get("offline"), False, r.get("lag", 0)) for r in replicas
    ]
    if leader := cluster.get("leader", ""):
        members.append(Member(leader, "", True, True))
    return LogHealth(
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        bytes=state["bytes"],
        max_bytes=answer["config"]["max_bytes"],
        members=tuple(sorted(members, key=lambda member: member.name)),
    )


class _Hole(Exception):
    """The member of this feed lacks the next message."""


class _Torn(Exception):
    """Messages of this feed were lost on their way, or its connection was."""


class _Feed:
    """A reader that the log service runs for us on one of the members: it pushes what that member holds."""

    def __init__(self, wire: Wire, stream: str) -> None:
        self.name = uuid4().hex
        self.member = ""
        self._wire = wire
        self._stream = stream
        self._subscription: Subscription | None = None
        self._messages: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._delivered = 0
        self._heard = time.monotonic()

    @classmethod
    async def open(cls, wire: Wire, stream: str) -> Self:
        feed = cls(wire, stream)
        feed._subscription = await wire.subscribe(feed._receive)
        return feed

    def config(self, start: int) -> dict[str, Any]:
        """Return the configuration of the consumer that feeds us, from sequence ``start``."""
        assert self._subscription is not None
        return {
            "name": self.name,
            "deliver_subject": self._subscription.subject,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * 1e9),
            "num_replicas": 1,
            "mem_storage": True,
        }

    async def _receive(self, message: Msg) -> None:
        self._heard = time.monotonic()
        self._messages.append(message)
        self._arrived.set()

    async def next(self, last: int) -> Entry | None:
        """Return the message after ``last`` if it has arrived.

        :raises _Hole, _Torn:
        """
        messages = self._messages
        while messages:
            message = messages.popleft()
            headers = message.headers
            if headers is not None and headers.get("Status") == "100":
                # Flow control, answered when all before it has been read; or a heartbeat that waits for that.
                if reply := message.reply or headers.get("Nats-Consumer-Stalled"):
                    await self._wire.send(reply)
                continue
            sequence = message.metadata.sequence
            self._delivered += 1
            if sequence.consumer != self._delivered:
                raise _Torn
            if sequence.stream <= last:
                continue  # it began earlier, as its member was behind then
            if sequence.stream != last + 1:
                raise _Hole
            return Entry(sequence.stream, message.data, self.member)
        if self._wire.lost.is_set():
            raise _Torn
        self._arrived.clear()
        return None

    @property
    def silent(self) -> bool:
        """Nothing has come for too long, not even a heartbeat."""
        return time.monotonic() - self._heard > SILENT_AFTER

    async def wait(self, seconds: float) -> None:
        """Return when something has arrived, or after ``seconds``."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()

    async def close(self) -> None:
        """End it; the log service forgets it at once, or after a few seconds if this message is lost."""
        if self._subscription is not None:
            await self._wire.unsubscribe(self._subscription)
            await self._wire.send(f"{API}.CONSUMER.DELETE.{self._stream}.{self.name}")


class _Lacking:
    """Members that lack the next message, or are to be avoided; for a while only, as they may be healed."""

    def __init__(self, avoid: Collection[str]) -> None:
        self._since = dict.fromkeys(avoid, time.monotonic())

    def add(self, member: str) -> None:
        self._since[member] = time.monotonic()

    @property
    def members(self) -> frozenset[str]:
        now = time.monotonic()
        return frozenset(member for member, since in self._since.items() if now - since < DISTRUST_FOR)

    def judge(self, sequence: int, state: _State) -> None:
        """Raise what must be concluded, if anything, from which members lack message ``sequence``."""
        lacking = self.members & state.members
        if sequence < state.first and len(lacking) > len(state.members) // 2:
            raise LogTrimmed(f"log record {sequence}: trimmed; the first one is {state.first}")
        if lacking == state.members:
            raise LogCorrupt(f"log record {sequence}: missing on every member ({', '.join(sorted(lacking))})")


class _Doubt:
    """What is believed only if it is said again for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def insists(self, error: Exception) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > self._seconds:
            raise error

    def forget(self) -> None:
        self._since = None


class _Retry:
    """Growing pauses between tries."""

    def __init__(self) -> None:
        self.tries = 0

    async def wait(self) -> None:
        pause = min(RETRY_LAST, RETRY_FIRST * 2.0 ** min(self.tries, 10))
        self.tries += 1
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
