"""Connections to the servers of a log service.

The client library can reconnect by itself, but then it resends what was waiting, does not tell who waits for
an answer that was lost, and hangs on the send buffer of a server that no longer reads. Here a connection that
fails is gone, what waited on it is told at once, and the next one is made to the next server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from memorycluster.log.interface import LogMissing, LogUnavailable

API = "$JS.API"
"""Prefix of the subjects of the JetStream API."""

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


class Wire:
    """One connection to one server. It never comes back: once lost, it stays lost."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.lost = asyncio.Event()
        self.reason = ""
        self._client = Client()
        self._inbox = ""
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._token = 0
        self._pinger: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def dial(self, *, user: str, password: str, name: str) -> None:
        """Connect.

        :raises LogUnavailable: the server refuses, or is silent.
        """

        async def on_error(error: Exception) -> None:
            self.reason = self.reason or str(error)

        async def on_closed() -> None:
            self._lose(self.reason or "connection closed")

        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                await self._client.connect(
                    [self.server],
                    user=user,
                    password=password,
                    name=name,
                    error_cb=on_error,
                    closed_cb=on_closed,
                    allow_reconnect=False,
                    # The library's meaning of these: two attempts, at once, then give up.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    ping_interval=3600,  # we ping ourselves, more tightly
                    flush_timeout=PING_TIMEOUT,
                    pending_size=16 * 1024 * 1024,
                )
                self._inbox = self._client.new_inbox()
                await self._client.subscribe(
                    f"{self._inbox}.*", cb=self._answer, pending_msgs_limit=0, pending_bytes_limit=0
                )
        except (OSError, NatsError, TimeoutError) as error:
            self._lose(f"{self.server}: {error or 'no answer'}")
            raise LogUnavailable(self.reason) from error
        except BaseException:
            self._lose("cancelled")
            raise
        self.reason = ""
        self._pinger = asyncio.create_task(self._ping())

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: dict[str, str] | None = None, within: float
    ) -> Msg:
        """Send ``payload`` and return the answer.

        :param within: seconds to wait for it.
        :raises LogUnavailable: no answer in time, nobody to answer, or the connection is lost.
        """
        if self.lost.is_set():
            raise LogUnavailable(self.reason)
        loop = asyncio.get_running_loop()
        self._token += 1
        token = str(self._token)
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[token] = future
        timer = loop.call_later(within, _expire, future, subject)
        try:
            await self._client.publish(subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
            answer = await future
        except NatsError as error:
            raise LogUnavailable(f"{subject}: {error}") from error
        finally:
            timer.cancel()
            del self._waiting[token]
            if future.done() and not future.cancelled():
                future.exception()  # it may have failed while we were still sending
        if not answer.data and answer.headers and answer.headers.get("Status") == NO_RESPONDERS:
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

    async def send(self, subject: str, payload: bytes = b"") -> None:
        """Send ``payload`` and expect nothing; a lost connection is noticed elsewhere."""
        if not self.lost.is_set():
            with contextlib.suppress(NatsError):
                await self._client.publish(subject, payload)

    async def subscribe(self, handler: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Call ``handler`` with every message that is sent to the subject of the result, a new one.

        Nothing is dropped for being too much: how much may be under way is limited by who sends it.

        :raises LogUnavailable: the connection is lost.
        """
        try:
            return await self._client.subscribe(
                self._client.new_inbox(), cb=handler, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except NatsError as error:
            raise LogUnavailable(str(error)) from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Undo ``subscribe``."""
        if not self.lost.is_set():
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    async def close(self) -> None:
        """End the connection and everything that waits on it."""
        self._lose("closed")
        if self._ending is not None:
            await asyncio.shield(self._ending)

    @property
    def ended(self) -> bool:
        """Lost, and nothing of it is left."""
        return self._ending is not None and self._ending.done()

    async def _answer(self, message: Msg) -> None:
        future = self._waiting.get(message.subject[len(self._inbox) + 1 :])
        if future is not None and not future.done():
            future.set_result(message)

    async def _ping(self) -> None:
        # Never cancelled with a ping on its way: the library's reader dies of the late answer.
        while not self.lost.is_set():
            try:
                await self._client.flush(timeout=PING_TIMEOUT)  # type: ignore[arg-type]
            except (NatsError, OSError, TimeoutError) as error:
                self._lose(f"{self.server}: {error}")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_INTERVAL):
                    await self.lost.wait()

    def _lose(self, reason: str) -> None:
        if self.lost.is_set():
            return
        self.reason = reason
        self.lost.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LogUnavailable(reason))
        self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        transport = self._client._transport
        writer = getattr(transport, "_io_writer", None)
        if writer is not None:
            # Closing politely waits until the server has read what was sent; a stopped one never does.
            writer.transport.abort()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(PING_TIMEOUT):
                await self._client.close()
        if self._pinger is not None:
            await self._pinger


def failure(stream: str, error: dict[str, Any]) -> LogMissing | LogUnavailable:
    """Return what the ``error`` in an answer means for the log ``stream``."""
    text = f"log {stream}: {error.get('description')}"
    return LogMissing(text) if error.get("err_code") == NO_STREAM else LogUnavailable(text)


def _expire(future: asyncio.Future[Msg], subject: str) -> None:
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
