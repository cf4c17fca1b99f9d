"""Connections to the servers of a log service.

A connection that fails is gone: what waited on it is told at once, nothing is sent again, and the next one is
made to the next server. The protocol is spoken here and not by a client library: what comes must get in one
step to who waits for it, as it is on the way of every write, and a library takes long to load when an agent
is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from memorycluster.log import protocol
from memorycluster.log.interface import LogMissing, LogUnavailable
from memorycluster.log.protocol import Message

API = "$JS.API"
"""Prefix of the subjects of the JetStream API."""

DEFAULT_PORT = 4222

ANSWER_WITHIN = 1.0
"""Seconds for one answer of the log service; then the question is put again."""

DIAL_TIMEOUT = 1.0
"""Seconds for a server to greet us. A stopped one accepts connections and then says nothing."""

PING_INTERVAL = 0.5
PING_TIMEOUT = 1.0
"""Seconds between pings, and for their answer: together the time in which a stopped server is noticed."""

NO_RESPONDERS = "503"
"""Status of the answer that comes when nobody listens to a subject."""

NO_STREAM = 10059
"""Error code: there is no such stream."""

Handler = Callable[[Message], None]


class Wire(asyncio.Protocol):
    """One connection to one server. It never comes back: once lost, it stays lost."""

    def __init__(self, server: str) -> None:
        """Prepare to connect to ``server``, ``nats://host:port``."""
        self.server = server
        self.lost = asyncio.Event()
        self.reason = ""
        self._transport: asyncio.Transport | None = None
        self._parser = protocol.Parser(self._on_message, self._on_line)
        self._greeting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._largest = 0
        """Bytes of the largest message that the server takes."""
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._token = 0
        self._handlers: dict[int, Handler] = {}
        self._subscribed = 0
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._pinger: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        """Nothing is left of it."""

    async def dial(self, *, user: str, password: str, name: str) -> None:
        """Connect.

        :raises LogUnavailable: the server refuses, or is silent.
        """
        loop, url = asyncio.get_running_loop(), urlsplit(self.server)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                await loop.create_connection(lambda: self, url.hostname or "", url.port or DEFAULT_PORT)
                self._largest = (await self._greeting).get("max_payload", 1 << 20)
                self._subscribed, self._handlers[1] = 1, self._answer
                inbox, pong = protocol.subscribe(f"{self._inbox}.*", 1), self._pong()
                # In one piece: who still writes to a server that has refused it does not hear why.
                hello = protocol.connect(user=user, password=password, name=name)
                self._write(hello + inbox + protocol.PING)
                await pong
        except (OSError, TimeoutError, LogUnavailable) as error:
            self._lose(f"{self.server}: {self.reason or error or 'no answer'}")
            raise LogUnavailable(self.reason) from error
        except BaseException:
            self._lose("cancelled")
            raise
        self._pinger = asyncio.create_task(self._keep_pinging())

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None, within: float
    ) -> Message:
        """Send ``payload`` and return the answer.

        :param within: seconds to wait for it.
        :raises LogUnavailable: no answer in time, nobody to answer, or the connection is lost.
        """
        if self.lost.is_set():
            raise LogUnavailable(self.reason)
        if len(payload) > self._largest:
            raise LogUnavailable(f"{subject}: {len(payload)} bytes, {self.server} takes {self._largest}")
        loop = asyncio.get_running_loop()
        self._token += 1
        token = str(self._token)
        future: asyncio.Future[Message] = loop.create_future()
        self._waiting[token] = future
        timer = loop.call_later(within, _expire, future, subject)
        try:
            self._write(protocol.publish(subject, payload, reply=f"{self._inbox}.{token}", headers=headers))
            answer = await future
        finally:
            timer.cancel()
            del self._waiting[token]
        if not answer.data and answer.status == NO_RESPONDERS:
            raise LogUnavailable(f"{subject}: nobody answers")
        return answer

    async def ask(
        self, what: str, payload: dict[str, Any] | None = None, *, within: float = ANSWER_WITHIN
    ) -> dict[str, Any]:
        """Put a question to the JetStream API and return the answer, which may be an ``error``.

        :raises LogUnavailable: as for ``request``.
        """
        body = b"" if payload is None else json.dumps(payload).encode()
        answer: dict[str, Any] = json.loads((await self.request(f"{API}.{what}", body, within=within)).data)
        return answer

    def send(self, subject: str, payload: bytes = b"") -> None:
        """Send ``payload`` and expect nothing; a lost connection is noticed elsewhere."""
        if not self.lost.is_set():
            self._write(protocol.publish(subject, payload))

    def subscribe(self, handler: Handler, subject: str = "") -> tuple[int, str]:
        """Call ``handler``, which must not fail, with all that is sent to ``subject``, or to a new subject.

        :return: the subscription's number, and the subject.
        :raises LogUnavailable: the connection is lost.
        """
        if self.lost.is_set():
            raise LogUnavailable(self.reason)
        subject = subject or f"_INBOX.{secrets.token_hex(11)}"
        self._subscribed += 1
        self._handlers[self._subscribed] = handler
        self._write(protocol.subscribe(subject, self._subscribed))
        return self._subscribed, subject

    def unsubscribe(self, subscription: int) -> None:
        """Undo ``subscribe``."""
        if self._handlers.pop(subscription, None) and not self.lost.is_set():
            self._write(protocol.unsubscribe(subscription))

    async def close(self) -> None:
        """End the connection and everything that waits on it."""
        self._lose("closed")
        await self._gone.wait()
        if self._pinger is not None:
            await asyncio.wait([self._pinger])

    @property
    def ended(self) -> bool:
        """Lost, and nothing of it is left."""
        return self._gone.is_set()

    # What comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # uvloop's transports are not of asyncio's class
        self._transport = cast(asyncio.Transport, transport)
        if self.lost.is_set():
            self._transport.abort()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self.lost.is_set():
            return
        try:
            self._parser.feed(data)
        except ValueError as error:
            self._lose(f"{self.server}: {error}")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._lose(f"{self.server}: {self.reason or exc or 'connection closed'}")
        self._gone.set()

    def _on_message(self, message: Message) -> None:
        handler = self._handlers.get(message.subscription)
        if handler is not None:
            handler(message)

    def _on_line(self, word: str, rest: str) -> None:
        match word:
            case "PING":
                self._write(protocol.PONG)
            case "PONG":
                if self._pongs and not (pong := self._pongs.popleft()).done():
                    pong.set_result(None)
            case "INFO":
                if not self._greeting.done():
                    self._greeting.set_result(json.loads(rest))
            case "-ERR":
                self.reason = rest.strip("'")  # If it is the end, the server closes the connection.
            case "+OK":
                pass
            case _:
                raise protocol.ProtocolError(f"not a line of this protocol: {word[:200]!r}")

    def _answer(self, message: Message) -> None:
        future = self._waiting.get(message.subject[len(self._inbox) + 1 :])
        if future is not None and not future.done():
            future.set_result(message)

    # Whether it lives

    async def _keep_pinging(self) -> None:
        while not self.lost.is_set():
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    await self._ping()
            except (LogUnavailable, TimeoutError) as error:
                self._lose(f"{self.server}: {error or 'no answer to a ping'}")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_INTERVAL):
                    await self.lost.wait()

    async def _ping(self) -> None:
        """Return once the server has taken all that was sent before. Raises LogUnavailable."""
        pong = self._pong()
        self._write(protocol.PING)
        await pong

    def _pong(self) -> asyncio.Future[None]:
        """Return what is done once the next ping is answered. Raises LogUnavailable."""
        if self.lost.is_set():
            raise LogUnavailable(self.reason)
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        return pong

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _lose(self, reason: str) -> None:
        if self.lost.is_set():
            return
        self.reason = reason
        self.lost.set()
        waiting: list[asyncio.Future[Any]] = [*self._waiting.values(), *self._pongs, self._greeting]
        for future in waiting:
            if not future.done():
                future.set_exception(LogUnavailable(reason))
                future.exception()  # Whoever waited may have gone.
        if self._transport is None:
            self._gone.set()
        else:
            # Closing politely waits until the server has read what was sent; a stopped one never does.
            self._transport.abort()


