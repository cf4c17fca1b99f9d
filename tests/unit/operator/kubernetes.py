"""A small Kubernetes: objects, StatefulSets, a scheduler, kubelets, eviction. One tick moves each thing one
step."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memorycluster_operator.objects.names import TEMPLATE_ANNOTATION, claim_name
from memorycluster_operator.objects.template import digest
from memorycluster_operator.quantity import parse
from memorycluster_operator.snapshot import Claim, Component, Key, Pod

STUCK = {"unpullable": "ImagePullBackOff", "crashing": "CrashLoopBackOff"}
"""What an image's name may say of it. ``broken`` starts, and never becomes ready."""


class Conflict(Exception):
    """HTTP 409: a guard has failed."""


class NotNow(Exception):
    """HTTP 429: a budget has the last word."""


@dataclass
class Machine:
    """A Node."""

    name: str
    zone: str
    alive: bool = True


@dataclass
class SimPod:
    name: str
    uid: str
    version: int
    component: Component
    shard: int | None
    index: int
    created: datetime
    template: str
    revision: str
    image: str
    role: str = ""
    machine: str = ""
    running: bool = False
    ready: bool = False
    waiting: str = ""
    restarts: int = 0
    terminating: bool = False
    zone_labelled: bool = True


@dataclass
class SimClaim:
    name: str
    uid: str
    version: int
    index: int
    size: int
    created: datetime
    zone: str = ""
    expandable: bool = True
    capacity: int = 0
    owners: tuple[dict[str, Any], ...] = ()
    identity: str | None = None
    terminating: bool = False
    copies: dict[int, int] = field(default_factory=dict)
    """What is on the volume: of each shard's log, up to which position."""


