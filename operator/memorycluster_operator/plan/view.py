"""The facts, sorted: each shard with its nodes, the log with its members, and what each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from memorycluster_operator.drift import difference, marked
from memorycluster_operator.objects import names
from memorycluster_operator.objects.engine import config_map, parameters_revision
from memorycluster_operator.objects.inputs import Inputs
from memorycluster_operator.objects.template import template_hash
from memorycluster_operator.plan.identity import Settled
from memorycluster_operator.snapshot import (
    AgentReport,
    Claim,
    Component,
    LogState,
    Manifest,
    Pod,
    ShardLog,
    Snapshot,
)

FROZEN = "frozen"


@dataclass(frozen=True)
class Node:
    """One node of a shard: a pod, and what its agent says."""

    name: str
    index: int
    pod: Pod | None
    report: AgentReport | None
    """Only of this pod's agent."""
    was_frozen: bool
    """The status says that it was frozen, in this very pod."""
    denied: bool = False
    """Its agent refuses the operator's token."""

    @property
    def frozen(self) -> bool:
        """It may hold what the log has lost: whatever happens to it, a human decides.

        What was frozen stays so until it serves or has caught up: an agent that has restarted knows less.
        """
        if self.report is not None and (self.report.role == FROZEN or self.report.ready):
            return self.report.role == FROZEN
        return self.was_frozen and self.pod is not None and self.pod.running

    @property
    def leads(self) -> bool:
        """It is the leader, serving or not."""
        return self.report is not None and self.report.role == "leader"

    @property
    def serves(self) -> bool:
        """It serves as the primary."""
        return self.leads and self.report is not None and self.report.serving

    @property
    def ready(self) -> bool:
        """It serves or has caught up, by its own word and Kubernetes', and is there to stay."""
        return (
            self.pod is not None
            and self.report is not None
            and self.pod.ready
            and self.report.ready
            and not self.pod.terminating
        )

    @property
    def never_started(self) -> bool:
        """Its engine has never run in this pod: it holds nothing."""
        return self.pod is not None and never_started(self.pod)

    @property
    def broken(self) -> bool:
        """It does not work, and holds nothing beside what it was fed from the log.

        That is so if its engine does not run, or its agent has no engine yet, or follows. An agent that the
        log refused, or that found an engine that led, does neither. It says nothing of the log: see
        ``rollout``.
        """
        if self.pod is None or self.pod.terminating or self.ready or self.frozen:
            return False
        if not self.pod.running:
            return True
        return self.report is not None and (
            self.report.role == "starting"
            or (self.report.role, self.report.phase) == ("follower", "following")
        )


@dataclass(frozen=True)
class Shard:
    """A shard."""

    index: int
    nodes: tuple[Node, ...]
    """By index: those that its StatefulSet wants, and pods beyond that are still there."""
    stateful_set: Manifest | None
    log: ShardLog

    @cached_property
    def primary(self) -> Node | None:
        """The node that serves writes: by its own word; of two, the one of the newer epoch."""
        serving = [node for node in self.nodes if node.serves]
        return max(serving, key=lambda node: node.report.epoch if node.report else 0, default=None)

    @cached_property
    def frozen(self) -> tuple[Node, ...]:
        """Its frozen nodes."""
        return tuple(node for node in self.nodes if node.frozen)

    @property
    def replicas(self) -> int:
        """Pods that its StatefulSet wants now; 0: there is none."""
        return int(self.stateful_set["spec"]["replicas"]) if self.stateful_set else 0


@dataclass(frozen=True)
class Member:
    """A member of the log."""

    name: str
    index: int
    pod: Pod | None
    claim: Claim | None
    trouble: str | None
    """What is wrong with its server; empty: nothing; None: not known."""
    lacking: tuple[int, ...]
    """Shards of whose log it is not known to have everything."""
    leads: int
    """How many logs it leads."""

    @property
    def whole(self) -> bool:
        """It works, and has all of every log that was made."""
        return (
            self.pod is not None
            and self.pod.ready
            and not self.pod.terminating
            and self.trouble == ""
            and not self.lacking
        )


