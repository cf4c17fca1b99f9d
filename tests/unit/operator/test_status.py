"""The status: it can't lie, it keeps its times, and it is written and told only when there is news."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster.agent import machine
from memorycluster.api.status import MemoryClusterStatus
from memorycluster_operator.facts import claim_facts
from memorycluster_operator.plan import differs, make_plan, space
from memorycluster_operator.snapshot import Component


def made(**fields: object) -> World:
    world = World(spec_of(**fields))
    world.settle()
    return world


def conditions(status: Any) -> dict[str, str]:
    return {each["type"]: each["status"] for each in status["conditions"]}


def test_a_cluster_that_is_well_says_so_in_the_shape_of_the_api() -> None:
    world = made(shards=2)
    status = MemoryClusterStatus.model_validate(world.status)
    assert conditions(world.status) == {
        "Ready": "True",
        "Redundant": "True",
        "LogIntact": "True",
        "ParametersApplied": "True",
        "SnapshotsCurrent": "False",
        "Progressing": "False",
        "Paused": "False",
    }
    assert status.phase == "Ready", "it has no store, which is no reason not to be"
    assert status.blocked is None
    assert status.endpoints == ["orders.shop.svc.cluster.local:6379"]
    assert status.version == "9.1.2"
    assert status.log_members_ready == "3/3"
    assert [shard.slots for shard in status.shards] == [["0-8191"], ["8192-16383"]]
    assert status.shards[0].zone in world.spec.zones
    assert status.shards[0].nodes[1].endpoint == "orders-0-1.orders-nodes.shop.svc.cluster.local:6379"
    assert status.selector == "app.kubernetes.io/component=engine,memorycluster.io/cluster=orders"
    assert status.observed_generation == world.generation


def test_ready_follows_from_what_the_engines_say_not_from_pods() -> None:
    """valkey#396, dragonfly#589."""
    snapshot = made().snapshot()
    silent = make_plan(dataclasses.replace(snapshot, agents={}))
    assert conditions(silent.status)["Ready"] == "False"
    assert silent.status["phase"] == "Unavailable"
    lapsed = {
        name: dataclasses.replace(report, serving=False, ready=False)
        for name, report in snapshot.agents.items()
    }
    assert conditions(make_plan(dataclasses.replace(snapshot, agents=lapsed)).status)["Ready"] == "False"


def test_of_two_that_say_they_serve_the_one_of_the_newer_epoch_is_primary() -> None:
    snapshot = made().snapshot()
    names = sorted(snapshot.agents)
    both = {
        name: dataclasses.replace(report, role="leader", serving=True, epoch=5 + names.index(name))
        for name, report in snapshot.agents.items()
    }
    assert make_plan(dataclasses.replace(snapshot, agents=both)).status["shards"][0]["primary"] == names[-1]


def test_offsets_sizes_and_leases_alone_are_no_news() -> None:
    world = made()
    before = world.status
    for _ in range(10):
        world.tick()
    plan = world.plan()
    assert plan.status["shards"][0]["log"]["lastSequence"] != before["shards"][0]["log"]["lastSequence"]
    assert not differs(before, plan.status)
    assert plan.events == ()
    assert differs({}, plan.status)


def test_everything_else_is_news() -> None:
    world = made()
    before = world.status
    world.crash(world.primary())
    world.tick()
    plan = world.plan()
    assert differs(before, plan.status)


def test_a_condition_keeps_the_time_of_its_transition() -> None:
    world = made()
    since = {each["type"]: each["lastTransitionTime"] for each in world.status["conditions"]}
    world.change(paused=True)
    world.tick(3600)
    world.operate()
    now = {each["type"]: each["lastTransitionTime"] for each in world.status["conditions"]}
    assert now.pop("Paused") != since.pop("Paused")
    assert now == since


