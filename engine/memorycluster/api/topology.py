"""Who is in a cluster: its shards, the slots they own, their nodes. Follows from the manifest and a uid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SLOTS = 16384
"""Hash slots of a Valkey cluster."""


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int
    """Clients' port."""
    bus_port: int
    """The cluster bus's port."""


@dataclass(frozen=True, slots=True)
class Node:
    """One engine with its agent."""

    name: str
    """``<cluster>-<shard>-<index>``."""
    id: str
    """The engine's node id in the cluster: 40 hexadecimal digits, the same for the cluster's whole life."""
    shard: int
    zone: str
    host: str
    port: int
    bus_port: int

    @property
    def endpoint(self) -> str:
        """``host:port`` for clients."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Shard:
    """One primary, its replicas, and the slots that they own."""

    index: int
    id: str
    """The shard's id in the cluster: 40 hexadecimal digits."""
    slots: tuple[tuple[int, int], ...]
    """Ranges of slots, first and last included."""
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """All shards of a cluster."""

    cluster: str
    uid: str
    shards: tuple[Shard, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, by shard and index."""
        return tuple(node for shard in self.shards for node in shard.nodes)

    def node(self, name: str) -> Node:
        """Return the node called ``name``. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


def build_topology(
    cluster: str,
    uid: str,
    *,
    shards: int,
    nodes_per_shard: int,
    zones: Sequence[str],
    address: Callable[[str], Address],
) -> Topology:
    """Return the topology of a cluster whose nodes listen where ``address(node name)`` says.

    Slots are split evenly. The nodes of a shard go to the zones in turn, each shard starting one further,
    so that a node keeps its zone whatever the number of replicas is.
    """

    def node(shard: int, index: int) -> Node:
        name = f"{cluster}-{shard}-{index}"
        return Node(name, stable_id(uid, name), shard, zones[(shard + index) % len(zones)], *address(name))

    return Topology(
        cluster,
        uid,
        tuple(
            Shard(
                index=shard,
                id=stable_id(uid, f"{cluster}-{shard}"),
                slots=(shard_slots(shard, shards),),
                nodes=tuple(node(shard, index) for index in range(nodes_per_shard)),
            )
            for shard in range(shards)
        ),
    )


def shard_slots(shard: int, shards: int) -> tuple[int, int]:
    """Return the first and the last slot of a shard of so many."""
    return SLOTS * shard // shards, SLOTS * (shard + 1) // shards - 1


def stable_id(uid: str, name: str) -> str:
    """Return the 40 hexadecimal digits by which Valkey knows what is called ``name`` in this cluster."""
    return hashlib.sha1(f"{uid}/{name}".encode(), usedforsecurity=False).hexdigest()