class Kubernetes:
    """The part of the world that Kubernetes is."""

    def __init__(self, cluster: str, zones: tuple[str, ...], rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.now = datetime.fromisoformat("2026-11-24T12:00:00+00:00")
        self.machines = {
            f"node-{zone}-{number}": Machine(f"node-{zone}-{number}", zone)
            for zone in zones
            for number in range(2)
        }
        self.objects: dict[Key, dict[str, Any]] = {}
        self.pods: dict[str, SimPod] = {}
        self.claims: dict[str, SimClaim] = {}
        self._count = 0

    def fresh(self) -> int:
        """Return a number that nothing has yet: of a uid, or a resourceVersion."""
        self._count += 1
        return self._count

    # ------------------------------------------------------------------ the API server

    def apply(
        self, key: Key, manifest: Any, *, uid: str = "", version: str = "", create: bool = False
    ) -> None:
        """Server-side apply; ``create``: only if there is none."""
        live = self.objects.get(key)
        if live is None:
            if uid:
                raise Conflict(key)
            self.objects[key] = made = copy.deepcopy(dict(manifest))
            made["metadata"] |= {"uid": f"uid-{self.fresh()}", "generation": 1}
            made["metadata"]["resourceVersion"] = str(self.fresh())
            return
        metadata = live["metadata"]
        if uid != metadata["uid"] or (version and version != metadata["resourceVersion"]):
            raise Conflict(key)
        system = {each: metadata[each] for each in ("uid", "generation", "resourceVersion")}
        new = copy.deepcopy(dict(manifest))
        new["metadata"] |= system
        if "status" in live:
            new["status"] = live["status"]
        if new == live:
            return
        if new.get("spec") != live.get("spec"):
            new["metadata"]["generation"] += 1
        new["metadata"]["resourceVersion"] = str(self.fresh())
        self.objects[key] = new

    def delete_pod(self, name: str, uid: str, version: str) -> None:
        pod = self.pods.get(name)
        if pod is None or pod.uid != uid or str(pod.version) != version:
            raise Conflict(name)
        self._terminate(pod)

    def evict(self, name: str, uid: str) -> None:
        """Evict a pod, as its budget (maxUnavailable) allows."""
        pod = self.pods.get(name)
        if pod is None or pod.uid != uid:
            raise Conflict(name)
        budget = Key("PodDisruptionBudget", name.rpartition("-")[0])
        group = [each for each in self.pods.values() if each.name.rpartition("-")[0] == budget.name]
        expected = self.objects[Key("StatefulSet", budget.name)]["spec"]["replicas"]
        healthy = sum(each.ready and not each.terminating for each in group)
        desired = max(0, expected - self.objects[budget]["spec"]["maxUnavailable"])
        if healthy - (1 if pod.ready else 0) < desired:
            raise NotNow(name)
        self._terminate(pod)

    def _terminate(self, pod: SimPod) -> None:
        pod.terminating, pod.version = True, self.fresh()

    def touch(self, pod: SimPod, **changes: Any) -> None:
        """Change a pod; its version moves only if it does change."""
        if any(getattr(pod, name) != value for name, value in changes.items()):
            for name, value in changes.items():
                setattr(pod, name, value)
            pod.version = self.fresh()

    # ------------------------------------------------------------------ controllers

    def tick(self) -> None:
        """Let every controller take a step, or sleep."""
        sets = [key for key in self.objects if key.kind == "StatefulSet"]
        self.rng.shuffle(sets)
        for key in sets:
            if self.rng.random() < 0.9:
                self._stateful_set(key)
        for claim in self.claims.values():
            if claim.expandable and self.rng.random() < 0.5:
                claim.capacity = claim.size
        for pod in list(self.pods.values()):
            if not pod.machine:
                self._schedule(pod)
            elif self.machines[pod.machine].alive:
                self._kubelet(pod)
            else:
                self.touch(pod, ready=False)
                if self.rng.random() < 0.3:
                    self.touch(pod, terminating=True)

    def _stateful_set(self, key: Key) -> None:
        live = self.objects[key]
        spec, labels = live["spec"], live["spec"]["selector"]["matchLabels"]
        revision = digest(spec["template"])
        status = {"observedGeneration": live["metadata"]["generation"], "updateRevision": revision}
        if live.get("status") != status:
            live["status"] = status
            live["metadata"]["resourceVersion"] = str(self.fresh())
        shard = labels.get("memorycluster.io/shard")
        component = Component.ENGINE if shard is not None else Component.LOG
        for index in range(spec["replicas"]):
            name = f"{key.name}-{index}"
            if name in self.pods or (component is Component.LOG and not self._claim(index, spec)):
                continue
            self.pods[name] = SimPod(
                name,
                f"uid-{self.fresh()}",
                self.fresh(),
                component,
                int(shard) if shard is not None else None,
                index,
                self.now,
                spec["template"]["metadata"]["annotations"][TEMPLATE_ANNOTATION],
                revision,
                spec["template"]["spec"]["containers"][0]["image"],
            )
        for pod in self._of(key.name):
            if pod.index >= spec["replicas"] and not pod.terminating:
                self._terminate(pod)

    def _of(self, prefix: str) -> Iterator[SimPod]:
        return (pod for pod in list(self.pods.values()) if pod.name.rpartition("-")[0] == prefix)

    def _claim(self, index: int, spec: dict[str, Any]) -> bool:
        """Make a member's claim if it is missing; return whether its pod can be made."""
        name = claim_name(self.cluster, index)
        if name not in self.claims:
            template = spec["volumeClaimTemplates"][0]
            size = parse(template["spec"]["resources"]["requests"]["storage"])
            assert size is not None
            self.claims[name] = SimClaim(
                name, f"uid-{self.fresh()}", self.fresh(), index, int(size), self.now, capacity=int(size)
            )
        return not self.claims[name].terminating

    def _schedule(self, pod: SimPod) -> None:
        if pod.terminating:
            del self.pods[pod.name]
            return
        others = [each for each in self._of(pod.name.rpartition("-")[0]) if each.machine and each is not pod]
        counts = dict.fromkeys((machine.zone for machine in self.machines.values()), 0)
        for other in others:
            counts[self.machines[other.machine].zone] += 1
        claim = self.claims.get(f"data-{pod.name}")
        fitting = [
            machine
            for machine in self.machines.values()
            if machine.alive
            and counts[machine.zone] == min(counts.values())
            and (pod.component is Component.ENGINE or counts[machine.zone] == 0)
            and (claim is None or claim.zone in ("", machine.zone))
        ]
        if not fitting:
            self.touch(pod, waiting="Unschedulable")
            return
        machine = self.rng.choice(fitting)
        if claim is not None:
            claim.zone = machine.zone
        self.touch(pod, machine=machine.name, waiting="ContainerCreating")

    def _kubelet(self, pod: SimPod) -> None:
        if pod.terminating:
            del self.pods[pod.name]
            claim = self.claims.get(f"data-{pod.name}")
            if claim is not None and claim.terminating:
                del self.claims[claim.name]
            return
        if pod.running or self.rng.random() < 0.2:
            return
        needed = ("internal", "config") if pod.component is Component.ENGINE else ("log",)
        kinds = {"config": "ConfigMap"}
        if any(
            Key(kinds.get(each, "Secret"), f"{self.cluster}-{each}") not in self.objects for each in needed
        ):
            return  # its volumes can't be mounted
        trouble = next((reason for word, reason in STUCK.items() if word in pod.image), None)
        if trouble == "CrashLoopBackOff" and pod.waiting == trouble:
            self.touch(pod, restarts=pod.restarts + 1)
        if trouble:
            self.touch(pod, waiting=trouble)
        else:
            self.touch(pod, running=True, waiting="")

    # ------------------------------------------------------------------ facts

    def pod_facts(self, pod: SimPod) -> Pod:
        machine = self.machines.get(pod.machine)
        return Pod(
            name=pod.name,
            uid=pod.uid,
            resource_version=str(pod.version),
            component=pod.component,
            shard=pod.shard,
            index=pod.index,
            created=pod.created,
            template=pod.template,
            revision=pod.revision,
            role=pod.role,
            kubernetes_node=pod.machine,
            node_ready=machine.alive if machine else None,
            zone=machine.zone if machine else "",
            zone_labelled=pod.zone_labelled,
            ip="10.0.0.1" if pod.running else "",
            phase="Running" if pod.running else "Pending",
            ready=pod.ready,
            running=pod.running,
            waiting=pod.waiting,
            restarts=pod.restarts,
            terminating=pod.terminating,
        )

    def claim_facts(self, claim: SimClaim) -> Claim:
        return Claim(
            name=claim.name,
            uid=claim.uid,
            resource_version=str(claim.version),
            index=claim.index,
            size=claim.size,
            phase="Bound" if claim.zone else "Pending",
            capacity=claim.capacity if claim.zone else None,
            created=claim.created,
            owners=claim.owners,
            identity=claim.identity,
            terminating=claim.terminating,
        )
