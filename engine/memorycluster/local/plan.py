"""From a manifest and what a data directory remembers to what is to run. Pure, but for finding free ports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from memorycluster.api.manifest import Manifest
from memorycluster.api.topology import Address, Topology, build_topology
from memorycluster.local.errors import UserError
from memorycluster.local.ports import HOST, allocate, free_base, log_ports, node_ports, port_names
from memorycluster.local.state import ShardState, State


def node_names(manifest: Manifest) -> list[str]:
    """Return the names of the nodes, by shard and index."""
    spec = manifest.spec
    return [
        f"{manifest.metadata.name}-{shard}-{index}"
        for shard in range(spec.shards)
        for index in range(spec.nodes_per_shard)
    ]


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
    name = manifest.metadata.name
    wanted = list(manifest.spec.zones)
    if zones is None and old is not None:
        zones = old.zones_used
    if zones is not None:
        if zones > len(wanted):
            raise UserError(f"--zones {zones}: spec.zones names only {len(wanted)}; name {zones} there")
        wanted = wanted[:zones]
    if old is None:
        names = port_names(node_names(manifest), wanted)
        base = base_port if base_port is not None else find_base(len(names))
        return State(
            cluster=name,
            zones=wanted,
            zones_used=zones,
            shards=[ShardState() for _ in range(manifest.spec.shards)],
            base_port=base,
            ports=allocate(names, base, {}),
        )
    if old.cluster != name:
        raise UserError(f"{root}: holds the cluster {old.cluster}, not {name}; choose another --data-dir")
    if wanted != old.zones:
        raise UserError(
            f"spec.zones: the cluster was made with {', '.join(old.zones)}; zones can't be changed yet: "
            "put them back, or start anew in another --data-dir"
        )
    if manifest.spec.shards != len(old.shards):
        raise UserError(
            f"spec.shards: the cluster was made with {len(old.shards)}; this can't be changed yet: "
            "put it back, or start anew in another --data-dir"
        )
    names = port_names(node_names(manifest), wanted)
    moved = base_port is not None and base_port != old.base_port
    base = base_port if base_port is not None else old.base_port
    ports = allocate(names, base, {} if moved else old.ports)
    return old.model_copy(update={"base_port": base, "ports": ports if moved else old.ports | ports})


def plan_topology(manifest: Manifest, state: State) -> Topology:
    """Return the topology of ``manifest`` in the data directory that remembers ``state``."""

    def address(node: str) -> Address:
        clients, bus, _ = node_ports(node)
        return Address(HOST, state.ports[clients], state.ports[bus])

    return build_topology(
        state.cluster,
        str(state.uid),
        shards=manifest.spec.shards,
        nodes_per_shard=manifest.spec.nodes_per_shard,
        zones=state.zones,
        address=address,
    )


def ports_in_use(manifest: Manifest, state: State) -> dict[str, int]:
    """Return the ports that a run of ``manifest`` listens at, by name."""
    return {name: state.ports[name] for name in port_names(node_names(manifest), state.zones)}


def log_port_numbers(state: State, zone: str) -> tuple[int, int, int]:
    """Return the ports of the log server in ``zone``: clients, routes, monitoring."""
    clients, routes, monitor = log_ports(zone)
    return state.ports[clients], state.ports[routes], state.ports[monitor]


def follow_port(state: State, node: str) -> int:
    """Return the port at which the agent of ``node`` poses as its engine's primary."""
    return state.ports[node_ports(node)[2]]
