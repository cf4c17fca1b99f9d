"""The systems that are measured: our whole local cluster, and stock Valkey in three ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from benchmarks.programs import BenchError, make_directory, processes_of, run

VALUE = 64
"""Bytes of a value, unless a section says otherwise."""

READY_WITHIN = 120.0
"""Seconds for a system to be ready."""


@dataclass
class System:
    """A server under load."""

    name: str
    programs: Path
    """Directory with valkey-cli and valkey-benchmark."""
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def cli(self, *command: str) -> str:
        return await run(self.programs / "valkey-cli", "-p", str(self.port), *command)

    async def info(self, section: str) -> dict[str, str]:
        lines = (await self.cli("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    async def engine(self) -> int:
        """Return the pid of the engine that serves."""
        return int((await self.info("server"))["process_id"])


@dataclass
class Node:
    """A node of a local cluster, by its agent's configuration."""

    name: str
    agent: dict[str, Any]

    async def status(self) -> dict[str, Any]:
        connector = aiohttp.UnixConnector(self.agent["api_socket"])
        timeout = aiohttp.ClientTimeout(total=2)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
            http.get("http://agent/v1/status") as answer,
        ):
            status: dict[str, Any] = await answer.json()
            return status


@dataclass
class Durable(System):
    """A MemoryCluster of one shard, all of it on this machine, run by `memorycluster run`."""

    root: Path = Path()
    nodes: dict[str, Node] = field(default_factory=dict)
    primary: str = ""

    def pids(self, kind: str, node: str = "") -> list[int]:
        """Return the pids of the "engine", "agent" or "log" processes; of one node, or of all of them."""
        marks = {"engine": "valkey-server", "agent": "memorycluster.agent", "log": "nats-server"}
        place = f"{self.root}/" + (f"nodes/{node}/" if node else "")
        lines = processes_of(self.root).items()
        return [pid for pid, line in lines if marks[kind] in line and place in line]

    async def statuses(self) -> dict[str, dict[str, Any]]:
        said = {}
        for name, node in self.nodes.items():
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                said[name] = await node.status()
        return said


MANIFEST = {
    "apiVersion": "memorycluster.io/v1alpha1",
    "kind": "MemoryCluster",
    "metadata": {"name": "bench"},
}


@contextlib.asynccontextmanager
async def durable(
    programs: Path, root: Path, *, io_threads: int = 1, replicas: int = 2
) -> AsyncIterator[Durable]:
    """Run a cluster in ``root``, and stop it."""
    make_directory(root)
    manifest = root.parent / f"{root.name}.yaml"
    spec = {
        "engine": {"ioThreads": io_threads},
        "shards": 1,
        "replicasPerShard": replicas,
        "log": {"maxBytes": "24Gi"},
    }
    manifest.write_text(yaml.safe_dump({**MANIFEST, "spec": spec}))
    command = (sys.executable, "-m", "memorycluster")
    try:
        await run(*command, "run", manifest, "--data-dir", root, "--detach", within=READY_WITHIN + 300)
        said = json.loads(await run(*command, "status", "--data-dir", root, "-o", "json"))
        shard = said["status"]["shards"][0]
        endpoints = {node["name"]: node["endpoint"] for node in shard["nodes"]}
        system = Durable(
            "durable",
            programs,
            int(endpoints[shard["primary"]].rpartition(":")[2]),
            root=root,
            primary=shard["primary"],
        )
        for name in endpoints:
            config = (root / "nodes" / name / "agent.yaml").read_text()
            system.nodes[name] = Node(name, yaml.safe_load(config))
        yield system
    finally:
        with contextlib.suppress(BenchError):
            await run(*command, "stop", "--data-dir", root)


@contextlib.asynccontextmanager
async def stock(
    programs: Path,
    root: Path,
    name: str,
    *options: str,
    io_threads: int = 1,
    cluster: bool = True,
) -> AsyncIterator[System]:
    """Run one stock server in ``root``; with all slots of a cluster, unless told otherwise."""
    make_directory(root)
    port = free_port()
    arguments: Sequence[str] = [
        *(
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(root),
            "--save",
            "",
            "--protected-mode",
            "no",
        ),
        *("--io-threads", str(io_threads), "--logfile", str(root / "output.log")),
        *("--cluster-enabled", "yes" if cluster else "no"),
        *options,
    ]
    # In a session of its own, as the parts of a cluster are: Linux shares CPU time out by sessions first.
    process = await asyncio.create_subprocess_exec(
        programs / "valkey-server", *arguments, start_new_session=True
    )
    try:
        system = System(name, programs, port)
        await until_pong(system)
        if cluster:
            await system.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            while "cluster_state:ok" not in await system.cli("CLUSTER", "INFO"):
                await asyncio.sleep(0.1)
        yield system
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def waitaof(programs: Path, root: Path, fsync: str, *, io_threads: int = 1) -> AsyncIterator[System]:
    """Run a stock primary with one replica, both with an append-only file; clients use WAITAOF 1 1."""
    name = f"waitaof-{fsync}"
    options = ("--appendonly", "yes", "--appendfsync", fsync, "--repl-diskless-sync-delay", "0")
    async with (
        stock(programs, root / "p", name, *options, io_threads=io_threads, cluster=False) as primary,
        stock(
            *(programs, root / "r", name, *options, "--replicaof", "127.0.0.1", str(primary.port)),
            io_threads=io_threads,
            cluster=False,
        ) as replica,
    ):
        async with asyncio.timeout(READY_WITHIN):
            while (await replica.info("replication"))["master_link_status"] != "up":
                await asyncio.sleep(0.1)
            while (await replica.info("persistence"))["aof_rewrite_in_progress"] != "0":
                await asyncio.sleep(0.1)
        yield primary


def free_port() -> int:
    """Return a port that is free now, and so is its cluster bus port."""
    while True:
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError, OverflowError):
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            two.bind(("127.0.0.1", port + 10000))
            return port


async def until_pong(system: System) -> None:
    async with asyncio.timeout(READY_WITHIN):
        while True:
            with contextlib.suppress(BenchError):
                if "PONG" in await system.cli("PING"):
                    return
            await asyncio.sleep(0.05)
