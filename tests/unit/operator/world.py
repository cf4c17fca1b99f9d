"""A world to operate in: a small Kubernetes with a database in it, an operator, and what must always hold."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tests.unit.operator.database import Database, ShardData
from tests.unit.operator.kubernetes import Conflict, Kubernetes, NotNow, SimPod

from memorycluster.api.spec import Spec
from memorycluster_operator.actions import (
    Action,
    ApplyObject,
    CreateLog,
    DeletePod,
    EvictPod,
    FailOver,
    GrowClaim,
    GrowLog,
    LabelPod,
    OwnClaim,
    Plan,
    SaveIdentity,
    SetFinalizers,
    SetParameters,
    StampClaim,
)
from memorycluster_operator.identity import Identity
from memorycluster_operator.objects.credentials import decoded
from memorycluster_operator.objects.engine import parameters_revision
from memorycluster_operator.objects.names import ROLE_LABEL, ZONE_LABEL, claim_name
from memorycluster_operator.plan import differs, known_identity, make_plan
from memorycluster_operator.snapshot import (
    LAST_SNAPSHOT_FINALIZER,
    Cluster,
    Component,
    Key,
    Settings,
    Snapshot,
)

NAME = "orders"


def spec_of(**fields: Any) -> Spec:
    """Return a spec, from what a manifest would say."""
    return Spec.model_validate(fields)


class World:
    """One MemoryCluster and everything around it."""

    def __init__(self, spec: Spec, seed: int = 0, image: str = "engine:1") -> None:
        self.rng = random.Random(seed)
        self.kubernetes = Kubernetes(NAME, spec.zones, self.rng)
        shards = {shard: ShardData() for shard in range(spec.shards)}
        self.database = Database(self.kubernetes, self.rng, shards, len(spec.zones))
        self.settings = Settings(image, "nats:1")
        self.spec = spec
        self.uid, self.generation, self.version = "cluster-1", 1, self.kubernetes.fresh()
        self.status: dict[str, Any] = {}
        self.deleting = False
        self.finalizers: tuple[str, ...] = ()
        self.gone = False
        """The MemoryCluster was deleted, and nothing of ours holds it. (What is Kubernetes' own ends.)"""
        self.foreign: dict[Key, str] = {}
        self.seen: dict[str, Mapping[str, str]] = {}
        self.events: list[str] = []
        self.disrupted = 0
        self.identity: Identity | None = None
        """As it was when a log was first made: it must never change from then on."""

    # ------------------------------------------------------------------ users and fate

    def change(self, **fields: Any) -> None:
        """Write another spec; what is not named stays."""
        old = self.spec.model_dump(by_alias=True, exclude_unset=True, mode="json")
        old["failover"] = {"lease": "5s"}
        self.spec = Spec.model_validate(_merged(old, fields))
        self.generation += 1
        self.version = self.kubernetes.fresh()

    def delete(self, *finalizers: str) -> None:
        """Delete the MemoryCluster; Kubernetes adds ``finalizers``."""
        self.deleting, self.version = True, self.kubernetes.fresh()
        self.finalizers += finalizers
        self.gone = self._gone()

    def _gone(self) -> bool:
        return self.deleting and LAST_SNAPSHOT_FINALIZER not in self.finalizers

    def tick(self, seconds: float = 5) -> None:
        """Let everything but the operator take a step."""
        self.kubernetes.now += timedelta(seconds=seconds)
        self.database.parameters, self.database.revision = (
            self.spec.engine.parameters,
            parameters_revision(self.spec.engine.parameters),
        )
        self.kubernetes.tick()
        self.database.tick()
        for key, live in self.kubernetes.objects.items():
            if key.kind == "Secret":
                self.seen[key.name] = decoded(live)

    def pods(self, component: Component | None = None, shard: int | None = None) -> list[SimPod]:
        return [
            pod
            for pod in self.kubernetes.pods.values()
            if (component is None or pod.component is component) and (shard is None or pod.shard == shard)
        ]

    def primary(self, shard: int = 0) -> SimPod:
        return next(pod for pod in self.pods() if pod.uid == self.database.shards[shard].leader)

    def freeze(self, pod: SimPod) -> None:
        """The log has lost what this node had acknowledged."""
        assert pod.shard is not None
        self.database.engines[pod.uid].role = "frozen"
        data = self.database.shards[pod.shard]
        if data.leader == pod.uid:
            data.leader = ""

    def crash(self, pod: SimPod) -> None:
        """What runs in a pod ends, and its containers are started again."""
        if pod.running:
            self.kubernetes.touch(pod, running=False, ready=False, restarts=pod.restarts + 1)
            self.database.engines.pop(pod.uid, None)

    # ------------------------------------------------------------------ the operator

    def snapshot(self) -> Snapshot:
        """Observe."""
        pods = tuple(map(self.kubernetes.pod_facts, self.kubernetes.pods.values()))
        claims = tuple(map(self.kubernetes.claim_facts, self.kubernetes.claims.values()))
        identity = known_identity(self.status, claims)
        reports = {
            pod.name: report for pod in self.pods(Component.ENGINE) if (report := self.database.report(pod))
        }
        objects = {
            key: _copied(live) for key, live in self.kubernetes.objects.items() if key not in self.foreign
        }
        return Snapshot(
            now=self.kubernetes.now,
            cluster=Cluster(
                NAME,
                "shop",
                self.uid,
                self.generation,
                str(self.version),
                self.spec,
                dict(self.status),
                self.deleting,
                self.finalizers,
            ),
            settings=self.settings,
            entropy=self.rng.randbytes(32),
            objects=objects,
            foreign=dict(self.foreign),
            pods=pods,
            claims=claims,
            agents=reports,
            log=self.database.log_report(identity.generations if identity else None),
            secrets_seen=dict(self.seen),
        )

    def operate(self, share: float = 1.0) -> Plan:
        """Make a plan, and carry out ``share`` of it, in any order."""
        plan = self.plan()
        actions = list(plan.actions)
        self.rng.shuffle(actions)
        for action in actions[: round(len(actions) * share)]:
            self.attempt(action)
        if share == 1.0 and differs(self.status, plan.status):
            self.write_status(plan)
        elif share == 1.0:
            self.events += [event.reason for event in plan.events]
        return plan

    def plan(self, snapshot: Snapshot | None = None) -> Plan:
        """Make a plan, and check what every plan must be."""
        seen = snapshot or self.snapshot()
        plan = make_plan(seen)
        check_plan(seen, plan)
        return plan

    def write_status(self, plan: Plan) -> None:
        identity = {"identity": self.status["identity"]} if "identity" in self.status else {}
        self.status = {**plan.status, **identity}
        self.version = self.kubernetes.fresh()
        self.events += [event.reason for event in plan.events]

    def attempt(self, action: Action) -> None:
        """Carry an action out; a guard that fails is no error."""
        with contextlib.suppress(Conflict, NotNow):
            self.carry_out(action)

    def carry_out(self, action: Action) -> None:
        kubernetes = self.kubernetes
        match action:
            case ApplyObject():
                self._apply(action)
            case SaveIdentity():
                self._expect(action.resource_version == str(self.version))
                self.status["identity"] = action.identity.model_dump(mode="json")
                self.version = kubernetes.fresh()
            case SetFinalizers():
                self._expect(action.resource_version == str(self.version))
                assert not self.deleting or set(action.finalizers) < set(self.finalizers)
                self.finalizers, self.version = action.finalizers, kubernetes.fresh()
                self.gone = self._gone()
            case StampClaim():
                claim = kubernetes.claims.get(action.name)
                self._expect(claim is not None and str(claim.version) == action.resource_version)
                assert claim is not None
                claim.identity, claim.version = action.identity.dump(), kubernetes.fresh()
                held = {shard for shard, data in self.database.shards.items() if data.generation is not None}
                assert action.identity.created <= held, "a mark says what is so"
            case OwnClaim():
                claim = kubernetes.claims.get(action.name)
                self._expect(claim is not None and str(claim.version) == action.resource_version)
                assert claim is not None
                gives = any(owner["uid"] == self.uid for owner in action.owners)
                assert action.cluster_uid == (self.uid if gives else ""), "it is asked for just before"
                said = self.deleting or self.status.get("deletionPolicy") == "Delete"
                assert said or not gives, "the status says it first"
                claim.owners, claim.version = tuple(map(dict, action.owners)), kubernetes.fresh()
            case GrowClaim():
                claim = kubernetes.claims[action.name]
                self._expect(str(claim.version) == action.resource_version)
                claim.size, claim.version = action.size, kubernetes.fresh()
            case CreateLog():
                self.database.create(
                    action.shard, action.identity.generations[action.shard], action.max_bytes
                )
            case GrowLog():
                self.database.shards[action.shard].max_bytes = action.max_bytes
            case FailOver():
                self.disrupted += 1
                self.database.fail_over(action.shard, action.pod_uid, action.epoch, action.successor)
            case SetParameters():
                self.database.set_parameters(action.pod_uid, action.revision, action.parameters)
            case LabelPod():
                pod = kubernetes.pods.get(action.name)
                self._expect(pod is not None and pod.uid == action.uid)
                assert pod is not None
                role = action.labels.get(ROLE_LABEL, pod.role) or ""
                kubernetes.touch(
                    pod, role=role, zone_labelled=pod.zone_labelled or ZONE_LABEL in action.labels
                )
            case EvictPod():
                self._check_victim(action.name, action.uid)
                kubernetes.evict(action.name, action.uid)
                self._check_left(action.name)
            case DeletePod():
                self._check_victim(action.name, action.uid)
                kubernetes.delete_pod(action.name, action.uid, action.resource_version)
                self._check_left(action.name)

    def _apply(self, action: ApplyObject) -> None:
        live = self.kubernetes.objects.get(action.key)
        if action.key.kind == "StatefulSet" and live is not None:
            replicas = action.manifest["spec"]["replicas"]
            assert bool(action.resource_version) == bool(action.uid), "it is changed as it was seen, or not"
            if action.resource_version == live["metadata"]["resourceVersion"]:
                for pod in self.pods():
                    if pod.name.rpartition("-")[0] == action.key.name and pod.index >= replicas:
                        self._check_victim(pod.name, pod.uid)
        self.kubernetes.apply(action.key, action.manifest, uid=action.uid, version=action.resource_version)

    @staticmethod
    def _expect(so: bool) -> None:
        if not so:
            raise Conflict

    # ------------------------------------------------------------------ what must always hold

    def _check_victim(self, name: str, uid: str) -> None:
        """A frozen node's pod is never taken away, whether the operator can see that it is frozen or not."""
        pod = self.kubernetes.pods.get(name)
        if pod is not None and pod.uid == uid and pod.running:
            engine = self.database.engines.get(pod.uid)
            assert engine is None or engine.role != "frozen", f"{name} is frozen"

    def _check_left(self, name: str) -> None:
        """A shard of several nodes keeps one that works; the log keeps its quorum."""
        pod = self.kubernetes.pods[name]
        self.disrupted += 1
        if pod.shard is None:
            if pod.running and self.database.members > 1 and self.database.made():
                left = [each for each in self.pods(Component.LOG) if each is not pod and not each.terminating]
                working = sum(self.database.current(each.index) for each in left)
                assert working > self.database.members // 2 or not self.database.current(pod.index), name
            return
        others = [each for each in self.pods(shard=pod.shard) if each is not pod and not each.terminating]
        if pod.ready and others:
            assert any(self.database.ready(each) for each in others if self.database.works(each)), name

    def check(self) -> None:
        """What holds between any two steps."""
        stored = self.status.get("identity")
        identity = Identity.model_validate(stored) if stored else None
        if self.identity is None and self.database.made():
            self.identity = identity
        if self.identity is not None:
            assert identity is not None
            assert identity.same_as(self.identity), "the identity has changed"
            assert identity.created >= self.identity.created
        for shard, data in self.database.shards.items():
            if data.generation is not None and self.identity is not None and not data.gone:
                assert data.generation == self.identity.generations[shard]

    # ------------------------------------------------------------------ convergence

    def settle(self, passes: int = 400) -> None:
        """Let time pass until nothing is left to do, and check that all is as the spec says."""
        for _ in range(passes):
            self.tick()
            before = self.status
            plan = self.operate()
            self.check()
            if not plan.actions and not plan.waits and not differs(before, plan.status) and self.whole():
                return
            assert plan.actions or plan.waits or self.whole(), "it waits, and does not say for what"
        raise AssertionError(f"not settled: {plan.actions} {plan.waits} {self.status['conditions']}")

    def whole(self) -> bool:
        """Whether everything is as the spec says."""
        for shard, data in self.database.shards.items():
            pods = self.pods(shard=shard)
            if len(pods) != self.spec.nodes_per_shard or not data.leader:
                return False
            for pod in pods:
                engine = self.database.engines.get(pod.uid)
                live = self.kubernetes.objects[Key("StatefulSet", f"{NAME}-{shard}")]
                wanted = live["spec"]["template"]["spec"]["containers"][0]["image"]
                if engine is None or not pod.ready or pod.image != wanted or engine.pending:
                    return False
        return all(self.database.current(index) for index in range(self.database.members))

    def claim_of(self, index: int) -> Any:
        return self.kubernetes.claims[claim_name(NAME, index)]


def check_plan(seen: Snapshot, plan: Plan) -> None:
    """Nothing in a plan takes two things from one shard, or from the log; every wait says why and how
    long."""
    taken: dict[str, list[Action]] = {}
    running = {pod.name for pod in seen.pods if pod.running}
    for action in plan.actions:
        match action:
            case FailOver():
                taken.setdefault(f"{NAME}-{action.shard}", []).append(action)
            case EvictPod() | DeletePod() if action.name in running:
                taken.setdefault(action.name.rpartition("-")[0], []).append(action)
            case ApplyObject() if (
                action.key.kind == "StatefulSet"
                and action.key in seen.objects
                and not seen.cluster.deleting  # then all go at once
            ):
                if action.manifest["spec"]["replicas"] < seen.objects[action.key]["spec"]["replicas"]:
                    taken.setdefault(action.key.name, []).append(action)
        assert action.reason
    for group, actions in taken.items():
        assert len(actions) == 1, f"{group}: {actions}"
    for wait in plan.waits:
        assert re.fullmatch(r"([A-Z][a-z]+)+", wait.reason), wait
        assert wait.message, wait
        assert "\n" not in wait.message, wait
        assert wait.until, wait
    if seen.cluster.spec.paused and not seen.cluster.deleting:
        for action in plan.actions:
            guards = isinstance(action, ApplyObject) and action.key.kind == "PodDisruptionBudget"
            releases = isinstance(action, OwnClaim) and not action.cluster_uid
            assert isinstance(action, LabelPod | SetFinalizers) or guards or releases


def _merged(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for name, value in new.items():
        if isinstance(value, Mapping) and isinstance(merged.get(name), Mapping) and name != "parameters":
            merged[name] = _merged(merged[name], value)
        else:
            merged[name] = value
    return merged


def _copied(live: dict[str, Any]) -> dict[str, Any]:
    return {**live, "metadata": dict(live["metadata"])}
