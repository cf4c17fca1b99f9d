"""A shard's log as a NATS JetStream stream. The reasons of its rules: docs/architecture.md."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from fastcrc import crc64

from memorycluster.log.doubt import MISSING_FOR, SHORTER_FOR, Doubt, Retry
from memorycluster.log.feed import Feed
from memorycluster.log.findings import Findings
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
from memorycluster.log.tail import State, Tail
from memorycluster.log.wire import ANSWER_WITHIN, Link, failure

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds for which ``get``, ``end``, ``trim`` and ``health`` try before they say LogUnavailable."""
NEAR = 64
"""Messages that a member may be behind and still be current: less than a leader appends in a second."""
IN_TOUCH = 3.0
"""Seconds since which such a member must have been heard of; followers answer every second, also at rest."""

STATE_WITHIN = 0.5
"""Seconds for the leader to say where the end is. While the log elects, nobody does, so ask again soon."""

ASK_AFTER = 8
"""Tries of an append until we ask whether there is such a log at all."""


class Code:
    """Error codes of the JetStream API that decide something."""

    NO_MESSAGE = 10037
    TOO_LARGE = 10054
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
        self.findings = Findings()

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
        retry = Retry()
        undecided = False  # an earlier try of this append may still come to stand in the log
        shorter = Doubt(SHORTER_FOR)
        missing = Doubt(MISSING_FOR)
        while True:
            try:
                wire = await self._link.wire()
                answer = json.loads(
                    (await wire.request(self._subject, data, headers=headers, within=ANSWER_WITHIN)).data
                )
                error = answer.get("error", {})
                code, text = error.get("err_code"), error.get("description")
                if not error and (answer["seq"], answer["stream"]) != (sequence, self._stream):
                    raise LogCorrupt(f"log record {sequence}: acknowledged as {answer}")
                if not error and not answer.get("duplicate"):
                    return
                if not error or code in Code.WRONG_LAST_SEQUENCE:
                    there = await self._get(sequence)
                    if there == data:
                        return
                    if there is not None:
                        raise LogConflict(f"log record {sequence}: another one is there")
                    if error:
                        shorter.insists(
                            LogConflict(f"log record {sequence}: {text}, where it should be {sequence - 1}")
                        )
                elif code == Code.TOO_LARGE:
                    raise ValueError(f"log record {sequence}: {len(data)} bytes: {text}")
                elif code == Code.STORE_FAILED and text == Code.STORE_FULL and not undecided:
                    raise LogFull(f"log record {sequence}: {text}")
                self.trouble = f"log record {sequence}: {text}"
            except LogUnavailable as error:
                self.trouble = str(error)
                shorter.forget()
            except LogMissing as error:
                missing.insists(error)
            except LogTrimmed as error:
                raise LogConflict(f"log record {sequence}: what was there has been trimmed") from error
            undecided = True
            await retry.wait()
            if retry.tries % ASK_AFTER == 0:  # nobody answers: because there is no such log?
                try:
                    await self.state()
                    missing.forget()
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
        return (await self._patiently(self.state)).last

    async def tail(self, after: int, *, avoid: Collection[str] = ()) -> AsyncGenerator[Entry | None, None]:
        """Yield the messages after sequence ``after``, forever; ``None`` at arrivals at the end."""
        tail = Tail(self, after, avoid)
        try:
            async for item in tail.items():
                yield item
        finally:
            tail.close()

    async def _get(self, sequence: int) -> bytes | None:
        for _ in range(2):  # it may come to be there between the two questions
            answer = await self._link.ask(f"STREAM.MSG.GET.{self._stream}", {"seq": sequence})
            error = answer.get("error")
            if not error:
                return base64.b64decode(answer["message"].get("data", ""))
            if error.get("err_code") != Code.NO_MESSAGE:
                raise failure(self._stream, error)
            state = await self.state()
            if sequence > state.last:
                return None
        # The leader lacks it. The other members may have it, or it has been trimmed.
        async with contextlib.aclosing(self.tail(sequence - 1)) as entries:
            async for entry in entries:
                if entry is not None:
                    return entry.data
        raise AssertionError("a tail never ends")

    async def state(self) -> State:
        """Return what the log's leader says of it, once asked.

        :raises LogUnavailable: no answer, or no majority behind the leader.
        :raises LogMissing:
        """
        answer = await self._link.ask(f"STREAM.INFO.{self._stream}", within=STATE_WITHIN)
        if "error" in answer:
            raise failure(self._stream, answer["error"])
        state = State.of(answer)
        if not state.led:
            raise LogUnavailable(f"log {self._stream}: no member leads with a majority behind it")
        return state

    async def feed(self, start: int, avoid: Collection[str]) -> Feed:
        """Start a feed from sequence ``start`` on a member that is none of ``avoid``."""
        feed = await Feed.start(await self._link.wire(), self._stream, start, avoid)
        if not feed.member:  # a single server does not say its name here
            (feed.member,) = (await self.state()).members
        return feed

    # Admin

    async def trim(self, before: int) -> None:
        """Delete the messages below sequence ``before``, at most all."""
        await self._patiently(lambda: self._trim(before))

    async def _trim(self, before: int) -> None:
        # The server would do it, and count on from there: what comes next would follow nothing.
        last = (await self.state()).last
        if before > last + 1:
            raise LogConflict(f"log {self._stream}: ends with record {last}, can't be trimmed below {before}")
        answer = await self._link.ask(f"STREAM.PURGE.{self._stream}", {"seq": before})
        if "error" in answer:
            raise failure(self._stream, answer["error"])

    async def health(self) -> LogHealth:
        """Return sizes, limits and members, with no zones: ``LogService.health`` knows them."""
        answer = await self._patiently(lambda: self._link.ask(f"STREAM.INFO.{self._stream}"))
        if "error" in answer:
            raise failure(self._stream, answer["error"])
        return health_of(answer)

    # Questions

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        retry = Retry()
        missing = Doubt(MISSING_FOR)
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


def _current(replica: dict[str, Any]) -> bool:
    """Whether a replica has all that is committed, or just not yet what was committed this moment.

    While appends go on, the slower of two replicas is always a little behind: it was not waited for.
    """
    near = replica.get("lag", 0) <= NEAR and replica.get("active", 0) <= IN_TOUCH * 1e9
    return not replica.get("offline") and (replica["current"] or near)


def health_of(answer: dict[str, Any]) -> LogHealth:
    """Return the health in a STREAM.INFO ``answer``; the zones are for the caller to add."""
    state, cluster = answer["state"], answer.get("cluster", {})
    replicas = cluster.get("replicas", [])
    members = [Member(r["name"], "", _current(r), False, r.get("lag", 0)) for r in replicas]
    if leader := cluster.get("leader", ""):
        members.append(Member(leader, "", True, True))
    return LogHealth(
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        bytes=state["bytes"],
        max_bytes=answer["config"]["max_bytes"],
        members=tuple(sorted(members, key=lambda member: member.name)),
    )
