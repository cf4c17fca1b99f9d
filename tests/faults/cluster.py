"""A real local cluster (`memorycluster run --detach`), with a hand on each of its processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from tests.faults.resp import Address
from tests.faults.workload import SLOTS, Shard

from memorycluster.local.agents import agent_statuses, fail_over
from memorycluster.local.layout import Layout
from memorycluster.local.plan import log_port_numbers, stream_name
from memorycluster.local.ports import HOST
from memorycluster.local.state import Secrets, load_state, running_pid
from memorycluster.log.nats import NatsLog


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the cluster that faults are done to: an engine or an agent of a node, or a log server."""

    part: str
    """engine, agent or log."""
    name: str
    """The node's name; of a log server: its zone."""

    def __str__(self) -> str:
        return f"{self.part} {self.name}"


@dataclass(frozen=True, slots=True)
class Node:
    """A node, and where clients find it."""

    name: str
    shard: int
    address: Address
    agent_socket: Path

    @property
    def engine(self) -> Member:
        return Member("engine", self.name)

    @property
    def agent(self) -> Member:
        return Member("agent", self.name)


class Broken(AssertionError):
    """The cluster is not what it must be."""


class Cluster:
    """A local cluster in `directory`, which must be a short path that is this cluster's alone."""

    def __init__(
        self,
        directory: Path,
        *,
        base_port: int,
        shards: int = 1,
        replicas: int = 2,
        lease: str = "2s",
        parameters: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.base_port = base_port
        self.zones = ("zone-a", "zone-b", "zone-c")
        self.lease = float(lease.removesuffix("s"))
        self.manifest = directory / "faults.yaml"
        spec = {
            "engine": {"version": "9.1.2", "parameters": parameters or {}},
            "shards": shards,
            "replicasPerShard": replicas,
            "zones": list(self.zones),
            "failover": {"lease": lease},
        }
        resource = {
            "apiVersion": "memorycluster.io/v1alpha1",
            "kind": "MemoryCluster",
            "metadata": {"name": "faults"},
            "spec": spec,
        }
        directory.mkdir(parents=True, exist_ok=True)
        self.manifest.write_text(yaml.safe_dump(resource))
        self.nodes: list[Node] = []

    # ---- as its user

    async def start(self) -> None:
        """Bring it up, and return once it serves."""
        at = ["--data-dir", str(self.data), "--base-port", str(self.base_port), "--detach"]
        await self._command("run", str(self.manifest), *at, seconds=900)
        status = await self.status()
        layout = Layout(self.data)
        self.nodes = [
            Node(
                name=node["name"],
                shard=shard["index"],
                address=_address(node["endpoint"]),
                agent_socket=layout.sockets / f"{shard['index']}-{node['name'].rpartition('-')[2]}.agent",
            )
            for shard in status["shards"]
            for node in shard["nodes"]
        ]

    async def stop(self) -> None:
        """Stop it cleanly, if it runs."""
        if running_pid(Layout(self.data)) is None:
            return
        self.resume(self.members())
        await self._command("stop", "--data-dir", str(self.data), seconds=60)

    async def end(self) -> None:
        """Kill the supervisor; the kernel kills the others with it."""
        self.supervisor().kill()
        async with asyncio.timeout(10):
            while self.processes():
                await asyncio.sleep(0.02)

    async def status(self) -> dict[str, Any]:
        """Return what `memorycluster status` says, or its `status` part if it is a whole resource."""
        said = yaml.safe_load(
            await self._command("status", "--data-dir", str(self.data), "-o", "json", seconds=30)
        )
        status: dict[str, Any] = said.get("status", said)
        return status

    async def fail_over(self, shard: int, to: Node | None = None) -> None:
        """Have another node lead."""
        leader = await self.leader(shard)
        await fail_over(leader.agent_socket, to.name if to else None)

    async def _command(self, *arguments: str, seconds: float) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "memorycluster",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, errors = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            process.kill()
            raise
        if process.returncode:
            said = (out + errors).decode()[-3000:]
            raise Broken(f"memorycluster {arguments[0]}: exit status {process.returncode}:\n{said}")
        return out.decode()

    def open_log(self, shard: int = 0) -> NatsLog:
        """Return a client of the shard's log, for looking at it."""
        layout = Layout(self.data)
        state = load_state(layout)
        if state is None:
            raise Broken(f"{self.data}: no state")
        secrets = Secrets.model_validate_json(layout.secrets.read_text())
        servers = [f"nats://{HOST}:{log_port_numbers(state, zone)[0]}" for zone in self.zones]
        return NatsLog(
            servers,
            stream_name(state.cluster, shard),
            user=secrets.log_user,
            password=secrets.log_password.get_secret_value(),
        )

    # ---- as its agents say

    def shards(self) -> list[Shard]:
        """Return the shards for a workload."""
        indexes = sorted({node.shard for node in self.nodes})
        result = []
        for index in indexes:
            nodes = [node.address for node in self.nodes if node.shard == index]
            first, beyond = SLOTS * index // len(indexes), SLOTS * (index + 1) // len(indexes)
            result.append(Shard(first, beyond - 1, nodes, nodes[0]))
        return result

    async def said(self, nodes: Sequence[Node] | None = None) -> list[dict[str, Any] | None]:
        """Return what each node's agent says; None for one that doesn't answer."""
        return await agent_statuses([node.agent_socket for node in (self.nodes if nodes is None else nodes)])

    async def leader(self, shard: int = 0, *, seconds: float = 30) -> Node:
        """Return the node that serves as primary, waiting for one."""
        nodes = [node for node in self.nodes if node.shard == shard]
        async with asyncio.timeout(seconds):
            while True:
                for node, status in zip(nodes, await self.said(nodes), strict=True):
                    if status and status["serving"]:
                        return node
                await asyncio.sleep(0.02)

    async def followers(self, shard: int = 0) -> list[Node]:
        """Return the other nodes."""
        leader = await self.leader(shard)
        return [node for node in self.nodes if node.shard == shard and node != leader]

    async def log_leader(self, shard: int = 0) -> Member:
        """Return the server that leads the shard's log."""
        async with asyncio.timeout(30):
            while True:
                for status in await self.said([await self.leader(shard)]):
                    for member in ((status or {}).get("log") or {}).get("members", ()):
                        if member["leader"]:
                            return Member("log", member["name"].removeprefix("log-"))
                await asyncio.sleep(0.1)

    async def whole(self, *, seconds: float = 60) -> None:
        """Wait until each shard has a leader that serves, and every other node and log member is current.

        :raises Broken: if that takes longer than `seconds`.
        """
        problem = ""
        try:
            async with asyncio.timeout(seconds):
                while problem := self._incomplete(await self.said()):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise Broken(f"after {seconds} s still: {problem}") from None

    def _incomplete(self, statuses: Iterable[dict[str, Any] | None]) -> str:
        leaders = []
        for node, status in zip(self.nodes, statuses, strict=True):
            if status is None:
                return f"{node.name}: its agent does not answer"
            if not status["ready"]:
                return f"{node.name}: {status['role']}, not ready: {status['message']}"
            if status["serving"]:
                leaders.append(node.shard)
                log = status["log"] or {"members": []}
                lagging = [m["name"] for m in log["members"] if not m["current"]]
                if lagging or len(log["members"]) != len(self.zones):
                    return f"log of shard {node.shard}: {log['members']}"
        if sorted(leaders) != sorted({node.shard for node in self.nodes}):
            return f"serving leaders in shards {leaders}"
        return ""

    # ---- as the kernel sees it

    @property
    def log_servers(self) -> list[Member]:
        return [Member("log", zone) for zone in self.zones]

    def members(self) -> list[Member]:
        """Return all members."""
        return [m for node in self.nodes for m in (node.engine, node.agent)] + self.log_servers

    def processes(self) -> dict[Member, psutil.Process]:
        """Return the processes that run now. Each has the data directory on its command line."""
        found: dict[Member, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if f"{self.data}/" not in command or "setpriv" in command:
                continue
            for node in self.nodes:
                if f"{self.data}/nodes/{node.name}/valkey.conf" in command:
                    found[node.engine] = process
                elif f"{self.data}/nodes/{node.name}/agent.yaml" in command:
                    found[node.agent] = process
            for member in self.log_servers:
                if f"{self.data}/log/{member.name}/" in command:
                    found[member] = process
        return found

    def supervisor(self) -> psutil.Process:
        """Return the process that keeps the others running."""
        pid = int(Layout(self.data).lock.read_text())
        return psutil.Process(pid)

    def send(self, members: Iterable[Member], number: signal.Signals) -> None:
        """Send a signal to members, all at (nearly) the same time.

        :raises Broken: if one of them does not run.
        """
        running = self.processes()
        missing = [str(member) for member in members if member not in running]
        if missing:
            raise Broken(f"not running: {', '.join(missing)}")
        for member in members:
            os.kill(running[member].pid, number)

    def kill(self, *members: Member) -> None:
        """`kill -9`."""
        self.send(members, signal.SIGKILL)

    def pause(self, *members: Member) -> None:
        """SIGSTOP."""
        self.send(members, signal.SIGSTOP)

    def resume(self, members: Iterable[Member]) -> None:
        """SIGCONT, to those that still run."""
        running = self.processes()
        for member in members:
            if member in running:
                os.kill(running[member].pid, signal.SIGCONT)


def _address(endpoint: str) -> Address:
    host, _, port = endpoint.rpartition(":")
    return host or HOST, int(port)


async def stoppable(main: Coroutine[None, None, int]) -> int:
    """Run `main`; SIGTERM cancels it, so that no cluster stays behind."""
    task = asyncio.ensure_future(main)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task
