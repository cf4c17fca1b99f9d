"""How the operator does with many clusters: a real API server, and pods that only say that they are ready.

    python -m tests.operator.scale [--clusters 500] [--rest 120]

Prints a table for docs. Needs root: it runs in a network namespace of its own, where one process plays the
agents of all nodes, each at the address of its pod.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml
from aiohttp import web
from tests.lab.apiserver import ApiServer
from tests.operator.conftest import CONTROLLERS, ROOT, SYSTEM, Operator, ask, eventually, make_namespace
from tests.operator.kubelet import ZONES, condition

from memorycluster_operator.kube import API_ERRORS, Kube, configuration, path

NAMESPACES = 10
AT_ONCE = 16
OLDER = 10
"""Clusters that serve already while all others are created."""
INSIDE = "SCALE_INSIDE"
"""Set in the environment once we are in the network namespace."""


@dataclass
class Agent:
    """A node's agent, of which only the status is there."""

    cluster: Cluster
    node: str
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def status(self) -> dict[str, Any]:
        leads = self.cluster.leader == self.node
        said: dict[str, Any] = {
            "node": self.node,
            "role": "leader" if leads else "follower",
            "epoch": self.cluster.epoch,
            "leader": self.cluster.leader,
            "committed": 1000,
            "applied": 1000,
            "lag": 0,
            "serving": leads,
            "ready": True,
            "message": "",
            "engineVersion": "9.1.2",
            "parameters": {"revision": self.cluster.revision, "applied": True},
        }
        return {**said, "etag": hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}


@dataclass
class Cluster:
    """A MemoryCluster."""

    namespace: str
    name: str
    revision: str = ""
    leader: str = ""
    epoch: int = 1
    agents: dict[str, Agent] = field(default_factory=dict)

    def elect(self, node: str) -> None:
        self.leader, self.epoch = node, self.epoch + 1
        for agent in self.agents.values():
            agent.changed.set()
            agent.changed = asyncio.Event()


