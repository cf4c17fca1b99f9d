"""The agent's connections to its engine: docs/engine-protocol.md, *Two connections*."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import hiredis

from memorycluster.agent.machine import EngineState

Reply = Any
"""What an engine answers: int, bytes, None, list, dict."""


READ_SIZE = 256 * 1024


class EngineError(Exception):
    """The engine answered with an error, or its connection broke."""


def encode(*args: str | bytes | int) -> bytes:
    """Return a command in RESP."""
    return bytes(hiredis.pack_command(args))  # type: ignore[arg-type]


class Process:
    """An engine's process."""

    def __init__(self, pid: int) -> None:
        """Take hold of process ``pid``: a later one with the same pid is not mistaken for it.

        :raises ProcessLookupError: there is none. :raises OSError: it is not known whether there is.
        """
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._exited = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._fd, self._on_exit)

    @classmethod
    def of_peer(cls, sock: socket.socket) -> Process:
        """Return the process at the other end of a unix socket."""
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return cls(struct.unpack("3i", credentials)[0])

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._exited.set_result(None)

    @property
    def exited(self) -> bool:
        """The process has ended, for certain."""
        return self._exited.done()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for the process to end; return whether it has within ``seconds``."""
        done, _ = await asyncio.wait([self._exited], timeout=seconds)
        return bool(done)

    def close(self) -> None:
        """Let go of the process."""
        if not self.exited:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._exited.cancel()

    def kill(self) -> None:
        """Send SIGKILL."""
        if not self.exited:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)


class Channel(asyncio.Protocol):
    """A connection whose reading can be put off until it is wanted."""

    _transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # uvloop's transports are not of asyncio's class
        self._transport = cast(asyncio.Transport, transport)

    def put_off(self) -> None:
        """Read nothing more until ``read_now``, ``read_on``."""
        if self._transport and not self._transport.is_closing() and self._transport.is_reading():
            self._transport.pause_reading()

    def read_now(self) -> None:
        """Read what has arrived since reading was put off; it stays put off."""
        if self._transport is None or self._transport.is_closing() or self._transport.is_reading():
            return
        fd = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):  # There is nothing; what else there may be is met when reading on.
            while data := os.read(fd, READ_SIZE):
                self.data_received(data)
                if len(data) < READ_SIZE:
                    return

    def read_on(self) -> None:
        """Read as it arrives."""
        if self._transport and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()


class Control(Channel):
    """The control channel (RESP3)."""

    def __init__(self, on_units: Callable[[list[int]], None]) -> None:
        self._on_units = on_units
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(
        cls, path: Path, user: str, password: str, on_units: Callable[[list[int]], None]
    ) -> tuple[Control, Process, dict[str, Reply]]:
        """Connect and attach; return the channel, the engine's process and its status map.

        Waits for as long as the engine takes to answer.

        :raises EngineError: if the engine refuses. :raises OSError: if there is none.
        """
        loop = asyncio.get_running_loop()
        transport, control = await loop.create_unix_connection(lambda: cls(on_units), str(path))
        process = None
        try:
            process = Process.of_peer(transport.get_extra_info("socket"))
            await control.command("HELLO", 3, "AUTH", user, password)
            return control, process, decode_map(await control.command("TXLOG", "ATTACH"))
        except BaseException:
            transport.close()
            if process:
                process.close()
            raise

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not Ellipsis:
            if isinstance(reply, hiredis.PushNotification):
                if reply[0] == b"txlog-units":
                    self._on_units(reply[1:])
            elif self._waiting:
                waiter = self._waiting.popleft()
                if waiter.done():
                    continue
                if isinstance(reply, hiredis.ReplyError):
                    waiter.set_exception(EngineError(str(reply)))
                else:
                    waiter.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(EngineError(f"the engine closed the connection: {exc or 'end of file'}"))
        if not self.closed.done():
            self.closed.set_result(None)

    async def command(self, *args: str | bytes | int) -> Reply:
        """Send a command and return its reply. Raises EngineError."""
        return await self.send(*args)

    def send(self, *args: str | bytes | int) -> asyncio.Future[Reply]:
        """Send a command now; the future has its reply, or an EngineError."""
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            waiter.set_exception(EngineError("not connected to the engine"))
        else:
            self._waiting.append(waiter)
            self._transport.write(encode(*args))
        return waiter

    def close(self) -> None:
        """Close the connection."""
        if self._transport:
            self._transport.close()


class Stream(Channel):
    """The engine's replication stream (RESP2), and what of it is not yet committed."""

    def __init__(self, on_data: Callable[[int], None]) -> None:
        self._on_data = on_data
        self._buffer = bytearray()
        self._start = 0
        self._attached = False
        self._lines: asyncio.Queue[bytes] | None = asyncio.Queue()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def attach(
        cls,
        path: Path,
        user: str,
        password: str,
        *,
        epoch: int,
        replication_id: str,
        offset: int,
        on_data: Callable[[int], None],
    ) -> Stream:
        """Attach to the stream of the engine that leads in ``epoch``, from just after ``offset``.

        ``on_data`` is called with the offset up to which it has arrived.

        :raises EngineError: if the engine can't continue from exactly there.
        """
        loop = asyncio.get_running_loop()
        transport, stream = await loop.create_unix_connection(lambda: cls(on_data), str(path))
        try:
            await stream._ask("AUTH", user, password)
            await stream._ask("REPLCONF", "txlog-agent", epoch)
            answer = await stream._ask("PSYNC", replication_id, offset + 1, final=True)
            if not answer.startswith(b"+CONTINUE"):
                raise EngineError(f"the engine does not continue from offset {offset}: {answer.decode()}")
            stream._start, stream._attached = offset, True
            if stream._buffer:
                on_data(stream.received)
        except BaseException:
            transport.close()
            raise
        return stream

    async def _ask(self, *args: str | int, final: bool = False) -> bytes:
        assert self._transport
        assert self._lines
        lines = self._lines
        self._transport.write(encode(*args))
        while True:
            line = await lines.get()
            if line.startswith(b"-"):
                raise EngineError(line[1:].decode())
            if line == b"" and self.closed.done():
                raise EngineError("the engine closed the stream")
            if line:
                return line

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._buffer += data
        if self._lines is not None:
            self._split_lines()
        if self._attached:
            self._on_data(self.received)

    def _split_lines(self) -> None:
        assert self._lines is not None
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            self._lines.put_nowait(line)
            if line.startswith(b"+CONTINUE"):
                self._lines = None  # The rest is the stream.
                return

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        if not self.closed.done():
            self.closed.set_result(None)
        if self._lines is not None:
            self._lines.put_nowait(b"")

    @property
    def received(self) -> int:
        """Offset up to which the stream has arrived."""
        return self._start + len(self._buffer)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from just after offset ``start`` up to ``end``."""
        with memoryview(self._buffer) as view:
            return bytes(view[start - self._start : end - self._start])

    def commit(self, offset: int) -> None:
        """Tell the engine that the log is durable up to ``offset``."""
        if self._transport and not self._transport.is_closing():
            self._transport.write(encode("REPLCONF", "ACK", offset))

    def forget(self, offset: int) -> None:
        """Drop what is in the log: the bytes up to ``offset``."""
        if offset > self._start:
            del self._buffer[: offset - self._start]
            self._start = offset

    def close(self) -> None:
        """Close the connection."""
        if self._transport:
            self._transport.close()


def decode_map(reply: Reply) -> dict[str, Reply]:
    """Return a RESP3 map with text keys and values."""
    return {
        key.decode(): value.decode() if isinstance(value, bytes) else value
        for key, value in dict(reply).items()
    }


def engine_state(status: dict[str, Reply]) -> EngineState:
    """Return what the machine needs of a status map."""
    leads = status["role"] == "leader"
    epoch = int(status["epoch"])
    return EngineState(
        leads=leads,
        epoch=epoch,
        offset=int(status["offset"]),
        committed=int(status["committed"]),
        version=int(status["version"]),
        silent=not leads or int(status["revoked"]) >= epoch,
        linked=status["link"] == "up",
    )
