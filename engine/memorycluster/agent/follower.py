"""The follower's side of the log: reads it, verifies it, and feeds the engine, whose primary it poses as.

The engine is a stock replica that asks for a PSYNC at ``follow_port``. It is fed whole units only, and only
what the log holds. The log is read from its start for each engine that connects: one that has nothing gets
all of it, one that resumes gets what follows its offset once the reading has verified that it is of this log.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator
from typing import Protocol
from uuid import UUID

import hiredis

from memorycluster.log.chain import Position, Read
from memorycluster.log.interface import Log, LogError
from memorycluster.log.reader import follow
from memorycluster.log.record import replication_id

EMPTY_RDB = b"REDIS0011\xff" + bytes(8)
"""A snapshot of nothing: version, end of file, no checksum."""

RETRY = 0.2
"""Seconds between attempts to read on where the log is corrupt, or missing."""

HANDSHAKE = 10.0
"""Seconds in which a connection must prove that it is the engine's."""

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Who wants to know what is read."""

    def on_read(self, read: Read) -> None:
        """A record was read, and fed if it ended a unit."""

    def on_end(self, sequence: int) -> None:
        """Nothing follows ``sequence``."""

    def on_corrupt(self, reason: str) -> None:
        """The log can't be read beyond a position; it is tried again."""

    def on_ahead(self, offset: int, end: int) -> None:
        """The engine has applied ``offset``, but the log ends at offset ``end``."""


class Follower:
    """Serves the engine's replication link at a loopback port."""

    def __init__(
        self, log: Log, generation: UUID, listener: Listener, *, port: int, user: str, password: str
    ) -> None:
        self._log = log
        self._generation = generation
        self._listener = listener
        self._port = port
        self._credentials = (user.encode(), password.encode())
        self._session: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self.drop()

    def drop(self) -> None:
        """Close the engine's link; it will connect again if it still follows."""
        if self._session:
            self._session.cancel()
            self._session = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(reader, writer, self._credentials)
        try:
            async with asyncio.timeout(HANDSHAKE):
                replid, offset = await link.handshake()
            self.drop()  # It is the engine, and there is one: this connection replaces an older one.
            self._session = asyncio.current_task()
            resume = offset - 1 if replid == replication_id(self._generation) and offset > 0 else None
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.ignore_acks())
                tasks.create_task(self._feed(link, resume))
        except* (OSError, EOFError, TimeoutError, hiredis.ProtocolError) as group:
            logger.info("the engine's replication link closed: %s", group.exceptions[0])
        except* asyncio.CancelledError:
            pass  # Dropped, or the agent ends.
        finally:
            writer.close()

    async def _feed(self, link: _Link, resume: int | None) -> None:
        """Read the log from its start for ever, and feed the engine what follows ``resume``."""
        if resume is None:
            logger.info("full sync of the engine")
            link.full_sync(replication_id(self._generation), 0, EMPTY_RDB)
        answered = resume is None
        ended_at: int | None = None  # where the log ended when the engine was found to be ahead of it
        feed = _Units(resume or 0)
        position = Position(self._generation)
        async for item in self._read(position):
            if isinstance(item, Read):
                position = item.position
                data = feed.add(item)
                if ended_at is not None:
                    continue  # It has grown since, perhaps with other bytes than those that the engine has.
                if not answered and position.unit_end >= feed.fed_from:
                    logger.info("the engine resumes at offset %d", resume)
                    link.resume(replication_id(self._generation))
                    answered = True
                if data:
                    await link.send(data)
                self._listener.on_read(item)
            elif not answered:
                # Never answered, so that the engine keeps what it has: the log may have lost it.
                ended_at = position.unit_end if ended_at is None else ended_at
                self._listener.on_ahead(feed.fed_from, ended_at)
            else:
                self._listener.on_end(item)

    async def _read(self, position: Position) -> AsyncIterator[Read | int]:
        """Yield what is read after ``position``, and the last sequence at each arrival at the end."""
        while True:
            try:
                async with contextlib.aclosing(follow(self._log, position)) as reads:
                    async for step in reads:
                        if step is None:
                            yield position.sequence
                        else:
                            position = step.position
                            yield step
            except LogError as error:
                self._listener.on_corrupt(str(error))
            await asyncio.sleep(RETRY)


class _Units:
    """Puts records together into whole units, and leaves out what the engine has."""

    def __init__(self, offset: int) -> None:
        self.fed_from = offset
        self._fed = offset
        self._open: list[bytes] = []

    def add(self, read: Read) -> bytes:
        """Return the bytes to feed after this record."""
        if read.voided:
            self._open.clear()
        if read.record.stream:
            self._open.append(read.record.stream)
        end = read.position.unit_end
        if read.position.open_end != end or not self._open:
            return b""
        data = b"".join(self._open)
        self._open.clear()
        have = self._fed - (end - len(data))
        self._fed = max(self._fed, end)
        return data[max(have, 0) :]


class _Link:
    """The engine's connection, as its primary sees it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, credentials: tuple[bytes, bytes]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader(notEnoughData=Ellipsis)
        self._credentials = credentials

    async def _command(self) -> list[bytes]:
        while (command := self._parser.gets()) is Ellipsis:
            data = await self._reader.read(65536)
            if not data:
                raise EOFError("end of file")
            self._parser.feed(data)
        if not isinstance(command, list):
            raise EOFError(f"not a command: {command!r}")
        return command

    async def handshake(self) -> tuple[str, int]:
        """Answer a replica until it asks for a PSYNC; return the replication id and offset it asks for."""
        authenticated = False
        while True:
            name, *args = await self._command()
            match name.upper():
                case b"AUTH":
                    authenticated = len(args) == 2 and all(
                        hmac.compare_digest(a, b) for a, b in zip(args, self._credentials, strict=True)
                    )
                    self._writer.write(b"+OK\r\n" if authenticated else b"-WRONGPASS not the engine\r\n")
                case b"PING":
                    self._writer.write(b"+PONG\r\n")
                case _ if not authenticated:
                    self._writer.write(b"-NOAUTH only the engine may follow here\r\n")
                case b"REPLCONF":
                    self._writer.write(b"+OK\r\n")
                case b"PSYNC":
                    return args[0].decode(), int(args[1])
                case other:
                    self._writer.write(b"-ERR not a primary: " + other + b"\r\n")

    async def ignore_acks(self) -> None:
        """Read what the engine says of its progress (the control channel tells it). Raises EOFError."""
        while await self._reader.read(65536):
            pass
        raise EOFError("end of file")

    def full_sync(self, replid: str, offset: int, rdb: bytes) -> None:
        """Make the engine drop what it has and load ``rdb``, which holds the state at ``offset``."""
        self._writer.write(f"+FULLRESYNC {replid} {offset}\r\n${len(rdb)}\r\n".encode() + rdb)

    def resume(self, replid: str) -> None:
        """Let the engine go on from where it is."""
        self._writer.write(f"+CONTINUE {replid}\r\n".encode())

    async def send(self, data: bytes) -> None:
        """Send bytes of the stream; wait while the engine lags."""
        self._writer.write(data)
        await self._writer.drain()