class Simulation:
    """Scheduler, kubelets, volumes and agents."""

    def __init__(self, kube: Kube, clusters: list[Cluster]) -> None:
        self.kube = kube
        self.clusters = {(each.namespace, each.name): each for each in clusters}
        self.addresses: dict[str, Agent] = {}
        self._claims: set[str] = set()
        self._next = 2
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def serve(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v1/status", self._status)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", 8080, backlog=4096).start()
        return runner

    async def _status(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        agent = self.addresses[request.transport.get_extra_info("sockname")[0]]
        if agent.status()["etag"] == request.query.get("after"):
            try:
                async with asyncio.timeout(float(request.query.get("wait", "0"))):
                    await agent.changed.wait()
            except TimeoutError:
                pass
        return web.json_response(agent.status())

    async def nodes(self) -> None:
        for index, zone in enumerate(ZONES):
            labels = {"topology.kubernetes.io/zone": zone}
            body = {"kind": "Node", "metadata": {"name": f"node-{index}", "labels": labels}}
            await ask(self.kube, "post", path("Node"), body)
            status = {"conditions": [condition("Ready", True)]}
            await self.kube.patch("Node", "", f"node-{index}", {"status": status}, subresource="status")

    async def run(self) -> None:
        while True:
            try:
                found = await ask(self.kube, "get", path("Pod"), field_selector="spec.nodeName=")
                await self._all(self._start, found.get("items") or [])
                claims, _ = await self.kube.list("PersistentVolumeClaim", metadata_only=True)
                new = [each for each in claims if each["metadata"]["uid"] not in self._claims]
                await self._all(self._bind, new)
            except API_ERRORS as error:
                print(f"simulation: {error}", file=sys.stderr)
            await asyncio.sleep(0.5)

    async def _all(self, what: Callable[[Any], Awaitable[None]], items: Iterable[Any]) -> None:
        async def one(item: Any) -> None:
            async with self._limit:
                try:
                    await what(item)
                except API_ERRORS as error:
                    if getattr(error, "status", None) not in (404, 409):
                        raise

        await asyncio.gather(*map(one, items))

    async def _bind(self, claim: dict[str, Any]) -> None:
        metadata = claim["metadata"]
        status = {"phase": "Bound", "capacity": {"storage": "1Ti"}}
        await self.kube.patch(
            "PersistentVolumeClaim",
            metadata["namespace"],
            metadata["name"],
            {"status": status},
            subresource="status",
        )
        self._claims.add(metadata["uid"])

    async def _start(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        namespace, name, labels = metadata["namespace"], metadata["name"], metadata["labels"]
        target = {"apiVersion": "v1", "kind": "Node", "name": f"node-{int(name.rpartition('-')[2]) % 3}"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await ask(self.kube, "post", path("Pod", namespace, name, "binding"), binding)
        self._next += 1
        address = f"127.{100 + self._next // 65536}.{self._next // 256 % 256}.{self._next % 256}"
        if labels["app.kubernetes.io/component"] == "engine":
            cluster = self.clusters[(namespace, labels["memorycluster.io/cluster"])]
            if not cluster.revision:
                config = await self.kube.get("ConfigMap", namespace, f"{cluster.name}-config")
                assert config is not None
                cluster.revision = json.loads(config["data"]["cluster.json"])["engine"]["revision"]
            cluster.leader = cluster.leader or name
            self.addresses[address] = cluster.agents[name] = Agent(cluster, name)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": now,
            "conditions": [condition(each, True) for each in ("PodScheduled", "ContainersReady", "Ready")],
            "containerStatuses": [
                {
                    "name": each["name"],
                    "image": each["image"],
                    "imageID": "sha256:0",
                    "ready": True,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": now}},
                }
                for each in pod["spec"]["containers"]
            ],
        }
        await self.kube.patch("Pod", namespace, name, {"status": status}, subresource="status")


@dataclass
class Usage:
    """What the operator has used up to a moment."""

    at: float
    cpu: float
    calls: dict[str, float]
    passes: float
    pass_seconds: float

    @classmethod
    async def of(cls, operator: Operator) -> Usage:
        assert operator.process is not None
        times = psutil.Process(operator.process.pid).cpu_times()
        metrics = await operator.metrics()
        calls = metrics.get("memorycluster_api_calls_total", {})
        return cls(
            time.monotonic(),
            times.user + times.system,
            {key: value for key, value in calls.items() if "kind=Lease" not in key},
            sum(metrics.get("memorycluster_passes_total", {}).values()),
            sum(metrics.get("memorycluster_pass_seconds_sum", {}).values()),
        )

    def since(self, before: Usage) -> tuple[float, float, float]:
        """Return seconds, CPU seconds and API calls since then."""
        calls = sum(self.calls.values()) - sum(before.calls.values())
        return self.at - before.at, self.cpu - before.cpu, calls


def memory(operator: Operator) -> float:
    """Return the operator's memory, in MiB."""
    assert operator.process is not None
    return float(psutil.Process(operator.process.pid).memory_full_info().uss) / (1 << 20)


async def measure(server: ApiServer, directory: Path, count: int, rest: float) -> list[tuple[str, str]]:
    """Run it, and return the rows of the table."""
    rows: list[tuple[str, str]] = []

    def row(what: str, value: str) -> None:
        rows.append((what, value))
        print(f"{what}: {value}", file=sys.stderr, flush=True)

    async with Kube(await configuration(str(server.kubeconfig))) as kube:
        for path in sorted((ROOT / "crds").iterdir()):
            definition = yaml.safe_load(path.read_text())
            await ask(kube, "post", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        await eventually(lambda: kube.served("MemoryCluster"))
        await eventually(lambda: kube.served("MemorySnapshot"))
        for name in (SYSTEM, *(f"team-{index}" for index in range(NAMESPACES))):
            await make_namespace(kube, name)
        clusters = [Cluster(f"team-{index % NAMESPACES}", f"cluster-x{index}y") for index in range(count)]
        simulation = Simulation(kube, clusters)
        await simulation.nodes()
        runner = await simulation.serve()
        working = asyncio.create_task(simulation.run())
        operator = Operator(
            server.kubeconfig, directory / "operator.log", module="tests.operator.scale_operator"
        )
        try:
            operator.start()
            await eventually(operator.leads)
            row("memory of the operator with no cluster", f"{memory(operator):.0f} MiB")
            older, newer = clusters[:OLDER], clusters[OLDER:]
            await simulation._all(lambda each: create(kube, each), older)
            await eventually(lambda: all_ready(kube, len(older)), within=600)
            first = await Usage.of(operator)
            began, at = time.monotonic(), datetime.now(UTC)
            meanwhile: list[float] = []
            failing = asyncio.create_task(fail_over_for_ever(kube, older, meanwhile))
            await simulation._all(lambda each: create(kube, each), newer)
            await eventually(lambda: all_ready(kube, count), within=2400)
            took = time.monotonic() - began
            failing.cancel()
            with suppress(asyncio.CancelledError):
                await failing
            seconds, cpu, calls = (await Usage.of(operator)).since(first)
            row(f"{len(newer)} more created, and all Ready (pods that are ready at once)", f"{took:.0f} s")
            after = sorted([(each - at).total_seconds() for each in await ready_since(kube, newer)])
            row("the first of them was after", f"{after[0]:.0f} s; half of them after {median(after):.0f} s")
            row("meanwhile, a failover of one that serves shows after", spread(meanwhile))
            row("the operator's CPU for that", f"{cpu:.0f} s, {1000 * cpu / len(newer):.0f} ms a cluster")
            row("its API calls for that", f"{calls / len(newer):.1f} a cluster")
            await asyncio.sleep(20)
            before = await Usage.of(operator)
            await asyncio.sleep(rest)
            after = await Usage.of(operator)
            seconds, cpu, calls = after.since(before)
            row(
                "API calls at rest, beside the lease and the watches",
                f"{calls:.0f} in {seconds:.0f} s: {calls / count / seconds * 60:.4f} a cluster and minute",
            )
            row("CPU at rest", f"{cpu / seconds * 100:.1f} % of a core")
            row("memory at rest", f"{memory(operator):.0f} MiB")
            passes = after.passes - before.passes
            if passes:
                mean = (after.pass_seconds - before.pass_seconds) / passes * 1000
                row("passes at rest", f"{passes:.0f}, {mean:.1f} ms each")
            await latencies(kube, clusters, row)
            operator.stop()
            operator.start()
            began = time.monotonic()
            await eventually(operator.leads)

            async def seen() -> bool:
                passes = (await operator.metrics()).get("memorycluster_passes_total", {})
                return passes.get("result=ok", 0) >= count

            await eventually(seen, within=600)
            row("an operator that starts has looked at all after", f"{time.monotonic() - began:.1f} s")
            calls = sum((await Usage.of(operator)).calls.values())
            row("its API calls for that", f"{calls:.0f}")
        finally:
            operator.kill()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await runner.cleanup()
    return rows


async def create(kube: Kube, cluster: Cluster) -> None:
    """Create a MemoryCluster."""
    metadata = {"name": cluster.name, "namespace": cluster.namespace}
    spec = {"replicasPerShard": 2, "log": {"maxBytes": "64Mi"}}
    await kube.create(
        {
            "apiVersion": "memorycluster.io/v1alpha1",
            "kind": "MemoryCluster",
            "metadata": metadata,
            "spec": spec,
        }
    )


async def all_ready(kube: Kube, count: int) -> bool:
    """Say whether every MemoryCluster is Ready."""
    await asyncio.sleep(2)
    found, _ = await kube.list("MemoryCluster")
    phases = [(each.get("status") or {}).get("phase") for each in found]
    print(f"{phases.count('Ready')} of {count} Ready", file=sys.stderr, flush=True)
    return phases.count("Ready") == count


async def ready_since(kube: Kube, clusters: list[Cluster]) -> list[datetime]:
    """Return since when each cluster is Ready."""
    found, _ = await kube.list("MemoryCluster")
    ready = {
        (obj["metadata"]["namespace"], obj["metadata"]["name"]): each["lastTransitionTime"]
        for obj in found
        for each in obj["status"]["conditions"]
        if each["type"] == "Ready"
    }
    return [datetime.fromisoformat(ready[each.namespace, each.name]) for each in clusters]


async def latencies(kube: Kube, clusters: list[Cluster], row: Callable[[str, str], None]) -> None:
    """Measure how soon a failover shows in the pods' labels: of one cluster, and of all at once."""
    some = random.Random(7).sample(clusters, min(100, len(clusters)))
    row("a failover shows in the pods' labels after", spread([await fail_over(kube, each) for each in some]))
    began = time.monotonic()
    for cluster in clusters:
        cluster.elect(next(node for node in cluster.agents if node != cluster.leader))
    for cluster in clusters:
        await eventually(lambda: leads(kube, cluster, cluster.leader, 0.02), within=300)  # noqa: B023
    row(f"failovers of all {len(clusters)} at once show after", f"{time.monotonic() - began:.1f} s")


async def fail_over(kube: Kube, cluster: Cluster) -> float:
    """Return after how many milliseconds a failover shows in the pods' labels."""
    successor = next(node for node in cluster.agents if node != cluster.leader)
    began = time.monotonic()
    cluster.elect(successor)
    await eventually(lambda: leads(kube, cluster, successor, 0.005))
    return (time.monotonic() - began) * 1000


async def fail_over_for_ever(kube: Kube, clusters: list[Cluster], times: list[float]) -> None:
    """Fail one cluster over after the other, and note how soon that shows."""
    for cluster in cycle(clusters):
        times.append(await fail_over(kube, cluster))
        await asyncio.sleep(0.2)


def spread(times: list[float]) -> str:
    """Return what there is to say of milliseconds."""
    times = sorted(times)
    return f"{median(times):.0f} ms (median), {times[int(len(times) * 0.99) - 1]:.0f} ms (p99)"


async def leads(kube: Kube, cluster: Cluster, node: str, pause: float) -> bool:
    """Say whether a pod is labelled as the primary's."""
    pod = await kube.get("Pod", cluster.namespace, node)
    if pod is not None and pod["metadata"]["labels"].get("memorycluster.io/role") == "primary":
        return True
    await asyncio.sleep(pause)
    return False


def main() -> None:
    """Run it in a network namespace, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--rest", type=float, default=120)
    options = parser.parse_args()
    if INSIDE not in os.environ:
        # The API server wants to have an address, and a route.
        script = 'ip link set lo up; ip addr add 192.0.2.1/32 dev lo; ip route add default dev lo; exec "$@"'
        command = [sys.executable, "-m", "tests.operator.scale", *sys.argv[1:]]
        sys.exit(
            subprocess.run(
                ["unshare", "--net", "sh", "-c", script, "sh", *command],
                env={**os.environ, INSIDE: base64.b64encode(os.urandom(6)).decode()},
                check=False,
            ).returncode
        )
    directory = Path(tempfile.mkdtemp(prefix="memorycluster-scale-"))
    os.environ["SCALE_MADE"] = str(directory / "made.json")
    try:
        with ApiServer(controllers=CONTROLLERS) as server:
            rows = asyncio.run(measure(server, directory, options.clusters, options.rest))
        print("| | |\n|---|---|")
        for what, value in rows:
            print(f"| {what} | {value} |")
    finally:
        log = directory / "operator.log"
        if log.exists() and sys.exc_info()[0] is not None:
            print(log.read_text()[-5000:], file=sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
