"""A rotten copy of the log is made anew: one member, by order, while all others hold everything."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.operator.kubernetes import SimPod
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster_operator.actions import ApplyObject, DeletePod, EvictPod, Plan, StepDown
from memorycluster_operator.objects.log import ordered
from memorycluster_operator.objects.names import HEAL_ANNOTATION, TEMPLATE_ANNOTATION, log_set
from memorycluster_operator.plan import make_plan
from memorycluster_operator.snapshot import Component, Snapshot

ROTTEN = f"{NAME}-log-1"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
"""When any order is valid."""


def made(**fields: Any) -> World:
    world = World(spec_of(zones=["zone-a", "zone-b", "zone-c"], **fields))
    world.settle()
    return world


def seen(world: World, **report: Any) -> Snapshot:
    """Return what the operator sees when a copy is rotten."""
    snapshot = world.snapshot()
    said = {"trouble": f"{ROTTEN} has lost 3 messages", "rotten": ROTTEN, **report}
    return dataclasses.replace(snapshot, log=dataclasses.replace(snapshot.log, **said))


def orders(plan: Plan, now: datetime = LONG_AGO) -> list[Any]:
    """Return the order in each change of the log's StatefulSet."""
    return [
        ordered(action.manifest, now)
        for action in plan.actions
        if isinstance(action, ApplyObject) and action.key == log_set(NAME)
    ]


def victims(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions if isinstance(action, EvictPod | DeletePod)]


def member(world: World) -> SimPod:
    return world.kubernetes.pods[ROTTEN]


def ordered_in(world: World) -> World:
    """Have the order written, and seen by the StatefulSet's controller."""
    plan = make_plan(seen(world))
    (order,) = orders(plan)
    assert (order.member, order.pod_uid) == (ROTTEN, member(world).uid)
    assert victims(plan) == [], "first the order, then the pod"
    for action in plan.actions:
        world.attempt(action)
    world.tick()
    return world


def test_the_member_is_told_then_its_pod_replaced_then_the_order_is_gone() -> None:
    world = ordered_in(made())
    plan = make_plan(seen(world))
    assert victims(plan) == [ROTTEN]
    first = world.kubernetes.objects[log_set(NAME)]["spec"]["template"]["spec"]["initContainers"]
    assert [each["name"] for each in first] == ["heal"]
    for action in plan.actions:
        world.attempt(action)
    assert member(world).terminating
    ends = make_plan(dataclasses.replace(seen(world, rotten="", trouble=None)))
    assert orders(ends) == [], "it stays until the pod is another one, and whole"
    assert "LogHealing" in [wait.reason for wait in ends.waits]
    assert ends.status["phase"] == "Degraded"
    world.settle()
    assert ordered(world.kubernetes.objects[log_set(NAME)], LONG_AGO) is None
    assert "initContainers" not in world.kubernetes.objects[log_set(NAME)]["spec"]["template"]["spec"]


def later(snapshot: Snapshot, minutes: int) -> Snapshot:
    return dataclasses.replace(snapshot, now=snapshot.now + timedelta(minutes=minutes))


def test_an_order_has_an_end_and_is_renewed_while_it_is_wanted_which_replaces_no_pod() -> None:
    world = ordered_in(made())
    first = ordered(world.kubernetes.objects[log_set(NAME)], LONG_AGO)
    assert first is not None
    snapshot = seen(world)
    assert timedelta(minutes=29) < first.until - snapshot.now <= timedelta(minutes=30)
    assert orders(make_plan(later(snapshot, 15))) == []
    renewing = make_plan(later(snapshot, 25))
    (renewed,) = orders(renewing)
    assert renewed == dataclasses.replace(first, until=renewed.until)
    assert renewed.until > first.until + timedelta(minutes=20)
    assert victims(renewing) == [], "first the order, then the pod"
    said = [a.manifest["spec"]["template"] for a in renewing.actions if isinstance(a, ApplyObject)]
    was = world.kubernetes.objects[log_set(NAME)]["spec"]["template"]
    (template,) = said
    hashes = {each["metadata"]["annotations"][TEMPLATE_ANNOTATION] for each in (template, was)}
    assert len(hashes) == 1
    command = template["spec"]["initContainers"][0]["command"]
    assert command[command.index("--until") + 1] == renewed.until.isoformat()
    (end,) = first.ends
    assert 0 < end <= snapshot.log.shards[0].last_sequence
    assert command[command.index("--logs") + 1] == f"{NAME}-0:{end}", "what was seen must be there"


