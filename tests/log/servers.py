"""Real log services of one or three servers, for tests: started, stopped, killed, frozen, wiped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from memorycluster.log.nats import NatsLog
from memorycluster.log.server import Server, find_server, server_conf
from memorycluster.log.service import LogService
from memorycluster.log.wire import failure

USER, PASSWORD = "log", "pass/word"
MAX_FILE_STORE = 64 << 30


def free_ports(count: int) -> list[int]:
    """Ports of 22000 to 22999 on which nobody listens."""
    found: list[int] = []
    start = 22000 + os.getpid() * 37 % 900
    for offset in range(1000):
        port = 22000 + (start - 22000 + offset) % 1000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


class Service:
    """A log service on loopback."""

    def __init__(
        self, size: int, root: Path, program: Path, change: Callable[[str], str] = lambda conf: conf
    ) -> None:
        ports = free_ports(3 * size)
        self.root = root
        self.program = program
        self.change = change
        self.servers = [
            Server(f"log-{i}", f"zone-{'abc'[i]}", "127.0.0.1", *ports[3 * i : 3 * i + 3])
            for i in range(size)
        ]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.frozen: set[str] = set()

    @property
    def names(self) -> list[str]:
        return [server.name for server in self.servers]

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def data_dir(self, name: str) -> Path:
        return self.root / name

    def start(self, *names: str) -> None:
        for server in self.servers:
            if names and server.name not in names:
                continue
            assert server.name not in self.processes
            conf = self.root / f"{server.name}.conf"
            text = server_conf(
                server,
                self.servers,
                cluster="test",
                data_dir=self.data_dir(server.name),
                user=USER,
                password=PASSWORD,
                max_file_store=MAX_FILE_STORE,
            )
            conf.write_text(self.change(text))
            with (self.root / f"{server.name}.log").open("ab") as output:
                self.processes[server.name] = subprocess.Popen(
                    [self.program, "-c", conf], stdout=output, stderr=output, stdin=subprocess.DEVNULL
                )

    def signal(self, number: signal.Signals, *names: str) -> None:
        for name in names or tuple(self.processes):
            self.processes[name].send_signal(number)

    async def kill(self, *names: str) -> None:
        await self._end(signal.SIGKILL, names or tuple(self.processes))

    async def stop(self, *names: str) -> None:
        await self._end(signal.SIGTERM, names or tuple(self.processes))

    async def _end(self, number: signal.Signals, names: Iterable[str]) -> None:
        ending = [self.processes.pop(name) for name in names]
        for process in ending:
            process.send_signal(number)
        for process in ending:
            await asyncio.to_thread(process.wait, 30)

    def freeze(self, *names: str) -> None:
        self.frozen.update(names)
        self.signal(signal.SIGSTOP, *names)

    def thaw(self, *names: str) -> None:
        for name in names or tuple(self.frozen):
            assert name in self.frozen
            self.signal(signal.SIGCONT, name)
            self.frozen.discard(name)

    def wipe(self, name: str) -> None:
        assert name not in self.processes
        shutil.rmtree(self.data_dir(name))

    async def restore(self) -> None:
        """Bring back all servers, however they were left."""
        self.thaw()
        for name in self.names:
            if name not in self.processes:
                self.start(name)
        await self.ready()

    async def close(self) -> None:
        self.thaw()
        await self.kill()

    async def ready(self) -> None:
        """Every running server is healthy, by its own account."""
        async with aiohttp.ClientSession() as http:
            for server in self.servers:
                if server.name in self.processes and server.name not in self.frozen:
                    await until(lambda s=server: healthy(http, s), 60)

    def service(self) -> LogService:
        return LogService(self.servers, user=USER, password=PASSWORD)

    def log(self, stream: str, *servers: str) -> NatsLog:
        urls = [s.url for s in self.servers if not servers or s.name in servers]
        return NatsLog(urls, stream, user=USER, password=PASSWORD)

    async def delete(self, stream: str) -> None:
        async with self.log(stream) as log:
            answer = await log._patiently(lambda: log._link.ask(f"STREAM.DELETE.{stream}"))
            if "error" in answer:
                raise failure(stream, answer["error"])

    async def varz(self, name: str, path: str = "varz") -> dict[str, Any]:
        server = next(server for server in self.servers if server.name == name)
        async with aiohttp.ClientSession() as http, http.get(f"{server.monitor}/{path}") as answer:
            result: dict[str, Any] = await answer.json()
            return result


async def healthy(http: aiohttp.ClientSession, server: Server) -> bool:
    try:
        async with http.get(f"{server.monitor}/healthz", timeout=aiohttp.ClientTimeout(total=1)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def until(condition: Any, seconds: float, what: str = "") -> Any:
    """Poll an async condition until it returns something true."""
    end = asyncio.get_running_loop().time() + seconds
    while not (result := await condition()):
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        await asyncio.sleep(0.02)
    return result


@contextlib.asynccontextmanager
async def running(size: int, *, change: Callable[[str], str] = lambda conf: conf) -> AsyncIterator[Service]:
    """Run a log service; ``change`` spoils the servers' configuration."""
    root = Path(tempfile.mkdtemp(prefix="mcl-", dir="/tmp"))
    service = Service(size, root, await find_server(), change)
    service.start()
    try:
        await service.ready()
        yield service
    finally:
        await service.close()
        shutil.rmtree(root, ignore_errors=True)


def kept_running(size: int) -> Iterator[Service]:
    """Yield a log service for many tests: it outlives the event loop of each."""
    with asyncio.Runner() as runner:
        context = running(size)
        service = runner.run(context.__aenter__())
        try:
            yield service
        finally:
            runner.run(context.__aexit__(None, None, None))
