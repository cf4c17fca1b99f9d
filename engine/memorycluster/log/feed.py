"""Feeds: each pushes to us what one member of a log holds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Self
from uuid import uuid4

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from memorycluster.log.interface import Entry, LogUnavailable
from memorycluster.log.wire import API, Wire, failure

HEARTBEAT = 1.0
SILENT_AFTER = 2.5
"""Seconds between heartbeats of a feed, and without one: then it is dead."""

PLACEMENT_TRIES = 12
"""The log service puts a feed on any member; so many are made to get one on a member that we want."""


class Hole(Exception):
    """The member of this feed lacks the next message."""


class Torn(Exception):
    """Messages of this feed were lost on their way, or its connection was."""


class Feed:
    """A JetStream consumer of our own, on one member, in its memory; with flow control, without acks."""

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
    async def start(cls, wire: Wire, stream: str, start: int, avoid: Collection[str]) -> Self:
        """Start a feed from sequence ``start`` on a member that is none of ``avoid``.

        :raises LogMissing: there is no such log.
        :raises LogUnavailable: no answer, no such member.
        """
        for _ in range(PLACEMENT_TRIES):
            feed = cls(wire, stream)
            try:
                await feed._start(start)
                if not feed.member or feed.member not in avoid:
                    return feed
            except BaseException:
                await feed.close()
                raise
            await feed.close()
        raise LogUnavailable(f"log {stream}: no member to read from but {', '.join(avoid)}")

    async def _start(self, start: int) -> None:
        self._subscription = await self._wire.subscribe(self._receive)
        request = {"stream_name": self._stream, "config": self._config(self._subscription.subject, start)}
        answer = await self._wire.ask(f"CONSUMER.CREATE.{self._stream}.{self.name}", request)
        if error := answer.get("error"):
            raise failure(self._stream, error)
        self.member = answer.get("cluster", {}).get("leader", "")

    def _config(self, subject: str, start: int) -> dict[str, Any]:
        return {
            "name": self.name,
            "deliver_subject": subject,
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

        :raises Hole, Torn:
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
                raise Torn
            if sequence.stream <= last:
                continue  # it began earlier, as its member was behind then
            if sequence.stream != last + 1:
                raise Hole
            return Entry(sequence.stream, message.data, self.member)
        if self._wire.lost.is_set():
            raise Torn
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
