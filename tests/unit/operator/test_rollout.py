"""Pods that are replaced: which, when, and when not."""

import dataclasses

import pytest
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster_operator.actions import Action, DeletePod, EvictPod, FailOver
from memorycluster_operator.plan import make_plan
from memorycluster_operator.snapshot import Component, Key

DISRUPTIVE = EvictPod | DeletePod | FailOver


def made(seed: int = 0, **fields: object) -> World:
    world = World(spec_of(**fields), seed)
    world.settle()
    return world


def disruptions(world: World) -> list[Action]:
    return [action for action in world.plan().actions if isinstance(action, DISRUPTIVE)]


def operate_until_disruption(world: World) -> list[Action]:
    for _ in range(200):
        world.tick()
        if found := disruptions(world):
            return found
        world.operate()
    raise AssertionError(f"no disruption: {world.plan().waits}")


def roll(world: World) -> list[str]:
    """Settle, and return what was taken away, in order."""
    taken = []
    for _ in range(200):
        world.tick()
        for action in world.operate().actions:
            if isinstance(action, FailOver):
                taken.append(f"{action.primary} > {action.successor}")
            elif isinstance(action, EvictPod | DeletePod):
                taken.append(action.name)
        if world.whole() and not world.plan().actions and not world.plan().waits:
            return taken
    raise AssertionError(f"still rolling: {world.plan().waits}")


@pytest.mark.parametrize(
    "change",
    [
        {"engine": {"image": "engine:2"}},
        {"engine": {"resources": {"limits": {"memory": "2Gi"}}}},
        {"engine": {"ioThreads": 4}},
        {"engine": {"parameters": {"tcp-backlog": "200"}}},
        {"scheduling": {"priorityClassName": "important"}},
    ],
)
def test_replicas_are_replaced_first_and_the_primary_once_it_has_handed_over(
    change: dict[str, object],
) -> None:
    world = made()
    primary = world.primary().name
    world.change(**change)
    taken = [name for name in roll(world) if "-log-" not in name]
    assert sorted(taken[:2]) == sorted(f"{NAME}-0-{i}" for i in range(3) if f"{NAME}-0-{i}" != primary)
    assert taken[2].startswith(f"{primary} > ")
    # A demoted engine starts anew by itself, which is all that a parameter needs.
    assert taken[3:] == ([] if "tcp-backlog" in str(change) else [primary])


def test_the_next_pod_is_replaced_only_when_all_others_have_caught_up() -> None:
    """valkey#208, #255, #267; dragonfly#504."""
    world = made()
    world.change(engine={"image": "engine:2"})
    for _ in range(100):
        world.tick()
        for action in disruptions(world):
            others = [pod for pod in world.pods(shard=0) if pod.name != getattr(action, "name", "")]
            assert all(world.database.ready(pod) and pod.ready for pod in others)
        world.operate()


def test_leadership_goes_only_to_a_replica_that_has_caught_up_and_is_of_the_new_template() -> None:
    """dragonfly#289, #306, #333."""
    world = made()
    world.change(engine={"image": "engine:2"})
    while not isinstance(operate_until_disruption(world)[0], FailOver):
        world.operate()
    action = disruptions(world)[0]
    assert isinstance(action, FailOver)
    assert action.epoch == world.database.shards[0].epoch
    snapshot = world.snapshot()
    assert {pod.template for pod in snapshot.pods if pod.name == action.successor} != {
        pod.template for pod in snapshot.pods if pod.name == action.primary
    }
    behind = {
        name: dataclasses.replace(report, lag=1 << 30) if report.role == "follower" else report
        for name, report in snapshot.agents.items()
    }
    plan = make_plan(dataclasses.replace(snapshot, agents=behind))
    assert not [action for action in plan.actions if isinstance(action, DISRUPTIVE)]
    assert "NoSuccessor" in [wait.reason for wait in plan.waits]


def test_ready_needs_the_agents_word_and_kubernetes_word() -> None:
    """dragonfly#465, OT#170: a pod that answers a probe has not caught up for that."""
    world = made()
    world.change(engine={"image": "engine:2"})
    found = operate_until_disruption(world)
    snapshot = world.snapshot()
    replica = next(name for name, report in snapshot.agents.items() if report.role == "follower")
    assert len(found) == 1
    for changed in (
        dataclasses.replace(snapshot, agents={n: r for n, r in snapshot.agents.items() if n != replica}),
        dataclasses.replace(
            snapshot,
            agents=snapshot.agents | {replica: dataclasses.replace(snapshot.agents[replica], ready=False)},
            pods=tuple(
                dataclasses.replace(pod, template="new") if pod.name == replica else pod
                for pod in snapshot.pods
            ),
        ),
        dataclasses.replace(
            snapshot,
            pods=tuple(
                dataclasses.replace(p, ready=False) if p.name == replica else p for p in snapshot.pods
            ),
            agents={n: r for n, r in snapshot.agents.items() if n != replica},
        ),
    ):
        plan = make_plan(changed)
        assert [a for a in plan.actions if isinstance(a, EvictPod | FailOver)] == []


def test_what_a_predecessors_agent_said_does_not_count() -> None:
    world = made()
    snapshot = world.snapshot()
    old = {name: dataclasses.replace(report, pod_uid="gone") for name, report in snapshot.agents.items()}
    plan = make_plan(dataclasses.replace(snapshot, agents=old))
    assert plan.status["shardsReady"] == "0/1"
    assert not [action for action in plan.actions if isinstance(action, DISRUPTIVE)]


