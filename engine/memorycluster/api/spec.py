"""What is wanted of a MemoryCluster.

What is for Kubernetes only is accepted and ignored where there is none (``memorycluster run``). None is the
operator's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from memorycluster.api.kubernetes import Peer, PullPolicy, Resources, SecretName, Toleration
from memorycluster.api.model import Duration, Image, Items, Model, ObjectName, Quantity, Text, Zone, mistake
from memorycluster.api.parameters import check_parameter, parameters_schema
from memorycluster.api.snapshots import RestoreFrom, Snapshots
from memorycluster.api.units import format_quantity

MAX_NODES = 1000
"""Nodes of one cluster at most: what Valkey's cluster bus is known to bear."""


def _parameters(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("expected a map of parameter names to values")
    checked = {}
    for name, each in value.items():
        try:
            checked[str(name)] = check_parameter(str(name), each)
        except ValueError as error:
            raise mistake(str(name), str(error)) from error
    return checked


def _one_or_three(zones: tuple[str, ...]) -> tuple[str, ...]:
    if len(zones) not in (1, 3):
        raise ValueError(f"{len(zones)} zones; name 1 or 3 (two zones can't lose one and keep a majority)")
    if len({zone.lower() for zone in zones}) != len(zones):  # the log service does not tell case apart
        raise ValueError("zones must differ from each other")
    return zones


Parameters = Annotated[Mapping[str, str], BeforeValidator(_parameters), WithJsonSchema(parameters_schema())]


class Engine(Model):
    """The engine of each node."""

    version: Literal["9.1.2"] = "9.1.2"
    """Valkey's version."""
    image: Image | None = None
    """Image of engine and agent; by default the one of this version that the operator was made for."""
    image_pull_policy: PullPolicy | None = None
    """When nodes pull the image; by default Always for the tag latest, else IfNotPresent."""
    io_threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads for reading requests and writing replies; more need more CPU."""
    parameters: Parameters = Field(default_factory=dict)
    """Valkey configuration parameters, those that don't touch durability."""
    resources: Resources = Resources()
    """Of the engine's container. Without a memory limit a node's data is bounded by maxmemory alone."""
    agent_resources: Resources = Resources()
    """Of the agent's container; by default what the operator finds sensible."""


class LogStorage(Model):
    """The volume of each member of the log."""

    size: Quantity | None = None
    """Of the volume; can only grow. By default what the logs of all shards may take, and the snapshots that
    are kept beside them, and a quarter more."""
    storage_class_name: ObjectName | None = None
    """The volume's StorageClass; its fsync must mean what it says. Can't be changed."""


class Log(Model):
    """The log of each shard."""

    image: Image | None = None
    """Image of nats-server, 2.15.1 or newer; by default the official one that the operator was made for."""
    image_pull_policy: PullPolicy | None = None
    """When nodes pull the image; by default as Kubernetes does."""
    max_bytes: Annotated[Quantity, Field(ge=64 << 20, le=1 << 50)] = 4 << 30
    """Size limit of each shard's log on each member, from 64Mi; at 90% writes are refused. Can only grow."""
    storage: LogStorage = LogStorage()
    """The volume of each member."""
    resources: Resources = Resources()
    """Of each member's container."""


class Failover(Model):
    """How fast a dead primary is noticed."""

    lease: Annotated[Duration, Field(ge=1, le=60)] = 5.0
    """For how long a leader may serve after its last committed record, 1s to 60s. Can't be changed yet."""


class NetworkPolicy(Model):
    """Who may connect to the clients' port."""

    peers: Annotated[Items[Peer], Field(alias="from", max_length=64)] = ()
    """Pods, namespaces or addresses, as in a NetworkPolicy; empty: nobody."""


class Scheduling(Model):
    """Where pods may run, beside what zones says."""

    node_selector: Mapping[str, Text] = {}
    """Labels that a node must have."""
    tolerations: Annotated[Items[Toleration], Field(max_length=32)] = ()
    """Taints that don't keep the pods off a node."""
    priority_class_name: ObjectName | None = None
    """The PriorityClass of all pods."""


class Spec(Model):
    """What is wanted."""

    engine: Engine = Engine()
    """The engine of each node."""
    shards: Annotated[int, Field(ge=1, le=500)] = 1
    """Parts into which the keys are split, each with its own primary and log. Can't be changed yet."""
    replicas_per_shard: Annotated[int, Field(ge=0, le=5)] = 2
    """Replicas beside each primary: they take over, and answer READONLY connections."""
    zones: Annotated[Items[Zone], AfterValidator(_one_or_three), Field(json_schema_extra={"maxItems": 8})] = (
        "zone-a",
        "zone-b",
        "zone-c",
    )
    """One or three zones: the values of the label topology.kubernetes.io/zone of the nodes to use. Can't be
    changed yet."""
    log: Log = Log()
    """The log of each shard, in which a write is durable before it is acknowledged."""
    snapshots: Snapshots = Snapshots()
    """Snapshots of every shard: they let the log be trimmed, and a user go back."""
    restore_from: RestoreFrom | None = None
    """What a new cluster begins with; without effect on one that is there."""
    failover: Failover = Failover()
    """How fast a dead primary is noticed."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """Who may connect to the clients' port; by default nobody."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What becomes of the log's volumes when the MemoryCluster is deleted. With Retain, the same manifest
    applied again finds all its data."""
    paused: bool = False
    """The operator changes nothing while this is true; failover works as ever. No snapshot is taken, so the
    log is not trimmed: it grows, and at 90% of log.maxBytes writes are refused."""
    scheduling: Scheduling = Scheduling()
    """Where pods may run, beside what zones says."""
    image_pull_secrets: Annotated[Items[SecretName], Field(max_length=16)] = ()
    """Secrets with credentials for the images' registries."""

    @property
    def nodes_per_shard(self) -> int:
        """The primary and its replicas."""
        return 1 + self.replicas_per_shard

    @property
    def log_bytes(self) -> int:
        """Bytes that one member of the log needs for the logs of all shards, one of them being rewritten, and
        for the snapshots that are kept there."""
        return (self.shards + 1) * self.log.max_bytes + self.snapshot_bytes

    @property
    def snapshot_bytes(self) -> int:
        """Bytes that snapshots may take on one member of the log; 0: none are kept there."""
        store = self.snapshots.store.log
        return 0 if store is None else store.max_bytes or self.shards * self.log.max_bytes

    @property
    def log_volume_bytes(self) -> int:
        """Bytes of the volume of each member of the log."""
        return self.log.storage.size or self.log_bytes * 5 // 4

    @property
    def log_file_bytes(self) -> int:
        """Bytes that one member of the log may use of its volume."""
        return min(self.log_bytes, self.log_volume_bytes)

    @model_validator(mode="after")
    def _bounded(self) -> Spec:
        nodes = self.shards * self.nodes_per_shard
        if nodes > MAX_NODES:
            raise ValueError(
                f"{self.shards} shards with {self.replicas_per_shard} replicas are {nodes} nodes; "
                f"at most {MAX_NODES}: lower shards or replicasPerShard"
            )
        return self

    @model_validator(mode="after")
    def _fits(self) -> Spec:
        size = self.log.storage.size
        if size is not None and size < self.log_bytes:
            raise mistake(
                "log.storage.size",
                f"{format_quantity(size)} is too small for {self.shards} + 1 times log.maxBytes"
                f"{', and the snapshots' if self.snapshot_bytes else ''}; "
                f"use at least {format_quantity(self.log_bytes)}",
            )
        return self
