"""Pods on loopback: each has an address of its own, its volumes and the processes of its two containers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import psutil
import redis
from tests.log.servers import PASSWORD, USER, Service, running

from memorycluster.pod.config import ClusterConfig, EngineConfig, LogConfig, Ports, ShardConfig

MODULE = [sys.executable, "-m", "memorycluster.pod"]
CLIENTS, BUS, API = 24379, 24380, 24381
TOKEN = "the cluster's token"
GRACE = 30.0
"""Seconds that Kubernetes gives a pod to end: terminationGracePeriodSeconds."""
PATIENCE = 90.0

_networks = count(os.getpid() % 200 * 200)


def network() -> str:
    """The first three numbers of addresses that are nobody else's."""
    number = next(_networks)
    return f"127.{20 + number // 200 % 200}.{number % 200}"


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses."""
    found: list[int] = []
    start = os.getpid() * 13 % 400
    for offset in range(600):
        port = 24400 + (start + offset) % 600
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


async def until(get: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Return what `get` (may be async) returns, once that is true."""
    deadline = time.monotonic() + patience
    while True:
        found = get()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        await asyncio.sleep(0.02)


class Pod:
    """One pod: what Kubernetes would make of it."""

    def __init__(self, pods: Pods, name: str, follow_port: int) -> None:
        self.pods = pods
        self.name = name
        self.follow_port = follow_port
        self.volumes = pods.root / name
        self.run = pods.root / f"r{name[-3:]}"
        self.address = pods.next_address()
        self.containers: dict[str, subprocess.Popen[bytes]] = {}
        for directory in ("config", "secrets", "pod"):
            (self.volumes / directory).mkdir(parents=True)
        secrets = {"log-password": PASSWORD, "agent-password": "agents only", "api-token": TOKEN}
        for key, value in secrets.items():
            (self.volumes / "secrets" / key).write_text(value)
        (self.volumes / "pod" / "zone").write_text(f"zone-{name[-1]}")
        self.tell()

    def tell(self) -> None:
        """Write the cluster's configuration."""
        ports = self.pods.config.ports.model_copy(update={"follow": self.follow_port})
        config = self.pods.config.model_copy(update={"ports": ports})
        (self.volumes / "config" / "cluster.json").write_text(config.dump())

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.pods.programs}:{os.environ['PATH']}"
        return dict(os.environ) | {"POD_NAME": self.name, "POD_IP": self.address, "PATH": path}

    def start(self, *, address: str | None = None) -> None:
        """Start both containers, at an address that may be another one than before."""
        self.address = address or self.address
        self.pods.write_hosts()
        shutil.rmtree(self.run, ignore_errors=True)  # an emptyDir
        self.run.mkdir()
        for container in ("engine", "agent"):
            self.output(container).unlink(missing_ok=True)
            self.start_container(container)

    def start_container(self, container: str) -> None:
        hosts = ["--hosts", str(self.pods.hosts)] if container == "agent" else []
        with self.output(container).open("ab") as output:
            self.containers[container] = subprocess.Popen(
                [*MODULE, container, "--config-dir", str(self.volumes), "--run-dir", str(self.run), *hosts],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def output(self, container: str) -> Path:
        """What `kubectl logs -c container` shows."""
        return self.pods.root / f"{self.name}.{container}"

    def said(self, container: str) -> str:
        """What it has printed since the pod was started."""
        return self.output(container).read_text()

    def signal(self, number: signal.Signals, *containers: str) -> None:
        for container in containers or ("engine", "agent"):
            self.containers[container].send_signal(number)

    async def ended(self, within: float = GRACE) -> list[int]:
        """Wait for both containers to end; return their exit statuses."""
        return [await asyncio.to_thread(each.wait, within) for each in self.containers.values()]

    async def kill(self) -> None:
        """End it as a node's death does."""
        self.signal(signal.SIGKILL)
        await self.ended()
        await until(lambda: not self.left(), "the kernel ends what they had started")

    def left(self) -> list[psutil.Process]:
        """What still runs of it."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            if str(self.run) in " ".join(process.info["cmdline"] or []):
                found.append(process)
        return [each for each in found if each.info["status"] != psutil.STATUS_ZOMBIE]

    def process(self, part: str) -> psutil.Process:
        """The process `valkey-server` or `memorycluster.agent` of it."""
        container = {"valkey-server": "engine", "memorycluster.agent": "agent"}[part]
        children = psutil.Process(self.containers[container].pid).children()
        return next(each for each in children if part in " ".join(each.cmdline()))

    # Its API and its engine

    async def http(
        self, method: str, path: str, *, token: str | None = TOKEN, **body: Any
    ) -> tuple[int, Any]:
        """Return the status code, and the body: data if it is JSON."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=60)
        url = f"http://{self.address}:{API}{path}"
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, headers=headers, **body) as answer,
        ):
            is_json = answer.content_type == "application/json"
            return answer.status, await (answer.json() if is_json else answer.text())

    async def status(self) -> dict[str, Any]:
        """What its agent says; nothing if it does not answer."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            code, said = await self.http("GET", "/v1/status")
            assert code == 200, said
            return dict(said)
        return {}

    async def ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            return (await self.http("GET", "/readyz", token=None))[0] == 200
        return False

    def client(self) -> redis.Redis:
        return redis.Redis(self.address, CLIENTS, socket_timeout=20)

    def view(self) -> dict[str, tuple[str, str, str]]:
        """By node id: address, name, whether it is linked; as its engine sees the cluster."""
        with self.client() as client:
            text = client.execute_command("CLUSTER", "NODES")
        view = {}
        lines = text.decode().splitlines() if isinstance(text, bytes) else []
        for line in lines:
            fields = line.split()
            address, _, name = fields[1].partition(",")
            view[fields[0]] = (address.rpartition(":")[0], name, fields[7])
        return view


class Pods:
    """The pods of a cluster, and its log."""

    def __init__(self, root: Path, programs: Path, config: ClusterConfig, log: Service | None = None) -> None:
        self.root = root
        self.log = log
        self.programs = programs
        self.config = config
        self.hosts = root / "hosts"
        self.network = network()
        self._addresses = count(1)
        self._follow_ports = iter(free_ports(24))
        self.pods: dict[str, Pod] = {}
        for node in config.topology().nodes:
            self.add(node.name)

    def next_address(self) -> str:
        return f"{self.network}.{next(self._addresses)}"

    def add(self, name: str) -> Pod:
        self.pods[name] = pod = Pod(self, name, next(self._follow_ports))
        return pod

    def tell(self, **change: Any) -> None:
        """Change the cluster's configuration, as its operator does."""
        self.config = self.config.model_copy(update=change)
        for pod in self.pods.values():
            pod.tell()

    def write_hosts(self) -> None:
        """Have all names lead to where their pods are now."""
        lines = [f"{pod.address} {self.config.hostname(pod.name)}\n" for pod in self.pods.values()]
        self.hosts.write_text("".join(lines))

    async def primary(self) -> Pod:
        """The pod that serves as primary of a one-shard cluster."""

        async def found() -> Pod | None:
            for pod in self.pods.values():
                if (await pod.status()).get("serving"):
                    return pod
            return None

        primary = await until(found, "a primary")
        assert isinstance(primary, Pod)
        return primary

    async def replica(self) -> Pod:
        primary = await self.primary()
        return next(pod for pod in self.pods.values() if pod is not primary)

    async def restore(self) -> None:
        """Have all pods run, as they were configured at first, and ready."""
        if self.log:
            await self.log.restore()
        self.tell(engine=EngineConfig(revision="r0"))
        for pod in self.pods.values():
            parameters = (await pod.status()).get("parameters", {}) if pod.containers else {}
            if (parameters.get("revision"), parameters.get("applied")) != ("r0", True):
                for container in pod.containers.values():
                    container.kill()
                if pod.containers:
                    await pod.ended()
                await until(lambda pod=pod: not pod.left(), "nothing is left")
                pod.start()
        await self.all_ready()

    async def all_ready(self) -> None:
        for pod in self.pods.values():
            await until(pod.ready, f"{pod.name} is ready\n{self.tail()}")

    async def agree(self, pods: Iterable[Pod] | None = None) -> None:
        """Wait until all see each other at their addresses and names, linked, and nobody else."""
        there = list(pods or self.pods.values())
        nodes = {node.name: node for node in self.config.topology().nodes}
        expected = {
            nodes[pod.name].id: (pod.address, self.config.hostname(pod.name), "connected") for pod in there
        }
        for pod in there:

            def agrees(pod: Pod = pod) -> bool:
                with contextlib.suppress(redis.RedisError):
                    return pod.view() == expected
                return False

            await until(agrees, f"{pod.name} sees {expected}")

    def tail(self) -> str:
        """The end of what everybody printed."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self.root.glob("*.*"))
            if path.suffix in (".engine", ".agent")
        )

    async def close(self) -> None:
        for pod in self.pods.values():
            for process in pod.containers.values():
                if process.poll() is None:
                    process.kill()
        for pod in self.pods.values():
            if pod.containers:
                await pod.ended()
                await until(lambda pod=pod: not pod.left(), "nothing is left")


def configure(servers: Iterable[str], user: str, *, shards: int = 1, nodes: int = 3) -> ClusterConfig:
    return ClusterConfig(
        cluster="orders",
        namespace="shop",
        uid=str(uuid4()),
        domain="orders-nodes.shop.svc.cluster.local",
        shards=tuple(ShardConfig(generation=UUID(int=index + 1)) for index in range(shards)),
        nodes_per_shard=nodes,
        zones=("zone-a", "zone-b", "zone-c"),
        log=LogConfig(servers=tuple(servers), user=user),
        lease=2.0,
        engine=EngineConfig(revision="r0"),
        ports=Ports(clients=CLIENTS, bus=BUS, api=API),
    )


@contextlib.asynccontextmanager
async def cluster(programs: Path, *, shards: int = 1, nodes: int = 3) -> AsyncIterator[Pods]:
    """Run the log, make the shards' logs, and yield the pods, not yet started."""
    async with running(3) as log:
        config = configure(log.urls, USER, shards=shards, nodes=nodes)
        await _make_logs(log, config)
        root = Path(tempfile.mkdtemp(prefix="mcp", dir="/tmp"))
        pods = Pods(root, programs, config, log)
        try:
            yield pods
        finally:
            await pods.close()
            shutil.rmtree(root)


async def _make_logs(log: Service, config: ClusterConfig) -> None:
    async with log.service() as admin:
        for index, shard in enumerate(config.shards):
            await admin.create(config.stream(index), shard.generation, max_bytes=1 << 30)
