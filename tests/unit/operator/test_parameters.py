"""Engine parameters: live where the engine can, by a roll where it can't, and the condition tells which."""

import dataclasses
from typing import Any

from tests.unit.operator.world import World, spec_of

from memorycluster_operator.actions import EvictPod, SetParameters
from memorycluster_operator.plan import make_plan


def made(**fields: object) -> World:
    world = World(spec_of(**fields))
    world.settle()
    return world


def condition(status: Any) -> tuple[str, str]:
    found = next(each for each in status["conditions"] if each["type"] == "ParametersApplied")
    return found["status"], found["reason"]


def test_a_live_parameter_is_set_without_replacing_anything() -> None:
    world = made()
    world.change(engine={"parameters": {"maxclients": "123"}})
    world.tick()
    told = [action for action in world.plan().actions if isinstance(action, SetParameters)]
    assert len(told) == 3
    assert told[0].parameters == {"maxclients": "123"}
    assert condition(world.plan().status) == ("False", "Applying")
    world.settle()
    assert world.disrupted == 0
    assert condition(world.status) == ("True", "Applied")


def test_a_parameter_that_is_read_at_start_is_rolled_and_the_condition_says_so() -> None:
    world = made()
    world.change(engine={"parameters": {"tcp-backlog": "100", "maxclients": "123"}})
    seen = set()
    for _ in range(100):
        world.tick()
        plan = world.operate()
        seen.add(condition(plan.status))
    assert ("False", "RestartNeeded") in seen
    assert condition(world.status) == ("True", "Applied")
    assert world.disrupted == 3, "two replicas and a failover: a demoted engine starts anew by itself"


def test_a_value_that_the_engine_refuses_is_told_and_nothing_is_replaced_for_it() -> None:
    world = made()
    snapshot = world.snapshot()
    refusing = {
        name: dataclasses.replace(
            report, parameters_applied=False, parameters_message="maxmemory: argument must be a memory value"
        )
        for name, report in snapshot.agents.items()
    }
    plan = make_plan(dataclasses.replace(snapshot, agents=refusing))
    assert condition(plan.status) == ("False", "Refused")
    assert "argument must be" in next(
        c["message"] for c in plan.status["conditions"] if c["reason"] == "Refused"
    )
    assert not [action for action in plan.actions if isinstance(action, EvictPod)]
    assert [event.reason for event in plan.events] == ["ParametersRefused"]


def test_a_parameter_that_is_taken_back_is_unset() -> None:
    world = made(engine={"parameters": {"maxclients": "123"}})
    world.change(engine={"parameters": {}})
    world.tick()
    told = [action for action in world.plan().actions if isinstance(action, SetParameters)]
    assert [action.parameters for action in told] == [{}] * 3
    world.settle()
