"""A Valkey connection that knows, for every command, when it was sent, when it was answered, and by what."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import hiredis
from tests.faults.history import now

RESOLVED_WITHIN = 20.0
"""Seconds for a host's address to be found."""

Address = tuple[str, int]
Command = tuple[str | int, ...]


class Lost(Enum):
    """In place of a reply: the connection ended, or time was up, before it came."""

    LOST = "no answer"


LOST = Lost.LOST


class NotSent(ConnectionError):
    """Nothing of this was sent: it is certainly not applied."""


@dataclass(slots=True)
class Answer:
    """A reply (`hiredis.ReplyError` for an error, `LOST` for none) and the time at which it came."""

    value: Any
    at: int


@dataclass(slots=True)
class _Batch:
    size: int
    done: asyncio.Future[None]
    answers: list[Answer] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One connection. Replies arrive in the order of the commands."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._reader = hiredis.Reader(encoding="utf-8", errors="backslashreplace")
        self._batches: deque[_Batch] = deque()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, address: Address, *, seconds: float = 1.0) -> Connection:
        """Connect.

        :raises NotSent: if that takes more than `seconds`, or is refused, or no name server answers.
        """
        loop = asyncio.get_running_loop()
        try:
            # One that is given up goes on in its thread, and there are few: then none would ever succeed.
            async with asyncio.timeout(RESOLVED_WITHIN):
                (*_, (host, port, *_)), *_ = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
            async with asyncio.timeout(seconds):
                _, protocol = await loop.create_connection(lambda: cls(address), host, port)
        except (OSError, TimeoutError) as error:
            raise NotSent(f"{address}: {error}") from error
        return protocol

    @property
    def open_now(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def call(self, commands: Sequence[Command], *, seconds: float) -> list[Answer]:
        """Send `commands` in one piece; return an answer for each. If one is lost, the connection closes.

        :raises NotSent: if the connection was closed before.
        """
        if self._transport is None or self._transport.is_closing():
            raise NotSent(f"{self.address}: closed")
        batch = _Batch(len(commands), asyncio.get_running_loop().create_future())
        self._batches.append(batch)
        self._transport.write(b"".join(hiredis.pack_command(cast(Any, command)) for command in commands))
        try:
            async with asyncio.timeout(seconds):
                await batch.done
        except TimeoutError:
            self.close()
        except asyncio.CancelledError:
            self.close()
            raise
        at = now()
        return batch.answers + [Answer(LOST, at) for _ in range(batch.size - len(batch.answers))]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        at = now()
        self._reader.feed(data)
        while (value := self._reader.gets()) is not False:  # False: no whole reply is left
            if not self._batches:
                break
            batch = self._batches[0]
            batch.answers.append(Answer(value, at))
            if len(batch.answers) == batch.size:
                self._batches.popleft()
                if not batch.done.done():
                    batch.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for batch in self._batches:
            if not batch.done.done():
                batch.done.set_result(None)
        self._batches.clear()
