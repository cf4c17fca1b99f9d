"""What becomes of the log's volumes: they go with the MemoryCluster, if it says so, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster_operator.objects.names import log_set

SOMEBODY = {"apiVersion": "v1", "kind": "ConfigMap", "name": "another", "uid": "another"}


def made(**fields: Any) -> World:
    world = World(spec_of(zones=["zone-a", "zone-b", "zone-c"], **fields))
    world.settle()
    return world


def owners(world: World) -> list[list[str]]:
    return [[each["uid"] for each in world.claim_of(index).owners] for index in range(3)]


def test_volumes_are_owned_by_the_cluster_while_the_spec_says_delete() -> None:
    world = made()
    assert owners(world) == [[], [], []]
    world.claim_of(1).owners = (SOMEBODY,)
    world.change(deletionPolicy="Delete")
    world.settle()
    assert owners(world) == [[world.uid], ["another", world.uid], [world.uid]]
    world.change(deletionPolicy="Retain")
    world.settle()
    assert owners(world) == [[], ["another"], []]


def test_the_status_says_that_volumes_go_along_before_the_first_and_until_the_last_does() -> None:
    """While it does, a MemoryCluster that says Retain can't be deleted."""
    world = made()
    assert world.status["deletionPolicy"] == "Retain"
    world.change(deletionPolicy="Delete")
    plan = world.operate()
    assert owners(world) == [[], [], []]
    assert world.status["deletionPolicy"] == "Delete"
    assert plan.again is not None
    world.operate()
    assert owners(world) == [[world.uid]] * 3
    world.change(deletionPolicy="Retain")
    world.operate()
    assert owners(world) == [[], [], []]
    assert world.status["deletionPolicy"] == "Delete"
    world.operate()
    assert world.status["deletionPolicy"] == "Retain"


def test_volumes_that_are_to_stay_are_released_although_it_is_paused() -> None:
    world = made(deletionPolicy="Delete")
    assert owners(world) == [[world.uid]] * 3
    world.change(deletionPolicy="Retain", paused=True)
    for _ in range(3):
        world.tick()
        world.operate()
    assert owners(world) == [[], [], []]


def test_volumes_are_not_given_to_a_cluster_that_is_not_sure_of_them() -> None:
    world = made()
    world.claim_of(0).identity = "{}"
    world.change(deletionPolicy="Delete")
    for _ in range(3):
        world.tick()
        world.operate()
    assert owners(world) == [[], [], []]


@pytest.mark.parametrize("status", ["kept", "lost"])
def test_a_stateful_set_that_is_deleted_takes_no_volume_along(status: str) -> None:
    """It is made again over the same volumes, which are its own MemoryCluster's, so nothing is going."""
    world = made(deletionPolicy="Delete")
    del world.kubernetes.objects[log_set(NAME)]
    if status == "lost":
        world.status = {}
    world.settle()
    assert owners(world) == [[world.uid]] * 3