def test_a_deadline_stays_while_the_same_is_waited_for_and_is_told_when_it_passes() -> None:
    world = made()
    world.change(engine={"image": "engine:unpullable"})
    for _ in range(20):
        world.tick()
        world.operate()
    until = world.status["blocked"]["until"]
    for _ in range(5):
        world.tick(30)
        world.operate()
        assert world.status["blocked"]["until"] == until
    plan = world.plan()
    assert plan.again is not None
    assert plan.again - world.kubernetes.now <= timedelta(minutes=10)
    world.tick(1200)
    world.operate()
    progressing = next(each for each in world.status["conditions"] if each["type"] == "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "Overdue")
    assert world.events.count("Overdue") == 1
    assert world.disrupted == 1, "nothing is forced"


def test_a_log_is_full_when_its_agents_say_so() -> None:
    assert (space.REFUSE_ABOVE, space.ALLOW_BELOW) == (machine.REFUSE_ABOVE, machine.ALLOW_BELOW)


@pytest.mark.parametrize(
    ("used", "message", "full"),
    [
        (0.95, "", True),
        (0.87, "the log is above 90% of its limit", True),
        (0.87, "", False),
        (0.5, "the store does not answer", False),
    ],
)
def test_a_shard_that_refuses_writes_is_not_well(used: float, message: str, full: bool) -> None:
    world = made(shards=2)
    snapshot, primary = world.snapshot(), world.primary(1).name
    log = {"firstSequence": 1, "lastSequence": 9, "bytes": int(used * 1000), "maxBytes": 1000}
    report = dataclasses.replace(snapshot.agents[primary], log=log, message=message)
    plan = make_plan(dataclasses.replace(snapshot, agents={**snapshot.agents, primary: report}))
    told = {each.reason: each.message for each in plan.events if each.type == "Warning"}
    assert conditions(plan.status)["Ready"] == "True", "it serves reads"
    if not full:
        assert (plan.status["phase"], told) == ("Ready", {})
        return
    assert plan.status["phase"] == "Degraded"
    assert "shard 1 refuses writes" in plan.status["message"]
    assert set(told) == {"Degraded", "LogFull"}
    assert all("shard 1 refuses writes" in each for each in told.values())


def test_events_tell_transitions_and_nothing_else() -> None:
    world = made()
    assert (
        world.events == ["Pending", "PrimaryChanged", "Degraded", "Ready"] or world.events.count("Ready") == 1
    )
    told = len(world.events)
    for _ in range(30):
        world.tick(60)
        world.operate()
    assert len(world.events) == told
    world.crash(world.primary())
    world.settle()
    assert "PrimaryChanged" in world.events[told:]
    assert len(world.events) - told <= 6


def test_what_failed_is_said() -> None:
    world = made()
    snapshot = dataclasses.replace(world.snapshot(), failures=("apply Service orders: forbidden by quota",))
    plan = make_plan(snapshot)
    assert plan.status["blocked"]["reason"] == "ActionFailed"
    assert "quota" in plan.status["message"]


def test_identity_is_left_to_its_own_action() -> None:
    assert "identity" not in made().plan().status


def test_a_node_whose_agent_is_silent_is_unknown_not_gone() -> None:
    world = made()
    pod = world.pods(Component.ENGINE)[0]
    world.database.engines[pod.uid].unreachable = True
    world.tick()
    nodes = {node["name"]: node for node in world.plan().status["shards"][0]["nodes"]}
    assert nodes[pod.name]["role"] == "unknown"
    assert "does not answer" in nodes[pod.name]["message"]


def test_an_agent_that_refuses_the_token_is_told_from_one_that_is_silent() -> None:
    world = made()
    snapshot = world.snapshot()
    name = f"{NAME}-0-1"
    agents = {each: report for each, report in snapshot.agents.items() if each != name}
    for denied, text in (
        (frozenset({name}), "refuses the operator's token"),
        (frozenset(), "does not answer"),
    ):
        status = make_plan(dataclasses.replace(snapshot, agents=agents, denied=denied)).status
        assert text in status["shards"][0]["nodes"][1]["message"]


def test_what_a_node_without_an_engine_has_applied_is_not_known() -> None:
    """A lag of 0 would mean that it has caught up."""
    world = made()
    snapshot = world.snapshot()
    name = f"{NAME}-0-1"
    report = dataclasses.replace(snapshot.agents[name], applied=None, lag=None, role="starting", ready=False)
    plan = make_plan(dataclasses.replace(snapshot, agents={**snapshot.agents, name: report}))
    node = plan.status["shards"][0]["nodes"][1]
    assert not {"appliedOffset", "lag"} & set(node)
    assert MemoryClusterStatus.model_validate(plan.status).shards[0].nodes[1].lag is None


@pytest.mark.parametrize("gone", [True, False])
def test_a_deleted_node_is_told_from_one_that_does_not_answer(gone: bool) -> None:
    world = made()
    snapshot = world.snapshot()
    pods = tuple(
        dataclasses.replace(pod, node_ready=False, node_gone=gone, ready=False)
        if pod.name == f"{NAME}-0-1"
        else pod
        for pod in snapshot.pods
    )
    message = make_plan(dataclasses.replace(snapshot, pods=pods)).status["blocked"]["message"]
    assert ("which is deleted" in message) == gone
    assert ("kubectl taint node" in message) != gone


def test_a_volume_may_be_as_large_as_kubernetes_lets_it_be() -> None:
    claim: dict[str, Any] = {
        "metadata": {
            "name": "data-orders-log-0",
            "uid": "1",
            "resourceVersion": "2",
            "creationTimestamp": "2026-11-24T12:00:00Z",
        },
        "spec": {"resources": {"requests": {"storage": "1e12"}}},
        "status": {"capacity": {"storage": "2000000000000000"}},
    }
    facts = claim_facts("orders", claim)
    assert facts is not None
    assert (facts.size, facts.capacity) == (10**12, 2 * 10**15)


@pytest.mark.parametrize(
    ("image", "reason", "hint"), [("engine:unpullable", "PodFailing", "kubectl describe pod")]
)
def test_a_user_is_told_what_to_do_next(image: str, reason: str, hint: str) -> None:
    world = made()
    world.change(engine={"image": image})
    for _ in range(30):
        world.tick()
        world.operate()
    assert world.status["blocked"]["reason"] == reason
    assert hint in world.status["blocked"]["message"]