def test_an_order_that_is_past_is_taken_out_if_it_is_not_wanted_any_more() -> None:
    world = ordered_in(made())
    for action in make_plan(seen(world)).actions:
        world.attempt(action)
    assert member(world).terminating
    snapshot = seen(world, rotten="", trouble=None)
    assert orders(make_plan(later(snapshot, 25))) == []
    assert orders(make_plan(later(snapshot, 31))) == [None]


@pytest.mark.parametrize("until", ["", "soon 7", "2999-01-01T00:00:00 7", "2999-01-01T00:00:00+00:00 x"])
def test_an_order_that_can_not_be_read_is_none(until: str) -> None:
    metadata = {"annotations": {HEAL_ANNOTATION: f"member pod {until}"}}
    assert ordered({"spec": {"template": {"metadata": metadata}}}, LONG_AGO) is None


def test_an_order_is_taken_out_at_once_when_a_node_is_frozen_although_its_pod_is_gone() -> None:
    world = ordered_in(made())
    for action in make_plan(seen(world)).actions:
        world.attempt(action)
    assert member(world).terminating
    world.freeze(world.primary())
    assert orders(make_plan(seen(world))) == [None]


def test_events_tell_what_was_healed() -> None:
    world = ordered_in(made())
    world.write_status(make_plan(seen(world)))
    for action in make_plan(seen(world)).actions:
        world.attempt(action)
    world.settle()
    for reason in ("RottenCopy", "LogHealing", "LogHealed"):
        assert reason in world.events


@pytest.mark.parametrize("why", ["unread", "frozen", "paused", "unknown", "another is away"])
def test_no_order_is_given_unless_it_is_certain(why: str) -> None:
    world = made()
    report: dict[str, Any] = {"rotten": ""} if why == "unread" else {}
    if why == "frozen":
        world.freeze(world.primary())
    if why == "paused":
        world.change(paused=True)
    if why == "unknown":
        world.claim_of(0).identity = "{}"
    snapshot = seen(world, **report)
    if why == "another is away":
        pods = tuple(
            dataclasses.replace(pod, ready=pod.name != f"{NAME}-log-2" and pod.ready) for pod in snapshot.pods
        )
        snapshot = dataclasses.replace(snapshot, pods=pods)
    plan = make_plan(snapshot)
    assert [each for each in orders(plan) if each] == []
    assert victims(plan) == []


@pytest.mark.parametrize("why", ["not any more", "unknown", "another is away", "frozen", "unserved"])
def test_what_was_ordered_is_not_gone_through_with_unless_it_is_still_certain(why: str) -> None:
    world = ordered_in(made())
    report: dict[str, Any] = {}
    if why == "not any more":
        report = {"rotten": "", "trouble": ""}
    if why == "unknown":
        report = {"rotten": "", "trouble": None}
    if why == "frozen":
        world.freeze(world.primary())
    snapshot = seen(world, **report)
    if why == "another is away":
        pods = tuple(
            dataclasses.replace(pod, ready=pod.name != f"{NAME}-log-2" and pod.ready) for pod in snapshot.pods
        )
        snapshot = dataclasses.replace(snapshot, pods=pods)
    if why == "unserved":
        snapshot = dataclasses.replace(snapshot, agents={})
    assert victims(make_plan(snapshot)) == []


def test_nothing_else_is_replaced_meanwhile() -> None:
    world = ordered_in(made())
    world.change(engine={"image": "engine:2"}, log={"image": "nats:2"})
    world.tick()
    for _ in range(5):
        plan = make_plan(seen(world))
        assert set(victims(plan)) <= {ROTTEN}
        for action in plan.actions:
            if not isinstance(action, EvictPod):
                world.attempt(action)
        world.tick()
    assert len(world.pods(Component.LOG)) == 3


def test_a_rotten_leader_gives_way_first() -> None:
    plan = make_plan(seen(made(), rotten="", led_by_rotten=(0,)))
    assert [action.shard for action in plan.actions if isinstance(action, StepDown)] == [0]
    assert victims(plan) == []


def test_while_paused_nobody_gives_way() -> None:
    plan = make_plan(seen(_paused(), rotten="", led_by_rotten=(0,)))
    assert not [action for action in plan.actions if isinstance(action, StepDown)]


def _paused() -> World:
    world = made()
    world.change(paused=True)
    return world
