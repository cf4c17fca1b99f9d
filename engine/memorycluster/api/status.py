"""What a MemoryCluster is doing: the shape of its ``status``, and of ``memorycluster status -o json``."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:  # for a type checker it is a property, which it can't see below a decorator
    from builtins import property as derived
else:
    from pydantic import computed_field as derived


class StatusModel(BaseModel):
    """A part of a status."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True)


class Phase(StrEnum):
    """The whole in one word."""

    PENDING = "Pending"
    """Never yet ready, or not running."""
    READY = "Ready"
    """All shards serve, every node and every log member is current."""
    DEGRADED = "Degraded"
    """All shards serve, but something is missing that the next failure may need, or a log is full, so that
    writes are refused."""
    UNAVAILABLE = "Unavailable"
    """A shard does not serve writes."""
    DELETING = "Deleting"
    """It is being deleted, and its last snapshot is taken first."""


class Role(StrEnum):
    """What a node is to its clients."""

    PRIMARY = "primary"
    REPLICA = "replica"
    STARTING = "starting"
    FROZEN = "frozen"
    """Holds acknowledged data that the log lacks; serves nothing until a human decides."""
    UNKNOWN = "unknown"
    """Its agent does not answer."""


class ConditionType(StrEnum):
    """What is judged by itself."""

    READY = "Ready"
    """Every shard has a primary that serves."""
    REDUNDANT = "Redundant"
    """Every node and every member of the log is current: the next failure costs nothing."""
    LOG_INTACT = "LogIntact"
    """No member of the log is known to hold a rotten copy."""
    PARAMETERS_APPLIED = "ParametersApplied"
    """Every engine runs with the parameters of the spec; the message says which wait for a restart."""
    SNAPSHOTS_CURRENT = "SnapshotsCurrent"
    """Snapshots are taken when they are due, and what is in the store is whole."""
    PROGRESSING = "Progressing"
    """The operator is on the way to what the spec wants, or waits on that way. False at rest."""
    PAUSED = "Paused"
    """The operator changes nothing, because spec.paused says so."""


FALSE_AT_REST = (ConditionType.PROGRESSING, ConditionType.PAUSED)
"""The conditions that are False when all is well; the others are True then."""


class Condition(StatusModel):
    """A condition, by Kubernetes' conventions."""

    type: str
    """What is judged: Ready, Redundant, LogIntact, ParametersApplied, SnapshotsCurrent,
    Progressing, Paused."""
    status: str
    """True, False or Unknown."""
    reason: str
    """Why, in one CamelCase word for programs."""
    message: str
    """Why, for people."""
    last_transition_time: datetime
    """When the status last changed."""
    observed_generation: int | None = None
    """The metadata.generation of the spec that was judged."""


class Blocked(StatusModel):
    """What the operator waits for before it goes on."""

    reason: str
    """In one CamelCase word for programs."""
    message: str
    """For people: what is waited for, and what to do if it does not come."""
    until: datetime | None = None
    """When it should have come; past that somebody should look. Nothing is forced then."""


class NodeStatus(StatusModel):
    """One node."""

    name: str
    """Its name, and its pod's: CLUSTER-SHARD-INDEX."""
    zone: str
    """Where it is."""
    role: Role
    """primary, replica, starting, frozen (it holds acknowledged data that the log lacks) or unknown (its
    agent does not answer)."""
    endpoint: str
    """host:port for clients."""
    pod_uid: str | None = None
    """Of its pod, on Kubernetes."""
    epoch: int = 0
    """The leadership that it has seen last."""
    committed_offset: int = 0
    """Up to which its log is durable, in bytes of the replication stream."""
    applied_offset: int | None = None
    """Up to which its engine has applied it. Not there without an engine."""
    lag: int | None = None
    """Bytes of the stream that are committed and not yet applied. Not there where that is not known."""
    lease: float | None = None
    """Seconds left for which this primary may serve."""
    ready: bool = False
    """It serves: as the primary, or as a replica that has caught up."""
    message: str = ""
    """What is wrong."""


class RottenRecord(StatusModel):
    """A record that a member lacks, or mangles: lately found by a reader, and perhaps healed since."""

    record: int
    """Its sequence in the log."""
    reason: str
    """What is wrong with it."""


class LogMemberStatus(StatusModel):
    """One member of a shard's log."""

    name: str
    """Its name."""
    zone: str
    """Where it is."""
    leader: bool
    """It takes the appends."""
    current: bool
    """It has all that is committed."""
    lag: int = 0
    """Records that it has yet to apply."""
    rotten: RottenRecord | None = None
    """A record that it lacks, or mangles: lately found by a reader, and perhaps healed since."""


class LogStatus(StatusModel):
    """The log of a shard."""

    first_sequence: int
    """Of the oldest record."""
    last_sequence: int
    """Of the newest record."""
    bytes: int
    """Its size."""
    max_bytes: int
    """Its limit."""
    members: list[LogMemberStatus] = []
    """Who holds it."""


class KeptSnapshot(StatusModel):
    """A verified snapshot."""

    name: str
    """Of the MemorySnapshot, or one that says when it was taken."""
    sequence: int
    """Of the last record of the log that it holds."""
    offset: int
    """Replication offset of its state."""
    size: int
    """Bytes of its file."""
    created_at: datetime
    """When it was there."""
    in_log: bool | None = None
    """It is in the log service: also if another store was named meanwhile."""