def failure(stream: str, error: dict[str, Any]) -> LogMissing | LogUnavailable:
    """Return what the ``error`` in an answer means for the log ``stream``."""
    text = f"log {stream}: {error.get('description')}"
    return LogMissing(text) if error.get("err_code") == NO_STREAM else LogUnavailable(text)


def _expire(future: asyncio.Future[Message], subject: str) -> None:
    if not future.done():
        future.set_exception(LogUnavailable(f"{subject}: no answer in time"))


class Link:
    """The current connection to any one of the servers."""

    def __init__(self, servers: Sequence[str], *, user: str, password: str, name: str) -> None:
        """Prepare to connect to ``servers``, the preferred one (of the same zone) first."""
        if not servers:
            raise ValueError("a log service has at least one server")
        self._servers = list(servers)
        self._user = user
        self._password = password
        self._name = name
        self._next = 0
        self._wire: Wire | None = None
        self._dialing = asyncio.Lock()
        self._ended: set[Wire] = set()
        self._closed = False

    async def wire(self) -> Wire:
        """Return the live connection, made now if there is none: each server is tried once.

        :raises LogUnavailable: no server can be reached.
        """
        if self._wire is not None and not self._wire.lost.is_set():
            return self._wire
        async with self._dialing:
            if self._closed:
                raise LogUnavailable("closed")
            if self._wire is not None:
                if not self._wire.lost.is_set():
                    return self._wire
                self._retire(self._wire)
                self._wire = None
                self._next += 1
            reasons = []
            for _ in self._servers:
                wire = Wire(self._servers[self._next % len(self._servers)])
                try:
                    await wire.dial(user=self._user, password=self._password, name=self._name)
                except LogUnavailable as error:
                    self._next += 1
                    reasons.append(str(error))
                else:
                    self._wire = wire
                    return wire
                finally:
                    if wire.lost.is_set():
                        self._retire(wire)
            raise LogUnavailable("; ".join(reasons))

    async def ask(
        self, what: str, payload: dict[str, Any] | None = None, *, within: float = ANSWER_WITHIN
    ) -> dict[str, Any]:
        """Put a question to the JetStream API, once, over the live connection: see ``Wire.ask``."""
        return await (await self.wire()).ask(what, payload, within=within)

    async def close(self) -> None:
        """End the connection; ``wire`` fails from now on."""
        self._closed = True
        async with self._dialing:
            if self._wire is not None:
                self._ended.add(self._wire)
        await asyncio.gather(*(wire.close() for wire in self._ended))

    def _retire(self, wire: Wire) -> None:
        self._ended = {old for old in self._ended if not old.ended}
        self._ended.add(wire)
