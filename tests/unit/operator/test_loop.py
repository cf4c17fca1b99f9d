"""The loop of one cluster: what it asks anew, what it says when it can't go on, when it looks again."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from pydantic import ValidationError
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster.api.spec import Spec
from memorycluster_operator import reconcile
from memorycluster_operator.actions import Action, Event, EvictPod
from memorycluster_operator.apply import Applier, Outcome
from memorycluster_operator.cache import ClusterKey
from memorycluster_operator.observe import Observer
from memorycluster_operator.plan import make_plan
from memorycluster_operator.plan.view import template_of
from memorycluster_operator.reconcile import PATIENT_FOR, Reconciler
from memorycluster_operator.refusal import postpone, refuse
from memorycluster_operator.snapshot import Cluster, Key, Snapshot
from memorycluster_operator.turns import Turns

Change = Callable[[Snapshot], Snapshot]


class Side:
    """Both sides of the loop: a world to observe, and to act on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.change: Change = lambda snapshot: snapshot
        self.fresh: list[bool] = []
        self.outcome = Outcome.DONE
        self.done: list[Action] = []
        self.events: list[Event] = []
        self.takes: Callable[[Action], None] = lambda action: None

    async def observe(
        self, key: ClusterKey, *, fresh: bool = False, failures: tuple[str, ...] = ()
    ) -> Snapshot:
        self.fresh.append(fresh)
        snapshot = dataclasses.replace(self.world.snapshot(), now=datetime.now(UTC), failures=failures)
        return self.change(snapshot)

    def raw(self, key: ClusterKey) -> Mapping[str, Any]:
        metadata = {"name": NAME, "namespace": "shop", "uid": "1", "generation": 3, "resourceVersion": "4"}
        metadata |= {"creationTimestamp": "2026-11-29T00:00:00Z"}
        return {"metadata": metadata, "status": self.world.status}

    async def apply(self, key: ClusterKey, action: Action) -> tuple[Outcome, str]:
        self.done.append(action)
        self.takes(action)
        if self.outcome is Outcome.DONE:
            self.world.attempt(action)
            return Outcome.DONE, ""
        return self.outcome, f"{type(action).__name__}: HTTP 429: not now"

    async def write_status(self, cluster: Cluster, status: Mapping[str, Any]) -> bool:
        self.world.status = dict(status)
        return True

    async def post(self, cluster: Cluster, event: Event) -> None:
        self.events.append(event)


def loop_of(side: Side, turns: Turns | None = None) -> Reconciler:
    key = ClusterKey("shop", NAME)
    return Reconciler(key, cast(Observer, side), cast(Applier, side), turns or Turns())


def made(**fields: Any) -> World:
    world = World(spec_of(zones=["zone-a", "zone-b", "zone-c"], **fields))
    world.settle()
    return world


