import socket
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memorycluster.api.manifest import Manifest, parse_manifest
from memorycluster.local.errors import UserError
from memorycluster.local.layout import Layout
from memorycluster.local.plan import follow_port, plan_state, plan_topology, ports_in_use
from memorycluster.local.ports import allocate, free_base, in_use, is_free, used_port
from memorycluster.local.state import State

ROOT = Path("/data")


def manifest(name: str = "demo", **spec: object) -> Manifest:
    head = {"apiVersion": "memorycluster.io/v1alpha1", "kind": "MemoryCluster", "metadata": {"name": name}}
    return parse_manifest(yaml.safe_dump({**head, "spec": spec}))


def plan(
    wanted: Manifest, old: State | None = None, zones: int | None = None, base_port: int | None = 7000
) -> State:
    return plan_state(wanted, old, root=ROOT, zones=zones, base_port=base_port, find_base=lambda count: 9000)


@given(st.integers(1, 20), st.integers(0, 5), st.sampled_from([1, 3]))
def test_no_port_is_used_twice_and_clients_come_first(shards: int, replicas: int, zones: int) -> None:
    wanted = manifest(shards=shards, replicasPerShard=replicas)
    state = plan(wanted, zones=zones)
    ports = ports_in_use(state)
    nodes = plan_topology(state).nodes
    assert len(set(ports.values())) == len(ports) == 3 * (len(nodes) + zones)
    assert [node.port for node in nodes] == list(range(7000, 7000 + len(nodes)))
    assert set(ports.values()) == set(range(7000, 7000 + len(ports)))
    assert {follow_port(state, node.name) for node in nodes} <= set(ports.values())


def test_a_free_block_is_looked_for_once() -> None:
    state = plan(manifest(), base_port=None)
    assert state.base_port == 9000
    assert plan(manifest(), state, base_port=None) == state


def test_more_replicas_leave_every_port_as_it_was() -> None:
    before = plan(manifest(replicasPerShard=1))
    after = plan(manifest(replicasPerShard=3), before, base_port=None)
    assert before.ports.items() < after.ports.items()
    assert after.uid == before.uid
    assert after.shards == before.shards
    nodes = plan_topology(after).nodes
    assert plan_topology(before).nodes == nodes[:2]
    assert len({node.port for node in nodes}) == 4


def test_another_store_of_snapshots_is_not_remembered_before_it_is_known_to_do() -> None:
    first = {"store": {"directory": {"path": "/first"}}}
    before = plan(manifest(snapshots=first))
    after = plan(manifest(snapshots={"store": {"directory": {"path": "/second"}}}), before)
    assert after.store == before.store == manifest(snapshots=first).spec.snapshots.store


def test_fewer_replicas_keep_their_ports_for_later() -> None:
    before = plan(manifest(replicasPerShard=2))
    after = plan(manifest(replicasPerShard=0), before, base_port=None)
    assert after.ports == before.ports
    assert len(ports_in_use(after)) == 3 + 9


def test_another_base_port_moves_all() -> None:
    before = plan(manifest())
    after = plan(manifest(), before, base_port=8000)
    assert {name: port + 1000 for name, port in before.ports.items()} == after.ports


def test_zones_flag_is_remembered() -> None:
    before = plan(manifest(), zones=1)
    assert before.zones == ["zone-a"]
    assert plan(manifest(), before).zones == ["zone-a"]


@pytest.mark.parametrize(
    ("made", "wanted", "zones", "line"),
    [
        (manifest("one"), manifest("two"), None, "/data: holds the cluster one, not two"),
        (manifest(shards=1), manifest(shards=2), None, "spec.shards: the cluster was made with 1"),
        (
            manifest(),
            manifest(log={"maxBytes": "1Gi"}),
            None,
            "spec.log.maxBytes: the log was made for 4096Mi and can only grow",
        ),
        (
            manifest(),
            manifest(zones=["a", "b", "c"]),
            None,
            "spec.zones: .* made with zone-a, zone-b, zone-c",
        ),
        (manifest(), manifest(), 1, "spec.zones: the cluster was made with zone-a, zone-b, zone-c"),
        (manifest(zones=["zone-a"]), manifest(), None, "spec.zones: the cluster was made with zone-a"),
        (manifest(zones=["a"]), manifest(zones=["a"]), 3, "--zones 3: spec.zones names only 1; name 3 there"),
    ],
)
def test_what_cant_be_changed_is_refused(
    made: Manifest, wanted: Manifest, zones: int | None, line: str
) -> None:
    with pytest.raises(UserError, match=line):
        plan(wanted, plan(made), zones=zones)


def test_ports_end_at_65535() -> None:
    assert allocate(["a", "b"], 65534, {}) == {"a": 65534, "b": 65535}
    with pytest.raises(UserError, match="--base-port 65534: 3 ports from there on reach beyond 65535"):
        allocate(["a", "b", "c"], 65534, {})


def test_a_used_port_is_seen_and_named() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port)
        assert used_port({"demo-0-0/clients": port}) == ("demo-0-0/clients", port)
        error = str(in_use("demo-0-0/clients", port))
        assert error.startswith(f"port {port} (clients of demo-0-0) is in use by ")
        assert "--base-port" in error
    assert is_free(port)


def test_a_free_block_is_free() -> None:
    base = free_base(20)
    assert base % 100 == 0
    assert all(map(is_free, range(base, base + 20)))


def test_every_file_has_its_own_place_and_sockets_are_short() -> None:
    wanted = manifest(shards=12, replicasPerShard=5)
    topology = plan_topology(plan(wanted))
    layout = Layout(ROOT)
    paths = [layout.state, layout.secrets, layout.lock, layout.status, layout.output]
    for zone in ("zone-a", "zone-b", "zone-c"):
        server = layout.log_server(zone)
        paths += [server.conf, server.store, server.output]
    for node in topology.nodes:
        files = layout.node(node)
        paths += [
            files.engine_conf,
            files.nodes_conf,
            files.engine_output,
            files.agent_conf,
            files.agent_output,
        ]
        paths += [files.engine_socket, files.agent_socket]
        assert all(len(str(path)) < 40 for path in (files.engine_socket, files.agent_socket))
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(ROOT) for path in paths)