@pytest.mark.parametrize("image", ["engine:unpullable", "engine:crashing", "engine:broken"])
def test_an_update_that_cannot_become_ready_stops_at_its_first_pod_and_heals_at_once(image: str) -> None:
    world = made()
    world.change(engine={"image": image})
    for _ in range(60):
        world.tick()
        world.operate()
    changed = [pod for pod in world.pods(Component.ENGINE) if pod.image == image]
    assert len(changed) == 1
    assert world.status["shardsReady"] == "1/1"
    assert world.status["phase"] == "Degraded"
    assert changed[0].name in world.status["blocked"]["message"]
    world.change(engine={"image": "engine:1"})
    world.settle()
    assert {pod.image for pod in world.pods(Component.ENGINE)} == {"engine:1"}


def test_a_spec_that_flips_in_mid_roll_is_rolled_forward() -> None:
    """valkey#131, #258."""
    world = made()
    for image in ("engine:2", "engine:3", "engine:2", "engine:4"):
        world.change(engine={"image": image})
        for _ in range(3):
            world.tick()
            world.operate()
    world.settle()
    assert {pod.image for pod in world.pods(Component.ENGINE)} == {"engine:4"}


def test_two_shards_may_roll_at_the_same_time() -> None:
    world = made(shards=2)
    world.change(engine={"image": "engine:2"})
    assert len(operate_until_disruption(world)) == 2


def test_a_shard_without_replicas_is_replaced_as_it_is() -> None:
    world = made(replicasPerShard=0)
    world.change(engine={"image": "engine:2"})
    (action,) = operate_until_disruption(world)
    assert isinstance(action, EvictPod)
    assert "not served until" in action.reason
    world.settle()


def test_nothing_is_disrupted_while_paused() -> None:
    world = made()
    world.change(engine={"image": "engine:2"}, paused=True)
    for _ in range(10):
        world.tick()
        world.operate()
    assert world.disrupted == 0
    assert world.status["blocked"]["reason"] == "Paused"
    world.change(paused=False)
    world.settle()


def test_a_frozen_node_is_never_touched_and_the_alarm_says_what_to_do() -> None:
    world = made()
    frozen = world.primary()
    world.freeze(frozen)
    world.change(engine={"image": "engine:2"}, log={"image": "nats:2"}, replicasPerShard=0)
    for _ in range(60):
        world.tick()
        world.operate()
    assert world.disrupted == 0
    assert len(world.pods(Component.ENGINE)) == 3
    assert world.status["blocked"]["reason"] == "Frozen"
    assert frozen.name in world.status["message"]
    assert "must not be deleted" in world.status["message"]
    budgets = [
        world.kubernetes.objects[Key("PodDisruptionBudget", f"{NAME}-{each}")] for each in ("0", "log")
    ]
    assert [budget["spec"]["maxUnavailable"] for budget in budgets] == [0, 0], "kubectl drain waits too"
    # Its agent falls silent: what was frozen stays so.
    world.database.engines[frozen.uid].unreachable = True
    for _ in range(5):
        world.tick()
        world.operate()
    assert world.status["blocked"]["reason"] == "Frozen"
    assert world.disrupted == 0


def test_a_pod_on_a_lost_machine_is_not_forced_away_and_the_message_says_what_a_human_may_do() -> None:
    world = made()
    lost = world.primary()
    world.kubernetes.machines[lost.machine].alive = False
    for _ in range(60):
        world.tick()
        world.operate()
    assert world.disrupted == 0
    assert world.status["shardsReady"] == "1/1", "the log decides who leads: no operator is needed"
    assert world.status["blocked"]["reason"] == "NodeLost"
    assert f"kubectl taint node {lost.machine} node.kubernetes.io/out-of-service" in world.status["message"]
    world.change(engine={"image": "engine:2"})
    for _ in range(20):
        world.tick()
        world.operate()
    assert world.disrupted == 0, "what is left is not rolled"
    world.kubernetes.machines[lost.machine].alive = True
    world.settle()


def test_an_agent_that_cannot_be_reached_is_not_taken_for_dead() -> None:
    """It may be frozen, or serve."""
    world = made()
    for engine in world.database.engines.values():
        engine.unreachable = True
    world.change(engine={"image": "engine:2"}, replicasPerShard=1)
    for _ in range(30):
        world.tick()
        world.operate()
    assert world.disrupted == 0
    assert len(world.pods(Component.ENGINE)) == 3


def test_primaries_are_spread_over_the_zones_again_after_a_loss() -> None:
    """valkey#311, #247: planned failback, one at a time, then rest."""
    world = made(shards=3)
    zones = {machine.name: machine.zone for machine in world.kubernetes.machines.values()}
    for shard in range(3):
        data = world.database.shards[shard]
        pod = next(pod for pod in world.pods(shard=shard) if zones[pod.machine] == "zone-a")
        if data.leader != pod.uid:
            world.database.fail_over(shard, data.leader, data.epoch, pod.name)
    for _ in range(80):
        world.tick(30)
        world.operate()
    assert world.disrupted == 2
    assert sorted(zones[world.primary(shard).machine] for shard in range(3)) == ["zone-a", "zone-b", "zone-c"]
    assert world.status["primaryZones"].count("zone") == 3
    assert not world.plan().actions


def test_labels_follow_the_log() -> None:
    world = made()
    before = world.primary()
    assert before.role == "primary"
    world.crash(before)
    world.settle()
    assert {pod.name: pod.role for pod in world.pods(Component.ENGINE)} == {
        pod.name: "primary" if pod is world.primary() else "replica" for pod in world.pods(Component.ENGINE)
    }
    primary = world.primary()
    primary.zone_labelled = False
    world.settle()
    assert primary.zone_labelled
