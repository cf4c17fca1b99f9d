"""Feeds: each pushes to us what one member of a log holds."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Self
from uuid import uuid4

from memorycluster.log import protocol
from memorycluster.log.interface import Entry, LogUnavailable
from memorycluster.log.protocol import Message
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
        self._subscription: int | None = None
        self._messages: deque[Message] = deque()
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
                feed.close()
                raise
            feed.close()
        raise LogUnavailable(f"log {stream}: no member to read from but {', '.join(avoid)}")

    async def _start(self, start: int) -> None:
        self._subscription, subject = self._wire.subscribe(self._receive)
        request = {"stream_name": self._stream, "config": self._config(subject, start)}
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

    def _receive(self, message: Message) -> None:
        self._heard = time.monotonic()
        self._messages.append(message)
        self._arrived.set()

    def next(self, last: int) -> Entry | None:
        """Return the message after ``last`` if it has arrived.

        :raises Hole, Torn:
        """
        messages = self._messages
        while messages:
            message = messages.popleft()
            if message.status == "100":
                # Flow control, answered when all before it has been read; or a heartbeat that waits for that.
                if reply := message.reply or message.header("Nats-Consumer-Stalled"):
                    self._wire.send(reply)
                continue
            sequence, delivered, time = protocol.delivered(message.reply)
            self._delivered += 1
            if delivered != self._delivered:
                raise Torn
            if sequence <= last:
                continue  # it began earlier, as its member was behind then
            if sequence != last + 1:
                raise Hole
            return Entry(sequence, message.data, self.member, time)
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
        if seconds > 0 and not self._arrived.is_set():
            # Not by asyncio.timeout, which takes several times as long: this is done for each record.
            timer = asyncio.get_running_loop().call_later(seconds, self._arrived.set)
            try:
                await self._arrived.wait()
            finally:
                timer.cancel()

    def close(self) -> None:
        """End it; the log service forgets it at once, or after a few seconds if this message is lost."""
        if self._subscription is not None:
            self._wire.unsubscribe(self._subscription)
            self._wire.send(f"{API}.CONSUMER.DELETE.{self._stream}.{self.name}")
