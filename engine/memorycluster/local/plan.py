"""From a manifest and what a data directory remembers to what is to run. Pure, but for finding free ports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from memorycluster.api.manifest import Manifest
from memorycluster.api.topology import Address, Topology, build_topology
from memorycluster.local.errors import UserError
from memorycluster.local.ports import HOST, allocate, free_base, log_ports, node_ports, port_names
from memorycluster.local.state import ShardState, State

LOG_SERVER_PREFIX = "log-"
"""Comes before the zone in a log server's name."""


def node_names(cluster: str, shards: int, nodes_per_shard: int) -> list[str]:
    """Return the names of the nodes, by shard and index."""
    return [f"{cluster}-{shard}-{index}" for shard in range(shards) for index in range(nodes_per_shard)]


def stream_name(cluster: str, shard: int) -> str:
    """Return the name of a shard's log in the log service."""
    return f"{cluster}-{shard}"


def plan_state(
    manifest: Manifest,
    old: State | None,
    *,
    root: Path,
    zones: int | None = None,
    base_port: int | None = None,
    find_base: Callable[[int], int] = free_base,
) -> State:
    """Return the state with which to run ``manifest``, where ``old`` is what its data directory remembers.

    :param zones: how many of the manifest's zones to use; None: what ``old`` has, or all.
    :param base_port: first port to use; None: what ``old`` has, or a free block.
    :raises UserError: the data directory is another cluster's, or the manifest changes what can't be.
    """
    name, spec = manifest.metadata.name, manifest.spec
    wanted = list(spec.zones)
    if zones is None and old is not None:
        zones = old.zones_used
    if zones is not None:
        if zones > len(wanted):
            raise UserError(f"--zones {zones}: spec.zones names only {len(wanted)}; name {zones} there")
        wanted = wanted[:zones]
    names = port_names(node_names(name, spec.shards, spec.nodes_per_shard), wanted)
    if old is None:
        base = base_port if base_port is not None else find_base(len(names))
        return State(
            cluster=name,
            zones=wanted,
            zones_used=zones,
            shards=[ShardState() for _ in range(spec.shards)],
            nodes_per_shard=spec.nodes_per_shard,
            max_bytes=spec.log.max_bytes,
            restore_from=spec.restore_from,
            store=spec.snapshots.store,
            base_port=base,
            ports=allocate(names, base, {}),
        )
    if old.cluster != name:
        raise UserError(f"{root}: holds the cluster {old.cluster}, not {name}; choose another --data-dir")
    if wanted != old.zones:
        raise _fixed("spec.zones", ", ".join(old.zones))
    if spec.shards != len(old.shards):
        raise _fixed("spec.shards", str(len(old.shards)))
    if spec.log.max_bytes < old.max_bytes:
        raise UserError(
            f"spec.log.maxBytes: the log was made for {old.max_bytes >> 20}Mi and can only grow: name more"
        )
    moved = base_port is not None and base_port != old.base_port
    base = base_port if base_port is not None else old.base_port
    ports = allocate(names, base, {} if moved else old.ports)
    return old.model_copy(
        update={
            "nodes_per_shard": spec.nodes_per_shard,
            "base_port": base,
            "ports": ports if moved else old.ports | ports,
        }
    )


def _fixed(field: str, value: str) -> UserError:
    return UserError(
        f"{field}: the cluster was made with {value}; this can't be changed yet: "
        "put it back, or start anew in another --data-dir"
    )


def plan_topology(state: State) -> Topology:
    """Return the topology of the cluster that is remembered as ``state``."""

    def address(node: str) -> Address:
        clients, bus, _ = node_ports(node)
        return Address(HOST, state.ports[clients], state.ports[bus])

    return build_topology(
        state.cluster,
        str(state.uid),
        shards=len(state.shards),
        nodes_per_shard=state.nodes_per_shard,
        zones=state.zones,
        address=address,
    )


def ports_in_use(state: State) -> dict[str, int]:
    """Return the ports that a run listens at, by name."""
    nodes = node_names(state.cluster, len(state.shards), state.nodes_per_shard)
    return {name: state.ports[name] for name in port_names(nodes, state.zones)}


def log_port_numbers(state: State, zone: str) -> tuple[int, int, int]:
    """Return the ports of the log server in ``zone``: clients, routes, monitoring."""
    clients, routes, monitor = log_ports(zone)
    return state.ports[clients], state.ports[routes], state.ports[monitor]


def follow_port(state: State, node: str) -> int:
    """Return the port at which the agent of ``node`` poses as its engine's primary."""
    return state.ports[node_ports(node)[2]]
