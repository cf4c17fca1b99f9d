"""The primary's side of a replication link, as far as an engine needs one that only feeds it."""

from __future__ import annotations

import asyncio
import hmac
from typing import IO

import hiredis

PIECE = 1 << 18
"""Bytes of a snapshot that are sent at a time."""


class Link:
    """An engine's connection, as its primary sees it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, credentials: tuple[bytes, bytes]
    ) -> None:
        """``credentials``: user and password by which the engine proves who it is."""
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
        """Read what the engine says of its progress. Raises EOFError."""
        while await self._reader.read(65536):
            pass
        raise EOFError("end of file")

    async def full_sync(self, replid: str, offset: int, rdb: IO[bytes], size: int) -> None:
        """Make the engine drop what it has and load ``size`` bytes of ``rdb``: the state at ``offset``."""
        self._writer.write(f"+FULLRESYNC {replid} {offset}\r\n${size}\r\n".encode())
        left = size
        while left:
            piece = rdb.read(min(PIECE, left))
            if not piece:
                raise EOFError("the snapshot's file has become shorter")
            left -= len(piece)
            await self.send(piece)

    def resume(self, replid: str) -> None:
        """Let the engine go on from where it is."""
        self._writer.write(f"+CONTINUE {replid}\r\n".encode())

    async def send(self, data: bytes) -> None:
        """Send bytes of the stream; wait while the engine lags."""
        self._writer.write(data)
        await self._writer.drain()
