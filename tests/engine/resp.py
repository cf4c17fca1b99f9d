"""A client that sees exactly what an engine has sent, and when."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import hiredis

Reply = Any


def encode(*args: str | bytes | int) -> bytes:
    return bytes(hiredis.pack_command(args))


class Push(list[Any]):
    """A RESP3 push."""


class Client:
    """One connection. Commands are sent and replies are read separately."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)

    @classmethod
    async def connect(cls, address: Path | tuple[str, int], *, resp: int = 2) -> Client:
        sock = socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(
            sock, str(address) if isinstance(address, Path) else address
        )
        if isinstance(address, tuple):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = cls(sock)
        if resp == 3:
            await client.call("HELLO", 3)
        return client

    async def send(self, *commands: str | tuple[str | bytes | int, ...]) -> None:
        """Send commands (a string is split at its spaces) as one write."""
        data = b"".join(encode(*(c.split(" ") if isinstance(c, str) else c)) for c in commands)
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read(self, *, seconds: float = 10) -> Reply:
        """Return the next reply; errors are returned, not raised."""
        while (reply := self._reader.gets()) is Ellipsis:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 16), seconds)
            if not data:
                raise EOFError
            self._reader.feed(data)
        if isinstance(reply, hiredis.PushNotification):
            return Push(reply)
        return reply

    async def call(self, *args: str | bytes | int) -> Reply:
        """Send one command (a single string is split at its spaces) and return its reply."""
        await self.send(args[0] if len(args) == 1 and isinstance(args[0], str) else args)
        return await self.read()

    def arrived(self) -> bytes:
        """Return what the kernel has for us and was not read yet."""
        try:
            return self.sock.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    @property
    def silent(self) -> bool:
        """Nothing has arrived beyond what was read."""
        return not self.arrived() and not self._reader.has_data()

    async def ended(self, *, seconds: float = 10) -> bool:
        """Read up to the end of the connection."""
        try:
            while True:
                await self.read(seconds=seconds)
        except (EOFError, ConnectionError):
            return True

    def close(self) -> None:
        self.sock.close()
