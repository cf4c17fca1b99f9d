"""What the operator knows of one cluster at one moment: facts alone, nothing that follows from them.

``observe`` fills it, ``plan`` reads nothing else. Facts may be old by the time of a plan; so an action
carries what it relies on (uid, resourceVersion), and the API server refuses it when that has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self
from uuid import UUID

from memorycluster.api.spec import Spec
from memorycluster_operator.makings import Asked, Making

Manifest = Mapping[str, Any]
"""An object of Kubernetes as JSON data."""


class Key(NamedTuple):
    """An object of the cluster's namespace."""

    kind: str
    """Like ``StatefulSet``; ``objects.API_VERSIONS`` has the group and version of each kind."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


LAST_SNAPSHOT_FINALIZER = "memorycluster.io/last-snapshot"
"""On a MemoryCluster whose last snapshot is to be taken before it is deleted."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The MemoryCluster object."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    spec: Spec
    status: Mapping[str, Any] = field(default_factory=dict)
    """As it is stored now, JSON data; empty at first."""
    deleting: bool = False
    """It has a deletionTimestamp."""
    finalizers: tuple[str, ...] = ()
    created: datetime | None = None
    """None: not known."""

    @property
    def held(self) -> bool:
        """Its deletion, now or some day, waits for a last snapshot."""
        return LAST_SNAPSHOT_FINALIZER in self.finalizers

    @property
    def going(self) -> bool:
        """It is being deleted, and nothing of ours holds that up: what is there goes by itself."""
        return self.deleting and not self.held


class Component(StrEnum):
    """What a pod is part of: the label app.kubernetes.io/component."""

    ENGINE = "engine"
    LOG = "log"
    SNAPSHOT = "snapshot"
    """A Job that makes, or keeps, snapshots."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod whose labels say that it is of this cluster, owned by one of its StatefulSets."""

    name: str
    uid: str
    resource_version: str
    component: Component
    shard: int | None
    """None for a member of the log."""
    index: int
    """The ordinal in its StatefulSet."""
    created: datetime
    template: str = ""
    """Its annotation memorycluster.io/template: of which template it was made."""
    revision: str = ""
    """Its label controller-revision-hash; the StatefulSet's status.updateRevision is the newest one."""
    role: str = ""
    """Its label memorycluster.io/role: ``primary``, ``replica`` or empty. For routing only."""
    kubernetes_node: str = ""
    """The Node that it is bound to; empty: not scheduled yet."""
    node_ready: bool | None = None
    """Whether that Node is there and Ready; None: not known."""
    node_gone: bool = False
    """There is no such Node any more."""
    zone: str = ""
    """Of that Node, as the pod's label topology.kubernetes.io/zone or the Node's says; empty: not known."""
    zone_labelled: bool = True
    """The pod itself has that label. (Kubernetes below 1.35 does not set it.)"""
    ip: str = ""
    phase: str = "Pending"
    ready: bool = False
    """Its condition Ready."""
    running: bool = False
    """Its main container (``engine``, or ``log``) is running. Only what runs can hold something in memory."""
    waiting: str = ""
    """Why a container that is not running waits, like ``ImagePullBackOff``; for a pod that is not scheduled
    the reason of its condition PodScheduled, like ``Unschedulable``; else empty."""
    message: str = ""
    """The message that goes with ``waiting``."""
    restarts: int = 0
    """Of all its containers."""
    terminating: bool = False
    """It has a deletionTimestamp."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim of the log: ``data-<cluster>-log-<index>``."""

    name: str
    uid: str
    resource_version: str
    index: int
    size: int
    """Bytes that it asks for."""
    phase: str = "Pending"
    capacity: int | None = None
    """Bytes that it has; None: not bound."""
    created: datetime | None = None
    owners: tuple[Mapping[str, Any], ...] = ()
    """Its ownerReferences: it is deleted when the last of them is."""
    identity: str | None = None
    """Its annotation identity.ANNOTATION, as it stands there."""
    terminating: bool = False
    message: str = ""
    """Of a condition or event that says why it can't be bound or resized; empty if nothing does."""


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What the agent of one node says of itself, at GET /v1/status of the pod with this uid."""

    node: str
    pod_uid: str
    """Of the pod that was asked, so that nobody takes its predecessor's word for it."""
    role: str
    """``leader``, ``follower``, ``starting`` or ``frozen``."""
    phase: str = ""
    """What its machine is about, in one word: ``following`` is one of them. More than the role says: an agent
    that was refused by the log, or found an engine that led, has the role of a follower too."""
    epoch: int = 0
    leader: str = ""
    """Who, by what it has read of the log, leads."""
    committed: int = 0
    applied: int | None = None
    lag: int | None = None
    """Bytes of the stream that are committed and that its engine has not applied."""
    lease: float | None = None
    serving: bool = False
    ready: bool = False
    message: str = ""
    engine_version: str = ""
    """Of the engine that it is connected to; empty: none."""
    log: Mapping[str, Any] | None = None
    """How it sees its log: firstSequence, lastSequence, bytes, maxBytes, members."""
    parameters_revision: str = ""
    """Of the parameters that it was last told; see SetParameters."""
    parameters_applied: bool = False
    """The engine has all of them."""
    parameters_pending: tuple[str, ...] = ()
    """Names of those that only an engine that starts anew will have."""
    parameters_message: str = ""
    """What the engine refused, and why; empty if it refused nothing."""
    findings: tuple[tuple[str, str, int], ...] = ()
    """What it found wrong when it read: the log, the member, the record. It may be healed since."""

    @classmethod
    def parse(cls, pod_uid: str, data: Mapping[str, Any]) -> Self:
        """Return the report in the JSON data of GET /v1/status."""
        parameters = data.get("parameters") or {}
        return cls(
            node=str(data["node"]),
            pod_uid=pod_uid,
            role=str(data["role"]),
            phase=data.get("phase") or "",
            epoch=data.get("epoch") or 0,
            leader=data.get("leader") or "",
            committed=data.get("committed") or 0,
            applied=data.get("applied"),
            lag=data.get("lag"),
            lease=data.get("lease"),
            serving=bool(data.get("serving")),
            ready=bool(data.get("ready")),
            message=data.get("message") or "",
            engine_version=data.get("engineVersion") or "",
            log=data.get("log"),
            parameters_revision=str(parameters.get("revision") or ""),
            parameters_applied=bool(parameters.get("applied")),
            parameters_pending=tuple(parameters.get("restart") or ()),
            parameters_message="; ".join(
                f"{name}: {why}" for name, why in (parameters.get("errors") or {}).items()
            ),
            findings=tuple(
                (str(each["log"]), str(each["member"]), int(each["record"]))
                for each in data.get("rotten") or ()
            ),
        )


