"""What a MemoryCluster is doing: the shape of its ``status``, and of ``memorycluster status -o json``."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Phase(StrEnum):
    """The whole in one word."""

    PENDING = "Pending"
    """Never yet ready, or not running."""
    READY = "Ready"
    """All shards serve, every node and every log member is current."""
    DEGRADED = "Degraded"
    """All shards serve, but something is missing that the next failure may need."""
    UNAVAILABLE = "Unavailable"
    """A shard does not serve writes."""


class Role(StrEnum):
    """What a node is to its clients."""

    PRIMARY = "primary"
    REPLICA = "replica"
    STARTING = "starting"
    FROZEN = "frozen"
    """Holds acknowledged data that the log lacks; serves nothing until a human decides."""
    UNKNOWN = "unknown"
    """Its agent does not answer."""


class Condition(_Model):
    """A condition, by Kubernetes' conventions."""

    type: str
    status: str
    """``True``, ``False`` or ``Unknown``."""
    reason: str
    message: str
    last_transition_time: datetime


class NodeStatus(_Model):
    """One node."""

    name: str
    zone: str
    role: Role
    endpoint: str
    epoch: int = 0
    committed_offset: int = 0
    applied_offset: int = 0
    lag: int = 0
    """Bytes of the stream that are committed and not yet applied."""
    lease: float | None = None
    """Seconds left for which this primary may serve."""
    ready: bool = False
    message: str = ""


class LogMemberStatus(_Model):
    """One member of a shard's log."""

    name: str
    zone: str
    leader: bool
    current: bool
    lag: int = 0
    """Records that it has yet to apply."""


class LogStatus(_Model):
    """The log of a shard."""

    first_sequence: int
    last_sequence: int
    bytes: int
    max_bytes: int
    members: list[LogMemberStatus] = []


class ShardStatus(_Model):
    """One shard."""

    index: int
    slots: list[str]
    """Ranges like ``0-8191``."""
    primary: str | None = None
    """Name of the node that serves writes."""
    epoch: int = 0
    nodes: list[NodeStatus] = []
    log: LogStatus | None = None


class MemoryClusterStatus(_Model):
    """All of it."""

    observed_generation: int
    phase: Phase
    conditions: list[Condition] = []
    endpoints: list[str] = []
    """``host:port`` of every node: what to give a cluster client to start from."""
    shards: list[ShardStatus] = []
