"""All that a cluster's objects are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from memorycluster.api.snapshots import SnapshotStore
from memorycluster.api.spec import Spec
from memorycluster_operator.identity import Identity
from memorycluster_operator.snapshot import Cluster, Key, Manifest, Settings


@dataclass(frozen=True, slots=True)
class Credentials:
    """Secrets between the parts of one cluster."""

    log_password: str
    agent_password: str
    api_token: str


@dataclass(frozen=True, slots=True)
class Images:
    """Which images to use, and on what default they rest, if on one; see ``images``."""

    engine: str
    log: str
    engine_default: str | None
    log_default: str | None


@dataclass(frozen=True, slots=True)
class Heal:
    """An order to make a log member's copy anew, in its template until that is done."""

    member: str
    pod_uid: str
    """The pod with the rotten copy: its successor carries the order out, once."""
    until: datetime
    """From then on it is none: who is told late can't know whether that is still right."""
    ends: tuple[int, ...]
    """Up to which record each shard's log was known to go: who has less does not have everything."""

    def __str__(self) -> str:
        """Return it as it stands in the annotation."""
        return f"{self.member} {self.pod_uid} {self.until.isoformat()} {','.join(map(str, self.ends))}"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What builders build from."""

    cluster: Cluster
    settings: Settings
    identity: Identity | None
    """None: not settled yet; what needs it is not built."""
    credentials: Credentials | None
    """None: they are lost, and in use; what holds them is not built."""
    images: Images
    frozen: frozenset[int] = frozenset()
    """Shards with a frozen node: nobody may evict their pods."""
    heal: Heal | None = None
    """Whose copy of the log is to be made anew; None: nobody's."""
    replicas: Mapping[int, int] = field(default_factory=dict)
    """Pods of each shard's StatefulSet for now, where it is not what the spec wants."""
    nodes_per_shard: int = 0
    """How many nodes of each shard the others must know: while a shard shrinks, more than the spec wants; 0:
    what the spec wants."""
    readers: tuple[str, ...] = ()
    """Clusters that are being restored from this one's log."""
    source_store: SnapshotStore | None = None
    """Where the cluster that this one is restored from has its snapshots; None: not known, or nobody's."""
    live: Mapping[Key, Manifest] = field(default_factory=dict)
    """What is there: some of it can't be changed once it is made."""

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.cluster.name

    @property
    def spec(self) -> Spec:
        """What is wanted."""
        return self.cluster.spec