class LogState(StrEnum):
    """What is known of a shard's log."""

    INTACT = "Intact"
    """It is there, of the generation that it must have (``LogService.verify``)."""
    MISSING = "Missing"
    """The log service answers, and there is none (``LogMissing``)."""
    UNFIT = "Unfit"
    """It is of another generation, or not configured as it must be (``LogUnfit``)."""
    UNKNOWN = "Unknown"
    """The log service does not answer (``LogUnavailable``), or has not been asked."""


@dataclass(frozen=True, slots=True)
class LogMember:
    """A server's copy of one shard's log."""

    name: str
    """``<cluster>-log-<index>``: the server, and its pod."""
    current: bool
    leader: bool
    lag: int = 0
    """Records."""


@dataclass(frozen=True, slots=True)
class ShardLog:
    """The log of one shard."""

    shard: int
    state: LogState
    message: str = ""
    """What is wrong; empty if nothing is."""
    first_sequence: int = 0
    last_sequence: int = 0
    bytes: int = 0
    max_bytes: int = 0
    members: tuple[LogMember, ...] = ()


@dataclass(frozen=True, slots=True)
class LogReport:
    """What the log service says. ``observe`` can only ask once ``plan.identity.known_identity`` knows whom
    for."""

    servers: Mapping[str, str] = field(default_factory=dict)
    """By name (``<cluster>-log-<index>``): empty if it is fit and answers, else what is wrong with it."""
    shards: tuple[ShardLog, ...] = ()
    trouble: str | None = None
    """What is wrong with the members' copies; empty: nothing; None: not known."""
    rotten: str = ""
    """The member, if it is one, whose copy is to be made anew: the others hold everything, and what they hold
    was read through and is sound."""
    led_by_rotten: tuple[int, ...] = ()
    """Shards whose log is led by a member with a rotten copy, and that another one can lead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator itself was given."""

    engine_image: str
    """Image of engine and agent for clusters whose spec names none."""
    log_image: str
    """The same for the log."""
    cluster_domain: str = "cluster.local"
    operator_namespace: str = "memorycluster-system"
    operator_labels: Mapping[str, str] = field(
        default_factory=lambda: {"app.kubernetes.io/name": "memorycluster-operator"}
    )
    """Of the operator's own pods: NetworkPolicies let them in."""


@dataclass(frozen=True, slots=True)
class Source:
    """Another MemoryCluster of the namespace, of which a new one is made."""

    name: str
    spec: Spec
    generations: tuple[UUID, ...]
    """Of its logs, by shard."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All facts about one cluster."""

    now: datetime
    cluster: Cluster
    settings: Settings
    entropy: bytes
    """32 random bytes, new for each snapshot: all that ``plan`` draws comes from here."""
    objects: Mapping[Key, Manifest] = field(default_factory=dict)
    """Live objects whose controller is this MemoryCluster (by uid), of the kinds in ``objects.API_VERSIONS``,
    those that are being deleted too; as the API server returns them (``metadata`` included)."""
    foreign: Mapping[Key, str] = field(default_factory=dict)
    """Objects of a wanted name (``objects.wanted_keys``) whose controller is not this MemoryCluster: who it
    is, like ``Deployment web``, or empty if they have none."""
    pods: tuple[Pod, ...] = ()
    claims: tuple[Claim, ...] = ()
    """By name, whoever made them: they may be older than the MemoryCluster."""
    agents: Mapping[str, AgentReport] = field(default_factory=dict)
    """By node name; a node whose agent does not answer now is not in it."""
    denied: frozenset[str] = frozenset()
    """Nodes whose agent answers, and refuses the token of the Secret that there is."""
    log: LogReport = LogReport()
    asked: tuple[Asked, ...] = ()
    """The MemorySnapshots of this cluster, by age."""
    makings: tuple[Making, ...] = ()
    """Its Jobs that make or keep snapshots."""
    source: Source | None = None
    """The cluster whose log this one is to be restored from; None: none, or it is not there."""
    readers: tuple[str, ...] = ()
    """Clusters that are being restored from this one's log."""
    restored_from: frozenset[str] = frozenset()
    """Names of snapshots of which clusters are being restored now."""
    takers: tuple[str, ...] = ()
    """Jobs of other clusters, and their pods, that may yet trim or delete what this one is restored from."""
    failures: tuple[str, ...] = ()
    """Actions of the last plan that failed, but not by a guard: one line each, with what the server said."""
    secrets_seen: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What this operator process has seen in the cluster's Secrets, decoded: by Secret's name, then key."""
