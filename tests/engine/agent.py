"""An engine under a scripted agent: speaks docs/engine-protocol.md and commits exactly what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.engine.resp import Client, Push, Reply, encode

from memorycluster.api.topology import Address, Node, Topology, build_topology
from memorycluster.valkey.config import nodes_conf, valkey_conf

PASSWORD = "the agent's password"
REPLID = "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb"
EMPTY_RDB = b"REDIS0011\xff" + bytes(8)


def boottime() -> int:
    """Microseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def free_ports(count: int) -> list[int]:
    """Ports of ours that nobody uses now, low enough for the bus and out of the ephemeral range."""
    found: list[int] = []
    for port in range(21000 + os.getpid() % 900, 22000):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


async def until(condition: Callable[[], Any], *, seconds: float = 10, what: str = "") -> Any:
    """Poll until ``condition`` (may be async) is true; return its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what or condition}"
        await asyncio.sleep(0.005)


class Engine:
    """An engine's process and its scripted agent."""

    def __init__(
        self, programs: Path, directory: Path, node: Node, topology: Topology, follow_port: int
    ) -> None:
        self.programs = programs
        self.directory = directory
        self.node = node
        self.topology = topology
        self.follow_port = follow_port
        self.socket = directory / "engine.sock"
        self.process: asyncio.subprocess.Process | None = None
        self.control: Client | None = None
        self.units: list[list[int]] = []
        self.stream = b""
        self.start_offset = 0
        self.committed = 0
        self.freeze = False
        self.delay = 0.0
        self.epoch = 0
        # What the follower's side feeds.
        self.log = b""
        self.log_base = 0
        self.syncs: list[str] = []
        self._clients: list[Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.StreamWriter] = set()
        self._stream: Client | None = None
        self._grown = asyncio.Event()

    # ---------------------------------------------------------------- process

    async def start(self, *, module: Path | None = None, **parameters: str) -> None:
        """Start the engine and wait until it answers."""
        await self.serve_follower()
        io_threads = int(parameters.pop("io_threads", "1"))
        fixed = {k.replace("_", "-"): v for k, v in parameters.items()}
        own = {k: v for k, v in fixed.items() if k.startswith("txlog-") or k.startswith("cluster-")}
        chosen = {k: v for k, v in fixed.items() if k not in own}
        conf = valkey_conf(
            node=self.node,
            directory=self.directory,
            engine_socket=self.socket,
            follow_port=self.follow_port,
            agent_password=PASSWORD,
            io_threads=io_threads,
            parameters=chosen,
        )
        conf += "".join(f"{name} {value}\n" for name, value in own.items())
        conf += f"loadmodule {module}\n" if module else ""
        (self.directory / "valkey.conf").write_text(conf)
        (self.directory / "nodes.conf").write_text(nodes_conf(self.node, self.topology))
        with (self.directory / "log").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                str(self.programs / "valkey-server"),
                str(self.directory / "valkey.conf"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

        async def answers() -> bool:
            assert self.process
            assert self.process.returncode is None, (self.directory / "log").read_text()[-3000:]
            with contextlib.suppress(OSError, EOFError):
                return await (await self.client(path=True)).call("PING") is not None
            return False

        await until(answers, what="the engine answers")

    async def kill(self, number: int = 9) -> None:
        """Send a signal and wait for the end."""
        if self.process and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    def cpu(self) -> float:
        """CPU seconds that the engine has used."""
        assert self.process
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for client in self._clients:
            client.close()
        await self.kill()
        if self._server:
            self._server.close()
        for writer in self._links:
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---------------------------------------------------------------- clients

    async def client(self, *, path: bool = False, resp: int = 2) -> Client:
        """Return a new connection of an ordinary client."""
        client = await Client.connect(self.socket if path else (self.node.host, self.node.port), resp=resp)
        self._clients.append(client)
        return client

    async def call(self, *args: str | bytes | int) -> Reply:
        """Run one command on a connection of its own."""
        client = await self.client()
        try:
            return await client.call(*args)
        finally:
            client.close()

    async def info(self, section: str = "txlog") -> dict[str, str]:
        text = (await self.call("INFO", section)).decode()
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    # ---------------------------------------------------------- control channel

    async def attach(self) -> dict[str, Any]:
        """Open the control channel."""
        control = await Client.connect(self.socket)
        self._clients.append(control)
        await control.call("HELLO", 3, "AUTH", "txlog-agent", PASSWORD)
        await control.send("TXLOG ATTACH")
        self.control = control
        self._replies: asyncio.Queue[Reply] = asyncio.Queue()
        self._tasks.append(asyncio.create_task(self._read_control(control)))
        return self._map(await self._replies.get())

    async def _read_control(self, control: Client) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                reply = await control.read(seconds=1e6)
                if isinstance(reply, Push):
                    assert reply[0] == b"txlog-units"
                    self.units.append([int(n) for n in reply[1:]])
                else:
                    self._replies.put_nowait(reply)

    async def txlog(self, *args: str | int) -> Reply:
        """Send a TXLOG command over the control channel."""
        assert self.control
        await self.control.send(("TXLOG", *args))
        return await asyncio.wait_for(self._replies.get(), 10)

    async def ping(self) -> None:
        """A round trip through the control channel."""
        assert self.control
        await self.control.send("PING")
        assert await asyncio.wait_for(self._replies.get(), 10) == b"PONG"

    async def configure(self, name: str, value: str) -> None:
        """CONFIG SET as the agent, who may set what others may not."""
        assert self.control
        await self.control.send(("CONFIG", "SET", name, value))
        assert await asyncio.wait_for(self._replies.get(), 10) == b"OK"

    async def status(self) -> dict[str, Any]:
        return self._map(await self.txlog("STATUS"))

    @staticmethod
    def _map(reply: Reply) -> dict[str, Any]:
        pairs = dict(reply).items()
        return {k.decode(): v.decode() if isinstance(v, bytes) else v for k, v in pairs}

    async def held(self, count: int) -> None:
        """Wait until exactly ``count`` clients wait for a commit."""
        await until(lambda: self._held(count), what=f"{count} held clients")

    async def _held(self, count: int) -> bool:
        return bool((await self.status())["held-clients"] == count)

    # ------------------------------------------------------------------ leading

    async def lead(
        self,
        *,
        epoch: int = 1,
        lease: float | None = 3600,
        slots: Sequence[int] = (0, 16383),
        stream: bool = True,
    ) -> None:
        """Attach, wait for the empty full sync, promote, attach to the stream and give a lease."""
        if not self.control:
            await self.attach()
        await until(self._synced, what="the follower has synced")
        status = await self.status()
        config_epoch = epoch * 1024 + self.node.shard
        reply = await self.txlog("PROMOTE", epoch, status["offset"], config_epoch, *slots)
        assert reply == b"OK", reply
        self.epoch = epoch
        if stream:
            await self.attach_stream((await self.status())["offset"])
        if lease is not None:
            assert await self.lease(lease) == b"OK"

    async def _synced(self) -> bool:
        status = await self.status()
        return bool(status["link"] == "up" and status["offset"] == self.log_base + len(self.log))

    async def lease(self, seconds: float) -> Reply:
        return await self.txlog("LEASE", self.epoch, boottime() + int(seconds * 1e6))

    async def open_stream(self, epoch: int, replid: str, offset: int) -> tuple[Client, bytes]:
        """Attach to the stream; return the connection and the answer to PSYNC."""
        client = await Client.connect(self.socket)
        self._clients.append(client)
        loop = asyncio.get_running_loop()
        for command in (("AUTH", "txlog-agent", PASSWORD), ("REPLCONF", "txlog-agent", epoch)):
            reply = await client.call(*command)
            if reply != b"OK":
                return client, str(reply).encode()
        await client.send(("PSYNC", replid, offset + 1))
        line = b""
        while not line.endswith(b"\n"):
            data = await asyncio.wait_for(loop.sock_recv(client.sock, 1), 10)
            if not data:
                break
            line += data
        return client, line.strip()

    async def attach_stream(self, offset: int) -> None:
        """Attach to the stream from ``offset``, and commit what comes unless ``freeze`` is set."""
        status = await self.status()
        client, answer = await self.open_stream(self.epoch, status["replid"], offset)
        assert answer.startswith(b"+CONTINUE"), answer
        self.stream, self.start_offset, self._stream = b"", offset, client
        self._tasks.append(asyncio.create_task(self._read_stream(client)))
        self._tasks.append(asyncio.create_task(self._commit(client)))

    @property
    def received(self) -> int:
        """Offset up to which the stream has arrived."""
        return self.start_offset + len(self.stream)

    async def _read_stream(self, client: Client) -> None:
        with contextlib.suppress(OSError):
            while data := await asyncio.get_running_loop().sock_recv(client.sock, 1 << 20):
                if self._stream is client:
                    self.stream += data
                    self._grown.set()

    async def _commit(self, client: Client) -> None:
        with contextlib.suppress(OSError):
            while self._stream is client:
                await self._grown.wait()
                self._grown.clear()
                target = self.received
                if self.delay:
                    await asyncio.sleep(self.delay)
                if not self.freeze:
                    await self.ack(target)

    async def ack(self, offset: int) -> None:
        """Say that the log is durable up to ``offset``."""
        assert self._stream
        self.committed = offset
        data = encode("REPLCONF", "ACK", offset)
        await asyncio.get_running_loop().sock_sendall(self._stream.sock, data)

    async def thaw(self) -> None:
        """Commit what has arrived, and go on committing."""
        self.freeze = False
        offset = (await self.status())["offset"]
        await until(lambda: self.received >= offset, what="the stream arrives")
        await self.ack(self.received)

    # ---------------------------------------------------------------- following

    async def serve_follower(self) -> None:
        """Pose as the engine's primary."""
        if not self._server:
            self._server = await asyncio.start_server(self._follow, "127.0.0.1", self.follow_port)

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.add(writer)
        try:
            while True:
                command = await self._command(reader)
                name = command[0].upper()
                if name == b"PING":
                    writer.write(b"+PONG\r\n")
                elif name == b"PSYNC":
                    break
                else:
                    writer.write(b"+OK\r\n")
            replid, offset = command[1].decode(), int(command[2])
            if replid == REPLID and self.log_base < offset <= self.log_base + len(self.log) + 1:
                self.syncs.append("continue")
                writer.write(f"+CONTINUE {REPLID}\r\n".encode())
                fed = offset - 1 - self.log_base
            else:
                self.syncs.append("full")
                writer.write(f"+FULLRESYNC {REPLID} {self.log_base}\r\n".encode())
                writer.write(b"$%d\r\n" % len(EMPTY_RDB) + EMPTY_RDB)
                fed = 0
            while not reader.at_eof():
                if len(self.log) > fed:
                    writer.write(self.log[fed:])
                    fed = len(self.log)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1 << 16), 0.01)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()
            self._links.discard(writer)

    @staticmethod
    async def _command(reader: asyncio.StreamReader) -> list[bytes]:
        line = await reader.readuntil(b"\n")
        if not line.startswith(b"*"):
            return line.split()
        parts = []
        for _ in range(int(line[1:])):
            size = int((await reader.readuntil(b"\n"))[1:])
            parts.append((await reader.readexactly(size + 2))[:-2])
        return parts

    def drop_links(self) -> None:
        for writer in self._links:
            writer.close()


@contextlib.asynccontextmanager
async def engines(
    programs: Path, *, shards: int = 1, nodes_per_shard: int = 1
) -> AsyncIterator[list[list[Engine]]]:
    """Yield engines by shard and index, not started; stop them all at the end."""
    count = shards * nodes_per_shard
    ports = iter(free_ports(3 * count))
    names = iter(zip(ports, ports, strict=False))
    topology = build_topology(
        "t",
        "uid",
        shards=shards,
        nodes_per_shard=nodes_per_shard,
        zones=["a", "b", "c"],
        address=lambda _: Address("127.0.0.1", *next(names)),
    )
    root = Path(tempfile.mkdtemp(prefix="mce", dir="/tmp"))
    made: list[list[Engine]] = []
    try:
        for shard in topology.shards:
            made.append([])
            for node in shard.nodes:
                directory = root / node.name
                directory.mkdir()
                made[-1].append(Engine(programs, directory, node, topology, next(ports)))
        yield made
    finally:
        for engine in [engine for group in made for engine in group]:
            await engine.stop()
        shutil.rmtree(root)
