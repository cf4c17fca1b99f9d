from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from memorycluster.api.topology import SLOTS, Address, Topology, build_topology

ZONES = [["a"], ["a", "b", "c"]]


def make(shards: int, nodes: int, zones: list[str], uid: str = "uid") -> Topology:
    return build_topology(
        "cluster",
        uid,
        shards=shards,
        nodes_per_shard=nodes,
        zones=zones,
        address=lambda name: Address("127.0.0.1", 1, 2),
    )


topologies = st.builds(make, st.integers(1, 500), st.integers(1, 6), st.sampled_from(ZONES))


@given(topologies)
def test_every_slot_has_exactly_one_owner(topology: Topology) -> None:
    owned = Counter(
        slot for shard in topology.shards for first, last in shard.slots for slot in range(first, last + 1)
    )
    assert set(owned) == set(range(SLOTS))
    assert set(owned.values()) == {1}


@given(topologies)
def test_slots_are_split_evenly(topology: Topology) -> None:
    sizes = [sum(last - first + 1 for first, last in shard.slots) for shard in topology.shards]
    assert max(sizes) - min(sizes) <= 1


@given(topologies)
def test_names_and_ids_are_unique_and_of_valkeys_form(topology: Topology) -> None:
    ids = [node.id for node in topology.nodes] + [shard.id for shard in topology.shards]
    assert len(set(ids)) == len(ids)
    assert all(len(each) == 40 and set(each) <= set("0123456789abcdef") for each in ids)
    assert len({node.name for node in topology.nodes}) == len(topology.nodes)
    assert all(topology.node(node.name) is node for node in topology.nodes[:3])


@given(st.integers(1, 50), st.integers(1, 6), st.sampled_from(ZONES))
def test_a_shards_nodes_are_spread_over_the_zones(shards: int, nodes: int, zones: list[str]) -> None:
    for shard in make(shards, nodes, zones).shards:
        used = Counter(node.zone for node in shard.nodes)
        assert len(used) == min(nodes, len(zones))
        assert max(used.values()) - min(used.values()) <= 1


@given(st.integers(1, 50), st.integers(1, 5), st.sampled_from(ZONES))
def test_one_more_replica_moves_nobody(shards: int, nodes: int, zones: list[str]) -> None:
    assert set(make(shards, nodes, zones).nodes) <= set(make(shards, nodes + 1, zones).nodes)


def test_ids_belong_to_the_cluster_and_never_change() -> None:
    assert make(1, 1, ["a"]).nodes[0].id == "2281235ba8ef4e05474e44f40b686d1ffb2975a0"
    assert make(1, 1, ["a"], uid="other").nodes[0].id != make(1, 1, ["a"]).nodes[0].id
