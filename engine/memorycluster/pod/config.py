"""What a pod is told, and where it finds it. The operator writes what is described here; nothing else does.

::

    /etc/memorycluster/config/cluster.json    the cluster's ConfigMap: ClusterConfig
    /etc/memorycluster/secrets/<key>          its Secret
    /etc/memorycluster/pod/zone               the pod's zone; may be empty
    /run/memorycluster                        both containers' own: sockets and files
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from memorycluster.api.topology import Address, Topology, build_topology

CONFIG_DIR = Path("/etc/memorycluster")
RUN_DIR = Path("/run/memorycluster")
AGENT_SOCKET = RUN_DIR / "agent.sock"
"""Where a pod's agent serves its API to whoever is in that pod."""
CLUSTER_FILE = "config/cluster.json"
SECRETS = "secrets"
ZONE_FILE = "pod/zone"

LOG_PASSWORD, AGENT_PASSWORD, API_TOKEN = "log-password", "agent-password", "api-token"
"""Keys of the Secret."""

STORES = "stores"
"""Below it there is a directory for each Secret with a store's credentials, by its name."""

POD_NAME, POD_IP = "POD_NAME", "POD_IP"
"""Environment variables, from the downward API."""


class _Model(BaseModel):
    # Unknown fields are ignored: a newer operator adds some, and an engine that restarts must still start.
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="ignore", frozen=True, strict=True
    )


class Ports(_Model):
    """Where a node listens: on the pod's address, but for ``follow``."""

    clients: int = 6379
    bus: int = 16379
    """The cluster bus."""
    api: int = 8080
    """The agent's HTTP API."""
    follow: int = 6380
    """On loopback: where the agent poses as its engine's primary."""


class ShardConfig(_Model):
    """One shard."""

    generation: UUID
    """Of its log, as it was made: a log of another generation is refused."""


class LogConfig(_Model):
    """How to reach the log service."""

    servers: Annotated[tuple[str, ...], Field(min_length=1)]
    """Addresses for clients: ``nats://host:port``."""
    user: str


class EngineConfig(_Model):
    """How engines are set up. What can't be changed live is read at an engine's next start."""

    io_threads: Annotated[int, Field(ge=1)] = 1
    parameters: dict[str, str] = {}
    """Valkey's own parameters."""
    revision: str = ""
    """Names this set of parameters; agents say in their status which one their engine has."""


class ClusterConfig(_Model):
    """What every pod of a cluster is told: the text of ``cluster.json``."""

    cluster: str
    """Name of the MemoryCluster; its nodes are called ``<cluster>-<shard>-<index>``, as their pods are."""
    namespace: str
    uid: str
    """The cluster's identity, of which, with the namespace, node ids are made. It must never change, also not
    when the resource is made anew over the volumes of its log."""
    domain: str
    """DNS name of the nodes' headless Service, to its end: a node is found at ``<name>.<domain>``."""
    shards: Annotated[tuple[ShardConfig, ...], Field(min_length=1)]
    nodes_per_shard: Annotated[int, Field(ge=1)]
    """The primary and its replicas."""
    zones: Annotated[tuple[str, ...], Field(min_length=1)]
    log: LogConfig
    lease: float = 5.0
    """Seconds for which a leader may serve after its last committed record."""
    engine: EngineConfig = EngineConfig()
    snapshots: dict[str, Any] | None = None
    """The store of its snapshots, as ``api.snapshots.SnapshotStore`` writes it; None: there is none."""
    ports: Ports = Ports()

    def dump(self) -> str:
        """Return the text of ``cluster.json``; the same for equal configurations."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def hostname(self, node: str) -> str:
        """Return the name by which clients and other nodes find ``node``."""
        return f"{node}.{self.domain}"

    def stream(self, shard: int) -> str:
        """Return the name of a shard's log in the log service."""
        return f"{self.cluster}-{shard}"

    def topology(self) -> Topology:
        """Return who is in the cluster. Zones are only where nodes are meant to be: the scheduler decides."""

        def address(node: str) -> Address:
            return Address(self.hostname(node), self.ports.clients, self.ports.bus)

        return build_topology(
            self.cluster,
            # Volumes that are cloned into another namespace bring the uid along. A pod there that got the
            # address of one of ours must not be taken for it.
            f"{self.uid}/{self.namespace}",
            shards=len(self.shards),
            nodes_per_shard=self.nodes_per_shard,
            zones=self.zones,
            address=address,
        )
