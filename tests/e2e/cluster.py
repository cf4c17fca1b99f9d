"""A MemoryCluster under test: as its user applies it, and as kubectl shows it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.kube import Kube, Object, condition

KIND = "memoryclusters.memorycluster.io"
CLIENTS = {"memorycluster-e2e": "client"}
"""Labels of the pods that may connect to a cluster's clients' port."""
READY = 150.0
"""Seconds within which a cluster must be ready, its images being there; the README says two minutes."""
HEALED = 240.0
"""Seconds within which a cluster must be whole again, from whatever was done to it."""

HAND_OVER = """
import json, os, sys, urllib.request
token = open("/etc/memorycluster/secrets/api-token").read().strip()
body = json.dumps({"successor": sys.argv[1]}).encode()
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
request = urllib.request.Request(f"http://{os.environ['POD_IP']}:8080/v1/failover", body, headers)
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""
"""What an agent's container runs to hand leadership over: as the operator does it."""


@dataclass(slots=True)
class Cluster:
    """One MemoryCluster."""

    kube: Kube
    namespace: str
    name: str
    spec: dict[str, Any] = field(default_factory=dict)

    # ---- as its user

    @property
    def manifest(self) -> Object:
        """What the user applies."""
        return {
            "apiVersion": "memorycluster.io/v1alpha1",
            "kind": "MemoryCluster",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": self.spec,
        }

    def apply(self) -> None:
        """Apply the manifest."""
        self.kube.apply(self.manifest, namespace=self.namespace)

    def create(self) -> float:
        """Apply the manifest, and return after how many seconds the cluster was ready."""
        began = time.monotonic()
        self.apply()
        self.whole(seconds=READY)
        return time.monotonic() - began

    def change(self, **fields: Any) -> None:
        """Change fields of the spec, and apply it."""
        self.spec = merged(self.spec, fields)
        self.apply()

    def delete(self, *, wait: bool = True) -> None:
        """Delete it; unless `wait` is False, wait until all its pods are gone too."""
        self.kube.delete(KIND, self.name, namespace=self.namespace)
        if wait:
            self.kube.gone(KIND, self.name, namespace=self.namespace)
            self.kube.until_holds(self.pods_left, f"pods of {self.name} gone", seconds=90)

    def pods_left(self) -> str:
        """Return the names of its pods."""
        return ", ".join(pod["metadata"]["name"] for pod in self.pods())

    # ---- as kubectl shows it

    @property
    def service(self) -> str:
        """What clients connect to."""
        return f"{self.name}.{self.namespace}.svc"

    @property
    def selector(self) -> str:
        """Selects all that belongs to it."""
        return f"memorycluster.io/cluster={self.name}"

    @property
    def nodes(self) -> int:
        """Engines that it has when it is whole."""
        return int(self.spec.get("shards", 1)) * (1 + int(self.spec.get("replicasPerShard", 2)))

    def resource(self) -> Object:
        """Return the MemoryCluster."""
        return self.kube.get(KIND, self.name, self.namespace)

    def status(self) -> Object:
        """Return its status; empty if it has none yet."""
        status: Object = self.resource().get("status", {})
        return status

    def pods(self, component: str = "", shard: int | None = None) -> list[Object]:
        """Return its pods, or those of a component (engine, log), or of a shard; not those of Jobs."""
        wanted = f"={component}" if component else " in (engine,log)"
        labels = [self.selector, f"app.kubernetes.io/component{wanted}"]
        labels += [f"memorycluster.io/shard={shard}"] if shard is not None else []
        return self.kube.select("pods", self.namespace, ",".join(labels))

    def primary(self, shard: int = 0) -> str:
        """Return the name of the pod that serves a shard's writes, once there is one."""

        def named() -> str:
            shards = self.status().get("shards", [])
            return (shards[shard].get("primary") or "") if shard < len(shards) else ""

        return self.kube.until(named, f"a primary of shard {shard} of {self.name}")

    def log_leader(self, shard: int = 0) -> str:
        """Return the name of the log's pod that leads a shard's log."""

        def named() -> str:
            members = (self.status()["shards"][shard].get("log") or {}).get("members", [])
            return next((member["name"] for member in members if member["leader"]), "")

        return self.kube.until(named, f"a leader of the log of shard {shard} of {self.name}")

    def node_of(self, pod: str) -> str:
        """Return the name of the Kubernetes node that a pod runs on."""
        node: str = self.kube.get("pod", pod, self.namespace)["spec"]["nodeName"]
        return node

    def move_primary(self, node: str, shard: int = 0) -> str:
        """Have a shard's pod on a Kubernetes node become its primary, in order; return its name."""
        pod: str
        [pod] = [
            pod["metadata"]["name"]
            for pod in self.pods("engine", shard)
            if pod["spec"].get("nodeName") == node
        ]
        if (primary := self.primary(shard)) != pod:
            self.kube.execute(
                *(primary, "python3", "-c", HAND_OVER, pod), namespace=self.namespace, container="agent"
            )
            self.kube.until(lambda: self.primary(shard) == pod, f"{pod} primary")
        return pod

    def config(self, pod: str, parameter: str) -> str:
        """Return a parameter as the engine of a pod runs with it."""
        said = self.kube.execute(
            *(pod, "valkey-cli", "--raw", "CONFIG", "GET", parameter),
            namespace=self.namespace,
            container="engine",
        )
        return said.splitlines()[-1]

    def lacks(self, kind: str) -> str:
        """Return what is wrong if a condition is not True."""
        found = condition(self.resource(), kind)
        return "" if found.get("status") == "True" else f"{kind} is {found.get('status')}"

    def whole(self, *, seconds: float = HEALED) -> None:
        """Wait until the operator says that all is as the spec wants it, and the pods bear it out.

        :raises Failed: if that takes longer than `seconds`.
        """
        self.kube.until_holds(self._incomplete, f"{self.name} whole", seconds=seconds, every=1.0)

    def _incomplete(self) -> str:
        resource = self.resource()
        status = resource.get("status", {})
        generation = resource["metadata"]["generation"]
        if status.get("observedGeneration") != generation:
            return f"generation {generation} not yet seen: {status.get('observedGeneration')}"
        if status.get("phase") != "Ready":
            return f"phase {status.get('phase')}: {status.get('message')}"
        for kind, wanted in {"Ready": "True", "Redundant": "True", "Progressing": "False"}.items():
            found = condition(resource, kind)
            if found.get("status") != wanted:
                return f"condition {kind} is {found.get('status')}: {found.get('message')}"
        pods = self.pods()
        unready = [pod["metadata"]["name"] for pod in pods if not ready(pod)]
        if unready:
            return f"status says Ready, but pods are not: {', '.join(unready)}"
        members = len(self.spec.get("zones", ("zone-a", "zone-b", "zone-c")))
        if len(pods) != self.nodes + members:
            return f"{len(pods)} pods instead of {self.nodes} engines and {members} members of the log"
        return ""


def ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is ready, and not about to go."""
    return condition(pod, "Ready").get("status") == "True" and "deletionTimestamp" not in pod["metadata"]


def restarts(pods: Iterable[Mapping[str, Any]]) -> int:
    """Return how often kubelet has restarted containers of these pods."""
    return sum(
        each["restartCount"] for pod in pods for each in pod.get("status", {}).get("containerStatuses", [])
    )


def identities(pods: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the uid of each pod: it changes when a pod is made anew."""
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return `old` with the fields of `new`, maps merged."""
    result = dict(old)
    for name, value in new.items():
        before = result.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[name] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result
