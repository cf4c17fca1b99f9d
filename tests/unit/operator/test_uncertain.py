"""Where something may be all there is: hands off, and say so."""

import dataclasses
from datetime import timedelta

import pytest
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster_operator.actions import ApplyObject, DeletePod, EvictPod, FailOver, GrowLog, StampClaim
from memorycluster_operator.objects.engine import parameters_revision
from memorycluster_operator.plan import make_plan
from memorycluster_operator.snapshot import Component, Key, LogState, Snapshot

DISRUPTIVE = EvictPod | DeletePod | FailOver


def made(**fields: object) -> World:
    world = World(spec_of(**fields))
    world.settle()
    return world


def stale(of: str = "engine", **fields: object) -> World:
    """A cluster whose pods are all of an older template, and of which one is about to be replaced."""
    world = made(**fields)
    world.change(**{of: {"image": "another:2"}})
    for _ in range(20):
        world.tick()
        plan = world.plan()
        if any(isinstance(action, DISRUPTIVE) for action in plan.actions):
            return world
        world.operate()
    raise AssertionError(plan)


def taken(snapshot: Snapshot) -> list[str]:
    return [getattr(a, "name", "") for a in make_plan(snapshot).actions if isinstance(a, DISRUPTIVE)]


def not_ready(snapshot: Snapshot, phase: str = "following") -> Snapshot:
    agents = {
        name: dataclasses.replace(report, role="follower", phase=phase, ready=False, serving=False)
        for name, report in snapshot.agents.items()
    }
    return dataclasses.replace(snapshot, agents=agents)


def with_log(snapshot: Snapshot, state: LogState) -> Snapshot:
    shards = tuple(dataclasses.replace(log, state=state) for log in snapshot.log.shards)
    return dataclasses.replace(snapshot, log=dataclasses.replace(snapshot.log, shards=shards))


@pytest.mark.parametrize("state", [LogState.UNKNOWN, LogState.MISSING, LogState.UNFIT])
@pytest.mark.parametrize("replicas", [0, 2])
def test_without_its_log_no_engine_that_has_run_is_deleted(state: LogState, replicas: int) -> None:
    """Engines may be the only copy then."""
    snapshot = not_ready(stale(replicasPerShard=replicas).snapshot())
    assert len(taken(snapshot)) == 1, "what follows and does not work is replaced, with the log"
    assert taken(with_log(snapshot, state)) == []


@pytest.mark.parametrize("phase", ["deposed", "inheriting", "releasing", "promoting", "claiming", ""])
def test_an_agent_that_does_more_than_follow_may_hold_something(phase: str) -> None:
    """Its role is a follower's. DEPOSED becomes FROZEN only later."""
    assert taken(not_ready(stale().snapshot(), phase)) == []


def frozen_by_status(world: World) -> Snapshot:
    """Its agent has restarted since, and says that it follows."""
    world.freeze(world.primary())
    for _ in range(3):
        world.tick()
        world.operate()
    return not_ready(world.snapshot())


def test_what_was_frozen_stays_frozen_whatever_a_restarted_agent_says() -> None:
    plan = make_plan(frozen_by_status(stale()))
    assert not [action for action in plan.actions if isinstance(action, DISRUPTIVE)]
    assert plan.status["blocked"]["reason"] == "Frozen"
    assert "frozen" in [node["role"] for node in plan.status["shards"][0]["nodes"]]


def test_a_new_pod_of_the_name_is_not_frozen_for_what_its_predecessor_was() -> None:
    """A human has deleted the frozen one; the new one can't even say what it is."""
    snapshot = frozen_by_status(stale())
    pods = tuple(dataclasses.replace(pod, uid=f"new-{pod.uid}") for pod in snapshot.pods)
    plan = make_plan(dataclasses.replace(snapshot, pods=pods, agents={}))
    assert "Frozen" not in [wait.reason for wait in plan.waits]


def test_a_stateful_set_that_is_made_anew_takes_no_pod_away() -> None:
    """kubectl delete --cascade=orphan, while a frozen node held up a scale-down."""
    world = made()
    world.freeze(next(pod for pod in world.pods(Component.ENGINE) if pod.index == 2))
    world.change(replicasPerShard=1)
    for _ in range(3):
        world.tick()
        world.operate()
    key = Key("StatefulSet", f"{NAME}-0")
    del world.kubernetes.objects[key]
    for seen in (
        world.snapshot(),
        dataclasses.replace(world.snapshot(), pods=()),
    ):  # pods without an owner: unseen
        (made_anew,) = (a for a in make_plan(seen).actions if isinstance(a, ApplyObject) and a.key == key)
        assert made_anew.manifest["spec"]["replicas"] == 3
    for _ in range(20):
        world.tick()
        world.operate()
    assert len(world.pods(Component.ENGINE)) == 3


