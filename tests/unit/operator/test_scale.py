"""More replicas, fewer replicas."""

import pytest
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster_operator.actions import FailOver
from memorycluster_operator.snapshot import Component


def made(seed: int = 0, **fields: object) -> World:
    world = World(spec_of(**fields), seed)
    world.settle()
    return world


@pytest.mark.parametrize(("before", "after"), [(2, 5), (5, 0), (0, 3), (3, 1), (1, 2)])
def test_replicas_are_added_and_removed(before: int, after: int) -> None:
    world = made(replicasPerShard=before, shards=2)
    world.change(replicasPerShard=after)
    world.settle()
    assert len(world.pods(Component.ENGINE)) == 2 * (after + 1)
    assert world.status["replicasPerShard"] == after


def lead(world: World, index: int) -> None:
    data = world.database.shards[0]
    if world.primary().index != index:
        world.database.fail_over(0, data.leader, data.epoch, f"{NAME}-0-{index}")
    world.settle()
    assert world.primary().index == index


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_primary_that_is_to_be_removed_hands_over_first(replicas: int) -> None:
    world = made()
    lead(world, 2)
    world.change(replicasPerShard=replicas)
    moved = False
    for _ in range(100):
        world.tick()
        plan = world.plan()
        moved = moved or any(isinstance(action, FailOver) for action in plan.actions)
        assert moved or len(world.pods(Component.ENGINE)) == 3, "nobody goes before leadership has gone"
        world.operate()
    assert moved
    assert len(world.pods(Component.ENGINE)) == replicas + 1


def test_replicas_go_one_at_a_time() -> None:
    world = made(replicasPerShard=5)
    world.change(replicasPerShard=1)
    sizes = []
    for _ in range(100):
        world.tick()
        world.operate()
        sizes.append(len([pod for pod in world.pods(Component.ENGINE) if not pod.terminating]))
    assert sorted(set(sizes), reverse=True) == [6, 5, 4, 3, 2]


def test_a_scale_in_that_is_reverted_goes_on() -> None:
    """valkey#445."""
    world = made(replicasPerShard=4)
    for replicas in (1, 4, 2, 3):
        world.change(replicasPerShard=replicas)
        for _ in range(3):
            world.tick()
            world.operate()
    world.settle()
    assert len(world.pods(Component.ENGINE)) == 4


def test_nobody_is_removed_while_those_that_stay_are_not_ready() -> None:
    world = made()
    lead(world, 0)
    world.kubernetes.machines[next(p.machine for p in world.pods() if p.name == f"{NAME}-0-1")].alive = False
    world.change(replicasPerShard=1)
    for _ in range(30):
        world.tick()
        world.operate()
    assert f"{NAME}-0-2" in world.kubernetes.pods
    assert "ScaleDownUnsafe" in [wait.reason for wait in world.plan().waits]
    for machine in world.kubernetes.machines.values():
        machine.alive = True
    world.settle()


def test_others_know_a_node_for_as_long_as_it_is_there() -> None:
    """A configuration without a node that still leads would make its peers forget it."""
    world = made(replicasPerShard=3)
    lead(world, 3)
    world.change(replicasPerShard=1)
    for _ in range(60):
        highest = max(pod.index for pod in world.pods(Component.ENGINE))
        config = next(o for k, o in world.kubernetes.objects.items() if k.kind == "ConfigMap")["data"][
            "cluster.json"
        ]
        assert f'"nodesPerShard": {highest + 1}' in config or f'"nodesPerShard": {highest + 2}' in config
        world.tick()
        world.operate()
    assert '"nodesPerShard": 2' in config


def test_nobody_is_removed_of_whom_it_is_not_known_what_it_holds() -> None:
    """Its agent has restarted, before anybody had seen that it was frozen."""
    world = made(replicasPerShard=1, zones=["zone-a"])
    lead(world, 0)
    (last,) = [pod for pod in world.pods(Component.ENGINE) if pod.index == 1]
    world.freeze(last)
    engine = world.database.engines[last.uid]
    engine.disguised = True
    world.change(replicasPerShard=0)
    for _ in range(20):
        world.tick()
        world.operate()  # which checks that nobody takes away what is frozen
    assert any("inheriting" in each.message for each in world.plan().waits)
    engine.disguised = False
    world.tick()
    world.operate()
    assert "Frozen" in [each.reason for each in world.plan().waits]
    assert len(world.pods(Component.ENGINE)) == 2