def conditions(status: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def stale(world: World) -> World:
    """Let a roll be due."""
    world.change(engine={"image": "engine:2"})
    plan = world.plan()
    for action in plan.actions:
        world.attempt(action)
    world.tick()
    return world


async def test_what_is_refused_again_and_again_is_said() -> None:
    """A budget of somebody else's, or one that never lets go, must not look like progress."""
    side = Side(stale(made()))
    side.outcome = Outcome.REFUSED
    loop = loop_of(side)
    for number in range(PATIENT_FOR + 1):
        said = (side.world.status.get("blocked") or {}).get("reason")
        assert said != "ActionFailed", number
        await loop._pass()
    await loop._pass()
    assert side.world.status["blocked"]["reason"] == "ActionFailed"
    assert "429" in side.world.status["blocked"]["message"]
    side.outcome = Outcome.DONE
    await loop._pass()
    await loop._pass()
    assert (side.world.status.get("blocked") or {}).get("reason") != "ActionFailed"


async def test_each_disruption_is_confirmed_a_moment_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover takes long. What was to come after it is asked anew, and may not be right any more."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    side = Side(stale(made(shards=3)))
    victims = [each for each in make_plan(side.world.snapshot()).actions if isinstance(each, EvictPod)]
    assert len(victims) == 3

    def takes(action: Action) -> None:
        if isinstance(action, EvictPod):
            clock[0] += reconcile.CONFIRMED_FOR + 1
            # Meanwhile the log can't do without another one.
            side.change = lambda seen: dataclasses.replace(
                seen, log=dataclasses.replace(seen.log, trouble="a copy is rotten")
            )

    side.takes = takes
    await loop_of(side)._pass()
    assert sum(isinstance(action, EvictPod) for action in side.done) == 1


async def test_who_may_succeed_is_asked_anew_because_a_lag_is_no_news() -> None:
    side = Side(stale(made(replicasPerShard=1)))
    primary = side.world.primary().name
    replica = next(pod for pod in side.world.pods(shard=0) if pod.name != primary)
    live = side.world.kubernetes.objects[Key("StatefulSet", f"{NAME}-0")]
    side.world.kubernetes.touch(replica, template=template_of(live))

    def behind(seen: Snapshot) -> Snapshot:
        agents = {
            name: dataclasses.replace(report, lag=2 << 20 if name != primary else report.lag)
            for name, report in seen.agents.items()
        }
        return dataclasses.replace(seen, agents=agents)

    side.change = behind
    loop = loop_of(side)
    await loop._pass()
    assert "NoSuccessor" in [wait.reason for wait in make_plan(await side.observe(loop.key)).waits]
    assert loop._again - time.monotonic() < 30, "nobody tells when it has caught up"
    side.fresh.clear()
    await loop._pass()
    assert side.fresh[0], "what the agents said last is old"


async def test_an_operator_that_fails_says_so_and_takes_back_what_it_said() -> None:
    side = Side(made())
    assert conditions(side.world.status)["Ready"][0] == "True"

    def fail(snapshot: Snapshot) -> Snapshot:
        raise KeyError("nobody thought of this")

    side.change = fail
    loop = loop_of(side)
    assert await loop._guarded_pass()
    found = conditions(side.world.status)
    assert found["Ready"] == ("Unknown", "InternalError")
    assert found["Progressing"] == ("False", "InternalError")
    assert "nobody thought of this" in side.world.status["blocked"]["message"]
    assert side.world.status["phase"] == "Degraded"
    before = side.world.status
    assert await loop._guarded_pass()
    assert side.world.status == before, "the same is written once"
    side.change = lambda snapshot: snapshot
    assert await loop._guarded_pass()
    assert conditions(side.world.status)["Ready"][0] == "True"


def test_a_spec_that_cant_be_used_leaves_nothing_green() -> None:
    side = Side(made())
    with pytest.raises(ValidationError) as raised:
        Spec.model_validate({"shards": -1})
    status = refuse(side.raw(ClusterKey("shop", NAME)), raised.value, datetime.now(UTC)).status
    assert conditions(status)["Ready"] == ("Unknown", "InvalidSpec")
    assert conditions(status)["Redundant"] == ("Unknown", "InvalidSpec")
    assert status["phase"] == "Degraded"
    assert status["identity"] == side.world.status["identity"], "whose data these are is kept"
    assert "spec.shards" in status["message"]


@asynccontextmanager
async def running(loop: Reconciler) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_cluster_that_serves_never_waits_for_those_that_are_made() -> None:
    turns = Turns(at_once=1, held_for=3600)
    side = Side(made())
    with turns.ask(ClusterKey("shop", "other"), "2026-11-28T00:00:00Z") as turn:
        assert await turn.comes(60)
        async with running(loop_of(side, turns)):
            await until(lambda: side.fresh)


async def test_a_new_cluster_waits_for_its_turn_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "QUEUED_AFTER", 0.01)
    turns = Turns(at_once=1, held_for=3600)
    side = Side(World(spec_of(zones=["zone-a", "zone-b", "zone-c"])))
    with turns.ask(ClusterKey("shop", "other"), "2026-11-28T00:00:00Z") as turn:
        assert await turn.comes(60)
        async with running(loop_of(side, turns)):
            await until(lambda: side.world.status)
            assert side.fresh == [], "nothing is looked at, and nothing is made"
            assert side.world.status["phase"] == "Pending"
            assert side.world.status["blocked"]["reason"] == "Queued"
            assert conditions(side.world.status)["Progressing"] == ("True", "Queued")
            turn.__exit__(None, None, None)
            await until(lambda: "identity" in side.world.status)
            await until(lambda: (side.world.status.get("blocked") or {}).get("reason") != "Queued")


def test_who_waits_for_too_long_says_that_once() -> None:
    side = Side(World(spec_of(zones=["zone-a", "zone-b", "zone-c"])))
    now = datetime.now(UTC)
    key = ClusterKey("shop", NAME)
    first = postpone(side.raw(key), now + timedelta(minutes=10), now)
    assert not first.events
    side.world.status = dict(first.status)
    assert postpone(side.raw(key), now + timedelta(minutes=10), now).status == first.status
    late = postpone(side.raw(key), now, now)
    assert conditions(late.status)["Progressing"] == ("True", "Overdue")
    assert [event.reason for event in late.events] == ["Overdue"]
    side.world.status = dict(late.status)
    assert postpone(side.raw(key), now, now).status == late.status
    assert not postpone(side.raw(key), now, now).events