def test_a_shard_that_shrinks_loses_no_pod_at_once_by_a_lost_stateful_set() -> None:
    world = made(replicasPerShard=5)
    world.change(replicasPerShard=0)
    del world.kubernetes.objects[Key("StatefulSet", f"{NAME}-0")]
    world.settle()


@pytest.mark.parametrize("of", ["engine", "log"])
def test_nothing_is_replaced_while_a_copy_of_the_log_is_known_to_be_rotten(of: str) -> None:
    """It looks current. A sound copy that goes may leave it as the one that others are fed from."""
    snapshot = stale(of).snapshot()
    assert len(taken(snapshot)) == 1
    rotten = dataclasses.replace(snapshot.log, trouble=f"{NAME}-log-1 lacks 3 messages")
    plan = make_plan(dataclasses.replace(snapshot, log=rotten))
    assert not [action for action in plan.actions if isinstance(action, DISRUPTIVE)]
    assert plan.status["blocked"]["reason"] == "LogRotten"


@pytest.mark.parametrize("how", ["paused", "refused"])
def test_frozen_nodes_are_guarded_and_told_whatever_else_stands_still(how: str) -> None:
    """Humans pause when something is wrong; lost volumes and frozen engines come together."""
    world = made()
    if how == "paused":
        world.change(paused=True)
    else:
        world.claim_of(0).identity = "{}"
    world.freeze(world.primary())
    for _ in range(5):
        world.tick()
        world.operate()
    budgets = [
        world.kubernetes.objects[Key("PodDisruptionBudget", f"{NAME}-{each}")] for each in ("0", "log")
    ]
    assert [budget["spec"]["maxUnavailable"] for budget in budgets] == [0, 0]
    assert "Frozen" in [wait.reason for wait in world.plan().waits]


def test_engines_are_not_restarted_for_parameters_that_they_would_not_find() -> None:
    """A ConfigMap that can't be written (immutable, refused): a new start would change nothing, for ever."""
    world = made()
    key = Key("ConfigMap", f"{NAME}-config")
    old = world.kubernetes.objects[key]
    world.change(engine={"parameters": {"tcp-backlog": "200"}})
    for engine in world.database.engines.values():
        engine.pending, engine.revision = True, parameters_revision(world.spec.engine.parameters)
    assert not taken(world.snapshot())
    assert old is world.kubernetes.objects[key]
    world.settle()
    assert world.disrupted == 3


def test_the_log_does_not_grow_beyond_its_volumes() -> None:
    world = made()
    for index in range(3):
        world.claim_of(index).expandable = False
    world.change(log={"maxBytes": "8Gi"})
    for _ in range(60):
        world.tick()
        assert not [action for action in world.operate().actions if isinstance(action, GrowLog)]
    assert world.status["blocked"]["reason"] == "VolumeTooSmall"
    assert f"{NAME}-log-0" in world.status["message"]
    world.claim_of(0).expandable = world.claim_of(1).expandable = world.claim_of(2).expandable = True
    world.settle()
    assert world.database.shards[0].max_bytes == 8 << 30


def test_an_empty_volume_is_not_marked_on_what_the_leader_last_knew_of_its_member() -> None:
    """kubectl delete pvc/... pod/...: for seconds the leader says that the member is current."""
    world = made()
    claim = world.claim_of(1)
    claim.identity, claim.uid, claim.created = None, "new", world.kubernetes.now
    snapshot = world.snapshot()
    assert all(member.current for member in snapshot.log.shards[0].members)
    name = f"{NAME}-log-1"

    def marks(**pod: object) -> list[StampClaim]:
        pods = tuple(
            dataclasses.replace(each, **pod) if each.name == name else each  # type: ignore[arg-type]
            for each in snapshot.pods
            if each.name != name or pod
        )
        actions = make_plan(dataclasses.replace(snapshot, pods=pods)).actions
        return [action for action in actions if isinstance(action, StampClaim)]

    later = world.kubernetes.now + timedelta(seconds=1)
    assert marks() == [], "no pod"
    assert marks(created=later, running=False, ready=False) == []
    assert marks(created=later, ready=False) == []
    assert marks(ready=True) == [], "the pod that was there before the claim"
    assert [mark.name for mark in marks(created=later)] == [claim.name]
    silent = dataclasses.replace(snapshot.log, servers={**snapshot.log.servers, name: "does not answer"})
    snapshot = dataclasses.replace(snapshot, log=silent)
    assert marks(created=later) == []


def test_a_member_that_cannot_start_is_left_if_its_claim_would_go_with_it() -> None:
    world = made()
    world.change(log={"image": "nats:unpullable"})
    for _ in range(20):
        world.tick()
        world.operate()
    (stuck,) = (pod for pod in world.pods(Component.LOG) if not pod.running)
    world.claim_of(stuck.index).terminating = True
    world.change(log={"image": "nats:3"})
    for _ in range(10):
        world.tick()
        world.operate()
    assert world.kubernetes.pods[stuck.name] is stuck
    assert "ClaimTerminating" in [wait.reason for wait in world.plan().waits]