@dataclass(frozen=True)
class View:
    """All of it."""

    snapshot: Snapshot
    settled: Settled
    inputs: Inputs
    shards: tuple[Shard, ...]
    members: tuple[Member, ...]

    @cached_property
    def engine_template(self) -> str:
        """The template hash that engine pods should have."""
        return template_hash(self.inputs, Component.ENGINE)

    @cached_property
    def parameters_revision(self) -> str:
        """The revision of the parameters that every engine should have."""
        return parameters_revision(self.inputs.spec.engine.parameters)

    @cached_property
    def config_written(self) -> bool:
        """The ConfigMap that engines read when they start is as it should be."""
        live = self.snapshot.objects.get(names.config_key(self.snapshot.cluster.name))
        if live is None or self.inputs.identity is None:
            return False
        return difference(marked(config_map(self.inputs, self.inputs.identity)[1]), live) is None

    @cached_property
    def log_template(self) -> str:
        """The template hash that the log's pods should have."""
        return template_hash(self.inputs, Component.LOG)

    @cached_property
    def frozen(self) -> tuple[Node, ...]:
        """All frozen nodes."""
        return tuple(node for shard in self.shards for node in shard.frozen)

    @cached_property
    def log_set(self) -> Manifest | None:
        """The log's StatefulSet."""
        return self.snapshot.objects.get(names.log_set(self.snapshot.cluster.name))

    @cached_property
    def missing_members(self) -> tuple[Member, ...]:
        """Members of the log that are not whole."""
        return tuple(member for member in self.members if not member.whole)


def view_shards(snapshot: Snapshot) -> tuple[Shard, ...]:
    """Return the shards of a snapshot."""
    cluster = snapshot.cluster
    pods = {pod.name: pod for pod in snapshot.pods if pod.component is Component.ENGINE}
    frozen = _frozen_before(cluster.status)
    logs = {log.shard: log for log in snapshot.log.shards}

    def node(shard: int, index: int) -> Node:
        name = names.node_name(cluster.name, shard, index)
        pod, report = pods.get(name), snapshot.agents.get(name)
        if report is not None and (pod is None or report.pod_uid != pod.uid):
            report = None
        was_frozen = pod is not None and (name, pod.uid) in frozen
        return Node(name, index, pod, report, was_frozen, name in snapshot.denied)

    def shard(index: int) -> Shard:
        live = snapshot.objects.get(names.shard_set(cluster.name, index))
        wanted = int(live["spec"]["replicas"]) if live else cluster.spec.nodes_per_shard
        there = {pod.index for pod in pods.values() if pod.shard == index}
        nodes = tuple(node(index, each) for each in sorted(there | set(range(wanted))))
        return Shard(index, nodes, live, logs.get(index) or ShardLog(index, LogState.UNKNOWN))

    return tuple(map(shard, range(cluster.spec.shards)))


def view_members(snapshot: Snapshot, made: frozenset[int]) -> tuple[Member, ...]:
    """Return the members of the log, of which the logs of the shards ``made`` must be whole."""
    cluster = snapshot.cluster
    pods = {pod.name: pod for pod in snapshot.pods if pod.component is Component.LOG}
    claims = {claim.index: claim for claim in snapshot.claims}

    def member(index: int) -> Member:
        name = names.member_name(cluster.name, index)
        copies = {
            log.shard: each
            for log in snapshot.log.shards
            if log.state is LogState.INTACT
            for each in log.members
            if each.name == name
        }
        return Member(
            name=name,
            index=index,
            pod=pods.get(name),
            claim=claims.get(index),
            trouble=snapshot.log.servers.get(name),
            lacking=tuple(s for s in sorted(made) if s not in copies or not copies[s].current),
            leads=sum(copy.leader for copy in copies.values()),
        )

    return tuple(map(member, range(len(cluster.spec.zones))))


def _frozen_before(status: Mapping[str, object]) -> frozenset[tuple[str, str]]:
    """Return the names and pods' uids of the nodes that the status says are frozen."""
    shards = status.get("shards")
    return frozenset(
        (node["name"], node.get("podUid", ""))
        for shard in (shards if isinstance(shards, list) else [])
        for node in shard.get("nodes") or []
        if node.get("role") == FROZEN
    )


def never_started(pod: Pod) -> bool:
    """Whether no container of the pod has ever run: one that ended a moment ago does not wait for
    anything."""
    return not pod.running and pod.restarts == 0 and (pod.waiting != "" or not pod.kubernetes_node)


def observed(stateful_set: Manifest) -> bool:
    """Whether the StatefulSet's controller has seen its newest spec."""
    status = stateful_set.get("status") or {}
    return bool(status.get("observedGeneration", 0) >= stateful_set["metadata"].get("generation", 0))


def newest_revision(stateful_set: Manifest) -> str:
    """Return the revision of which the StatefulSet's controller makes new pods."""
    return str((stateful_set.get("status") or {}).get("updateRevision") or "")


def template_of(stateful_set: Manifest) -> str:
    """Return the template hash of the pods that the StatefulSet makes."""
    annotations = stateful_set["spec"]["template"]["metadata"].get("annotations") or {}
    return str(annotations.get(names.TEMPLATE_ANNOTATION, ""))
