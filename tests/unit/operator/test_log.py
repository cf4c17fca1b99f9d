"""The log's members: replaced one at a time, grown, and never guessed about."""

import dataclasses

import pytest
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster_operator.actions import DeletePod, EvictPod, GrowClaim, GrowLog
from memorycluster_operator.plan import make_plan
from memorycluster_operator.snapshot import Component, LogState


def made(**fields: object) -> World:
    world = World(spec_of(**fields))
    world.settle()
    return world


@pytest.mark.parametrize("shards", [1, 3])
def test_members_are_replaced_one_at_a_time_while_the_others_have_everything(shards: int) -> None:
    world = made(shards=shards)
    world.change(log={"image": "nats:2"})
    replaced = []
    for _ in range(100):
        world.tick()
        for action in world.plan().actions:
            if isinstance(action, EvictPod | DeletePod):
                index = int(action.name.rpartition("-")[2])
                assert all(world.database.current(other) for other in range(3) if other != index)
                replaced.append(action.name)
        world.operate()
    assert sorted(set(replaced)) == [f"{NAME}-log-{index}" for index in range(3)]
    assert {pod.image for pod in world.pods(Component.LOG)} == {"nats:2"}
    assert world.status["phase"] == "Ready"


def test_a_member_that_leads_many_logs_is_replaced_last() -> None:
    world = made(shards=2)
    world.change(log={"image": "nats:2"})
    for _ in range(10):
        world.tick()
        if found := [action for action in world.plan().actions if isinstance(action, EvictPod)]:
            break
        world.operate()
    leader = next(m.name for m in world.snapshot().log.shards[0].members if m.leader)
    assert found[0].name != leader


def test_no_member_is_replaced_while_another_one_is_behind() -> None:
    world = made()
    world.change(log={"image": "nats:2"})
    for _ in range(10):
        world.tick()
        snapshot = world.snapshot()
        if [action for action in make_plan(snapshot).actions if isinstance(action, EvictPod)]:
            break
        world.operate()
    for member in range(3):
        (log,) = snapshot.log.shards
        members = tuple(
            dataclasses.replace(each, current=each.current and index != member)
            for index, each in enumerate(log.members)
        )
        report = dataclasses.replace(snapshot.log, shards=(dataclasses.replace(log, members=members),))
        plan = make_plan(dataclasses.replace(snapshot, log=report))
        victims = [action.name for action in plan.actions if isinstance(action, EvictPod | DeletePod)]
        assert victims in ([], [f"{NAME}-log-{member}"]), "none, or the one that is behind itself"


@pytest.mark.parametrize("image", ["nats:unpullable", "nats:broken", "nats:crashing"])
@pytest.mark.parametrize("zones", [1, 3])
def test_a_log_image_that_cannot_run_stops_at_the_first_member_and_heals(image: str, zones: int) -> None:
    world = made(zones=["zone-a", "zone-b", "zone-c"][:zones])
    world.change(log={"image": image})
    for _ in range(60):
        world.tick()
        world.operate()
    assert len([pod for pod in world.pods(Component.LOG) if pod.image == image]) == 1
    assert world.status["phase"] == ("Degraded" if zones == 3 else "Unavailable")
    world.change(log={"image": "nats:3"})
    world.settle()


def test_engines_are_not_rolled_while_a_member_of_the_log_is_missing() -> None:
    world = made()
    member = next(pod for pod in world.pods(Component.LOG) if pod.index == 1)
    machine = world.kubernetes.machines[member.machine]
    for pod in world.pods(Component.ENGINE):
        if pod.machine == machine.name:  # only the member is to be missing
            pod.machine = next(m.name for m in world.kubernetes.machines.values() if m is not machine)
    machine.alive = False
    for _ in range(5):
        world.tick()
        world.operate()
    world.change(engine={"image": "engine:2"})
    for _ in range(30):
        world.tick()
        world.operate()
    assert world.disrupted == 0
    assert "LogMemberNotCurrent" in [wait.reason for wait in world.plan().waits]
    machine.alive = True
    world.settle()


def test_a_member_whose_volume_claim_is_being_deleted_is_left_for_a_human() -> None:
    world = made()
    for index in range(3):
        world.claim_of(index).terminating = True
    world.change(log={"image": "nats:2"})
    for _ in range(20):
        world.tick()
        world.operate()
    assert world.disrupted == 0
    assert "ClaimTerminating" in [wait.reason for wait in world.plan().waits]


def test_room_comes_before_what_may_fill_it() -> None:
    """Volumes first, then what each member may store, then the log's limit."""
    world = made()
    world.change(log={"maxBytes": "8Gi"})
    order: list[str] = []
    for _ in range(100):
        world.tick()
        for action in world.operate().actions:
            if isinstance(action, GrowClaim | EvictPod | GrowLog):
                order.append(type(action).__name__)
    assert order == ["GrowClaim"] * 3 + ["EvictPod"] * 3 + ["GrowLog"]
    assert world.database.shards[0].max_bytes == 8 << 30
    assert not world.plan().actions


def test_a_log_that_is_not_ours_stops_everything() -> None:
    world = made()
    world.change(engine={"image": "engine:2"})
    for _ in range(3):
        world.tick()
    snapshot = world.snapshot()
    (log,) = snapshot.log.shards
    wrong = dataclasses.replace(log, state=LogState.UNFIT, message="is of another generation")
    plan = make_plan(dataclasses.replace(snapshot, log=dataclasses.replace(snapshot.log, shards=(wrong,))))
    assert not [action for action in plan.actions if isinstance(action, EvictPod | DeletePod)]
    assert plan.status["blocked"]["reason"] == "LogUnfit"