class ShardSnapshots(StatusModel):
    """The snapshots of a shard, as the last Job found them that made or kept them."""

    kept: Annotated[list[KeptSnapshot], Field(max_length=2)] = []
    """The newest two: the log is trimmed behind the older one."""
    waits: bool = False
    """More of the log could be trimmed, but for a node that is silent or far behind."""
    message: str = ""
    """What is wrong with them."""
    looked_at: datetime | None = None
    """When that was so."""


class ShardStatus(StatusModel):
    """One shard."""

    index: int
    """From 0."""
    slots: list[str]
    """Ranges of hash slots, like 0-8191."""
    primary: str | None = None
    """Name of the node that serves writes."""
    zone: str | None = None
    """Where the primary is."""
    epoch: int = 0
    """The newest leadership."""
    nodes: list[NodeStatus] = []
    """The primary and its replicas."""
    log: LogStatus | None = None
    """Its log, as an agent saw it."""
    snapshots: ShardSnapshots | None = None
    """Its snapshots, on Kubernetes."""


class ShardIdentity(StatusModel):
    """Which log is a shard's."""

    generation: UUID
    """Drawn once; every record of the log carries it."""
    created: bool = False
    """The log was made: from here on it must exist, and is never made again."""


class SnapshotsStatus(StatusModel):
    """The schedule of the snapshots."""

    last: datetime | None = None
    """The last moment of the schedule for which there was a MemorySnapshot."""
    next: datetime | None = None
    """The next one."""


class DeletionStatus(StatusModel):
    """How the deletion goes of a cluster whose last snapshot is taken first (snapshots.beforeDelete)."""

    since: datetime
    """When the operator began to hold it."""
    deadline: datetime
    """When it ends, last snapshot or not."""
    snapshot: str = ""
    """Name of the MemorySnapshot that is to be the last one; empty: there is none yet."""
    ended_at: datetime | None = None
    """When there was nothing more to wait for."""
    reason: str
    """How far it is, in one CamelCase word for programs."""
    message: str
    """How far it is, for people."""


class Identity(StatusModel):
    """What must never be guessed: which logs are this cluster's. Also kept on the log's volumes."""

    uid: UUID
    """Of the cluster; the ids of its nodes derive from it."""
    shards: list[ShardIdentity]
    """By index."""
    log_store: bool | None = None
    """Its log service was made with room for snapshots, and keeps them unless the spec names a store."""


class MemoryClusterStatus(StatusModel):
    """What the cluster is doing. Numbers are as of the last change of anything else here."""

    observed_generation: int
    """The metadata.generation of the spec that this is about."""
    phase: Phase
    """Pending (never yet ready), Ready, Degraded (serves, but something is missing that the next failure may
    need, or a full log refuses writes), Unavailable (a shard does not serve) or Deleting (a last snapshot is
    taken first)."""
    conditions: list[Condition] = []
    """Each judged by itself: Ready, Redundant, LogIntact, ParametersApplied, SnapshotsCurrent,
    Progressing, Paused."""
    blocked: Blocked | None = None
    """What the operator waits for before it goes on."""
    version: str | None = None
    """Of the engine that all nodes run; the lowest while they differ."""
    endpoints: list[str] = []
    """What to give a cluster client to start from, as host:port: the clients' Service, or without Kubernetes
    every node."""
    shards: Annotated[list[ShardStatus], Field(max_length=1000)] = []
    """By index."""
    snapshots: SnapshotsStatus | None = None
    """The schedule of the snapshots, on Kubernetes."""
    deletion: DeletionStatus | None = None
    """How its deletion goes, while that is held for a last snapshot."""
    identity: Identity | None = None
    """Which logs are this cluster's. Never edit it."""
    selector: str | None = None
    """Of the engine pods, for the scale subresource."""
    deletion_policy: Literal["Retain", "Delete"] | None = None
    """What becomes of the log's volumes if the MemoryCluster is deleted now, on Kubernetes: with Delete they,
    or some of them, go with it."""

    @derived
    def replicas_per_shard(self) -> int:
        """Replicas of the shard that has the fewest."""
        return max(0, min((len(shard.nodes) for shard in self.shards), default=0) - 1)

    @derived
    def shards_ready(self) -> str:
        """How many shards have a primary that serves, of how many: 2/2."""
        return f"{sum(shard.primary is not None for shard in self.shards)}/{len(self.shards)}"

    @derived
    def primary_zones(self) -> str:
        """The zones of the primaries, by shard: zone-a,zone-b."""
        return ",".join(shard.zone or "-" for shard in self.shards)

    @derived
    def log_members_ready(self) -> str:
        """How many members of the log are current in every shard's, of how many: 3/3."""
        current: dict[str, bool] = {}
        for shard in self.shards:
            for member in shard.log.members if shard.log else ():
                current[member.name] = current.get(member.name, True) and member.current
        return f"{sum(current.values())}/{len(current)}"

    @derived
    def message(self) -> str:
        """In one line what is going on, or what is wrong."""
        if self.blocked is not None:
            return self.blocked.message
        for condition in self.conditions:
            if condition.status != ("False" if condition.type in FALSE_AT_REST else "True"):
                return condition.message
        return self.conditions[0].message if self.conditions else ""
