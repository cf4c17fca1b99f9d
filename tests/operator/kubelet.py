"""Scheduler, kubelet and volumes for an API server without nodes: pods get an address of loopback, and run.

A pod of the log runs a real nats-server with the configuration that the operator wrote, in a mount namespace
with an /etc/hosts of its own, as there is no DNS. A pod of an engine is a stand-in for its agent (fakes.py).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from tests.operator.fakes import FakeAgent, FakeShard

from memorycluster.log.server import find_server
from memorycluster_operator.kube import API_ERRORS, Kube, path

ZONES = ("zone-a", "zone-b", "zone-c")
LOOK_EVERY = 0.1
DOMAIN = "cluster.local"

_addresses = count(2)


def new_address() -> str:
    """Return an address of loopback that no pod has had."""
    number = next(_addresses) + (os.getpid() % 50) * 1000
    return f"127.{64 + number // 65536 % 64}.{number // 256 % 256}.{number % 256}"


@dataclass
class Running:
    """A pod that runs."""

    pod: dict[str, Any]
    address: str
    process: asyncio.subprocess.Process | None = None
    agent: FakeAgent | None = None
    ready: bool | None = None

    @property
    def is_job(self) -> bool:
        """It is to end by itself."""
        return bool(self.pod["metadata"]["ownerReferences"][0]["kind"] == "Job")


@dataclass
class Kubelet:
    """All nodes of a Kubernetes cluster, one in each zone."""

    kube: Kube
    root: Path
    real_logs: bool = True
    """False: a pod of the log is ready without a server in it."""
    shards: dict[str, FakeShard] = field(default_factory=dict)
    """By ``namespace/statefulset``."""
    running: dict[str, Running] = field(default_factory=dict)
    """By the pod's uid."""
    held: Callable[[dict[str, Any]], bool] = lambda _: False
    """Pods that are not to start."""
    unready: Callable[[dict[str, Any]], bool] = lambda _: False
    """Pods that are not to become ready."""
    _first: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """What runs before the server of a pod, by the pod's uid."""
    jobs: Callable[[dict[str, Any]], tuple[int, str] | None] = lambda _: None
    """How a pod of a Job ends: its exit status, and what it leaves as its message; None: not yet."""
    _task: asyncio.Task[None] | None = None
    _ending: bool = False

    async def __aenter__(self) -> Kubelet:
        for index, zone in enumerate(ZONES):
            name = f"node-{index}"
            if await self.kube.get("Node", "", name) is None:
                labels = {"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}
                await self._ask(
                    "post", path("Node"), {"kind": "Node", "metadata": {"name": name, "labels": labels}}
                )
            status = {"conditions": [condition("Ready", True, "KubeletReady")]}
            await self.kube.patch("Node", "", name, {"status": status}, subresource="status")
            # The API server lets nobody schedule to a new node before its taint is off.
            await self.kube.patch("Node", "", name, {"spec": {"taints": None}})
        self._task = asyncio.create_task(self._run(), name="kubelet")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._ending = True
        self._task.cancel()
        for task in self._first.values():
            task.cancel()
        await asyncio.wait([self._task, *self._first.values()], timeout=30)
        for each in list(self.running.values()):
            await self._stop(each)

    def pod(self, namespace: str, name: str) -> Running:
        """Return a pod that runs."""
        for each in self.running.values():
            if (each.pod["metadata"]["namespace"], each.pod["metadata"]["name"]) == (namespace, name):
                return each
        raise KeyError(name)

    def agent(self, namespace: str, name: str) -> FakeAgent:
        """Return the stand-in for an agent in a pod."""
        agent = self.pod(namespace, name).agent
        assert agent is not None
        return agent

    async def kill(self, namespace: str, name: str) -> None:
        """Delete a pod at once, as when its node is gone and it is deleted by force."""
        running = self.pod(namespace, name)
        await self._stop(running)
        with suppress(*API_ERRORS):
            await self._ask(
                "delete", path("Pod", namespace, name), {"kind": "DeleteOptions", "gracePeriodSeconds": 0}
            )

    async def _run(self) -> None:
        while not self._ending:  # a request that times out as it is cancelled says only the former
            try:
                pods, _ = await self.kube.list("Pod")
                await self._volumes()
                for pod in pods:
                    with suppress(*API_ERRORS):
                        await self._look(pod)
                there = {pod["metadata"]["uid"] for pod in pods}
                for uid, running in list(self.running.items()):
                    if uid not in there:
                        await self._stop(running)
            except API_ERRORS:
                pass  # tests restart the API server
            await asyncio.sleep(LOOK_EVERY)

    async def _volumes(self) -> None:
        claims, _ = await self.kube.list("PersistentVolumeClaim")
        for claim in claims:
            wanted = claim["spec"]["resources"]["requests"]["storage"]
            status = claim.get("status") or {}
            if (status.get("phase"), (status.get("capacity") or {}).get("storage")) != ("Bound", wanted):
                patch = {"status": {"phase": "Bound", "capacity": {"storage": wanted}}}
                metadata = claim["metadata"]
                await self.kube.patch(
                    "PersistentVolumeClaim",
                    metadata["namespace"],
                    metadata["name"],
                    patch,
                    subresource="status",
                )

    async def _look(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        running = self.running.get(metadata["uid"])
        if "deletionTimestamp" in metadata:
            if running is not None:
                await self._stop(running)
            body = {
                "kind": "DeleteOptions",
                "gracePeriodSeconds": 0,
                "preconditions": {"uid": metadata["uid"]},
            }
            await self._ask("delete", path("Pod", metadata["namespace"], metadata["name"]), body)
        elif not pod["spec"].get("nodeName"):
            await self._bind(pod)
        elif running is None:
            if not self.held(pod):
                await self._start(pod)
        elif running.is_job:
            await self._end_job(running)
        else:
            running.pod = pod
            ready = await self._ready(running) and not self.unready(pod)
            if ready != running.ready:
                await self._report(running, ready)
                running.ready = ready

    async def _bind(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        taken = [
            each.pod["spec"]["nodeName"]
            for each in self.running.values()
            if each.pod["metadata"]["ownerReferences"] == metadata["ownerReferences"]
        ]
        ordinal = metadata["name"].rpartition("-")[2]
        index = int(ordinal) if ordinal.isdecimal() else 0
        order = [f"node-{(index + step) % len(ZONES)}" for step in range(len(ZONES))]
        node = min(order, key=taken.count)
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self._ask("post", path("Pod", metadata["namespace"], metadata["name"], "binding"), body)

    async def _start(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        component = metadata["labels"]["app.kubernetes.io/component"]
        running = Running(pod, new_address())
        if component == "snapshot":
            pass
        elif component == "log":
            if self.real_logs and not await self._start_log(running):
                return
        elif not await self._start_agent(running):
            return
        self.running[metadata["uid"]] = running
        self._write_hosts()
        await self._report(running, False)

    async def _start_agent(self, running: Running) -> bool:
        metadata = running.pod["metadata"]
        cluster = metadata["labels"]["memorycluster.io/cluster"]
        secret = await self.kube.get("Secret", metadata["namespace"], f"{cluster}-internal")
        config = await self.kube.get("ConfigMap", metadata["namespace"], f"{cluster}-config")
        if secret is None or config is None:
            return False  # the volumes can't be mounted yet
        token = base64.b64decode(secret["data"]["api-token"]).decode()
        engine = json.loads(config["data"]["cluster.json"]).get("engine") or {}
        owner = f"{metadata['namespace']}/{metadata['ownerReferences'][0]['name']}"
        shard = self.shards.setdefault(owner, FakeShard())
        zone = ZONES[int(running.pod["spec"]["nodeName"].removeprefix("node-"))]
        running.agent = FakeAgent(shard, metadata["name"], zone, token, engine.get("revision", ""))
        await running.agent.start(running.address)
        return True

    async def _start_log(self, running: Running) -> bool:
        metadata = running.pod["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        cluster = metadata["labels"]["memorycluster.io/cluster"]
        secret = await self.kube.get("Secret", namespace, f"{cluster}-log")
        if secret is None:
            return False
        self._write_hosts(extra=running)
        volume = self.root / "volumes" / namespace / f"data-{name}"
        volume.mkdir(parents=True, exist_ok=True)
        if containers := running.pod["spec"].get("initContainers"):
            uid = metadata["uid"]
            if uid not in self._first:  # meanwhile, other pods are looked after
                work = self._run_to_their_end(containers, name, volume)
                self._first[uid] = asyncio.create_task(work, name=f"init of {name}")
            if not self._first[uid].done():
                return False
            self._first[uid].result()
        conf = self.root / f"{metadata['uid']}.conf"
        text = base64.b64decode(secret["data"]["server.conf"]).decode()
        text = text.replace('"/data"', json.dumps(str(volume))).replace(
            '"0.0.0.0"', json.dumps(running.address)
        )
        conf.write_text(text)
        env = {**os.environ, "POD_NAME": name, "POD_IP": running.address, "ZONE_TAG": f"az:{name}"}
        script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
        command = [
            "sh",
            "-c",
            script,
            "sh",
            str(self.root / "hosts"),
            str(await find_server()),
            "-c",
            str(conf),
        ]
        with (self.root / f"{name}.log").open("ab") as output:
            running.process = await asyncio.create_subprocess_exec(
                "unshare",
                "--mount",
                *command,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return True

    async def _run_to_their_end(self, containers: list[dict[str, Any]], pod: str, volume: Path) -> None:
        """Run the init containers of a member of the log."""
        for each in containers:
            await self._run_to_its_end(each, pod, volume)

    async def _run_to_its_end(self, container: dict[str, Any], pod: str, volume: Path) -> None:
        script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
        python, *rest = container["command"]
        assert python == "python"
        with (self.root / f"{pod}.{container['name']}").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *("unshare", "--mount", "sh", "-c", script, "sh", str(self.root / "hosts")),
                *(sys.executable, *rest, "--data", str(volume)),
                env={**os.environ, "POD_NAME": pod},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                assert await process.wait() == 0
            finally:
                if process.returncode is None:
                    process.kill()

    def _write_hosts(self, extra: Running | None = None) -> None:
        lines = ["127.0.0.1 localhost"]
        for each in [*self.running.values(), *([extra] if extra else [])]:
            metadata = each.pod["metadata"]
            cluster = metadata["labels"].get("memorycluster.io/cluster", "")
            ending = "log" if each.process or each.agent is None else "nodes"
            lines.append(
                f"{each.address} {metadata['name']}.{cluster}-{ending}.{metadata['namespace']}.svc.{DOMAIN}"
            )
        # In place: what is mounted is this very file.
        (self.root / "hosts").write_text("\n".join(lines) + "\n")

    async def _stop(self, running: Running) -> None:
        self.running.pop(running.pod["metadata"]["uid"], None)
        if running.agent is not None:
            await running.agent.stop()
        if running.process is not None and running.process.returncode is None:
            running.process.terminate()
            try:
                await asyncio.wait_for(running.process.wait(), 20)
            except TimeoutError:
                running.process.kill()
                await running.process.wait()

    async def _end_job(self, running: Running) -> None:
        metadata = running.pod["metadata"]
        end = self.jobs(running.pod)
        if end is None or running.ready is False:
            return
        running.ready = False
        code, message = end
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        terminated = {
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "message": message,
            "startedAt": now,
            "finishedAt": now,
        }
        container = running.pod["spec"]["containers"][0]
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "sha256:0",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": terminated},
                }
            ],
        }
        await self.kube.patch(
            "Pod", metadata["namespace"], metadata["name"], {"status": status}, subresource="status"
        )

    async def _ready(self, running: Running) -> bool:
        if running.agent is not None:
            return bool(running.agent.status()["ready"])
        if running.process is None:
            return True
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session,
                session.get(f"http://{running.address}:8222/healthz") as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _report(self, running: Running, ready: bool) -> None:
        metadata, spec = running.pod["metadata"], running.pod["spec"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {
            "phase": "Running",
            "podIP": running.address,
            "podIPs": [{"ip": running.address}],
            "hostIP": "127.0.0.1",
            "startTime": now,
            "conditions": [
                condition("PodScheduled", True),
                condition("Initialized", True),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "sha256:0",
                    "ready": ready,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": now}},
                }
                for container in spec["containers"]
            ],
        }
        await self.kube.patch(
            "Pod", metadata["namespace"], metadata["name"], {"status": status}, subresource="status"
        )

    async def _ask(self, method: str, where: str, body: dict[str, Any]) -> None:
        await self.kube._client.request(method, where, body=body, serializer=lambda _, data: data)


def condition(type_: str, holds: bool, reason: str = "") -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = "True" if holds else "False"
    return {
        "type": type_,
        "status": status,
        "lastTransitionTime": now,
        **({"reason": reason} if reason else {}),
    }


def available() -> bool:
    """Whether mount namespaces can be made here."""
    return os.geteuid() == 0 and shutil.which("unshare") is not None
