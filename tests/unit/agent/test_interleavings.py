"""The machine among others of its kind, under faults that hypothesis chooses: simulation.py has the checks.

``MEMORYCLUSTER_EXAMPLES`` asks for more than the default number of histories, new ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.unit.agent.simulation import MAX_PAYLOAD, MS, RATES, SECOND, Engine, Node, World

from memorycluster.agent import machine
from memorycluster.log.record import Kind

EXAMPLES = int(os.environ.get("MEMORYCLUSTER_EXAMPLES", "0"))


def history(default: int, steps: int = 25) -> settings:
    """Return how many histories to try, and how: the same ones each time, unless more are asked for."""
    return settings(
        max_examples=EXAMPLES or default,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def small_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_PAYLOAD", MAX_PAYLOAD)


NODE = st.integers(0, 2)
SEED = st.integers(0, 2**32)


class Faults(RuleBasedStateMachine):
    """Nodes that write, read and fail over, while everything that may fail does."""

    world: World

    @initialize(seed=SEED, nodes=st.integers(1, 3), warm_up=st.sampled_from([0, 100 * MS, SECOND]))
    def start(self, seed: int, nodes: int, warm_up: int) -> None:
        self.world = World(seed, nodes=nodes)
        self.world.run(warm_up)

    def node(self, index: int) -> Node:
        return self.world.nodes[index % len(self.world.nodes)]

    @rule(duration=st.sampled_from([MS, 10 * MS, 100 * MS, 500 * MS, SECOND, 3 * SECOND]))
    def time_passes(self, duration: int) -> None:
        self.world.run(duration)

    @rule(kind=st.sampled_from([Kind.CLAIM, Kind.DATA, Kind.RENEW, Kind.RELEASE]))
    def until_a_record_lands(self, kind: Kind) -> None:
        self.world.run_to(kind, 3 * SECOND)

    @rule(index=NODE)
    def engine_is_killed(self, index: int) -> None:
        self.node(index).kill_engine()

    @rule(index=NODE)
    def agent_is_killed(self, index: int) -> None:
        self.node(index).kill_agent()

    @rule(index=NODE)
    def both_are_killed(self, index: int) -> None:
        self.node(index).kill_engine()
        self.node(index).kill_agent()

    @rule()
    def everything_is_killed(self) -> None:
        for node in self.world.nodes:
            node.kill_engine()
            node.kill_agent()

    @rule(index=NODE, engine=st.booleans(), agent=st.booleans())
    def node_is_stopped(self, index: int, engine: bool, agent: bool) -> None:
        node = self.node(index)
        node.engine.paused = node.engine.paused or engine
        node.agent.paused = node.agent.paused or agent

    @rule(index=NODE)
    def node_goes_on(self, index: int) -> None:
        self.node(index).engine.resume()
        self.node(index).agent.resume()

    @rule(index=NODE)
    def control_channel_breaks(self, index: int) -> None:
        if control := self.node(index).engine.control:
            control.close()

    @rule(index=NODE)
    def link_breaks(self, index: int) -> None:
        if link := self.node(index).engine.link:
            link.drop()

    @rule()
    def log_loses_its_quorum(self) -> None:
        self.world.log.available = False

    @rule()
    def log_recovers(self) -> None:
        self.world.log.recover()

    @rule(share=st.sampled_from([0.0, 0.3, 0.8]))
    def answers_get_lost(self, share: float) -> None:
        self.world.answers_lost = share

    @rule(index=NODE, delay=st.sampled_from([0, 200 * MS, 3 * SECOND, 8 * SECOND]))
    def network_gets_slow(self, index: int, delay: int) -> None:
        self.node(index).slow = delay

    @rule(duration=st.integers(0, 10 * SECOND))
    def member_of_the_log_is_behind(self, duration: int) -> None:
        self.world.log.stale = (len(self.world.log.entries), self.world.now + duration)

    @rule(share=st.floats(0, 1))
    def record_rots(self, share: float) -> None:
        self.world.log.rotten = {1 + int(share * len(self.world.log.entries))}

    @rule()
    def rot_is_healed(self) -> None:
        self.world.log.rotten.clear()

    @rule(used=st.sampled_from([10, 87, 95]), full=st.booleans())
    def log_fills(self, used: int, full: bool) -> None:
        self.world.space_used, self.world.log.full = used, full and used > 90

    @rule(index=NODE, jump=st.integers(-10 * SECOND, 10 * SECOND))
    def clock_jumps(self, index: int, jump: int) -> None:
        self.node(index).skew += jump

    @rule(successor=st.sampled_from(["", "n0", "n1", "n2"]))
    def leader_gives_away(self, successor: str) -> None:
        if leader := self.world.leader():
            agent = leader.agent
            agent.run(lambda: agent.do(agent.machine.give_away(agent.clock(), successor)))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.check_recovers()


def test_interleavings() -> None:
    run_state_machine_as_test(Faults, settings=history(150))


def fail_engine(node: Node) -> None:
    node.kill_engine()


def fail_agent(node: Node) -> None:
    node.kill_agent()


def fail_both(node: Node) -> None:
    node.kill_engine()
    node.kill_agent()


def freeze_engine(node: Node) -> None:
    node.engine.paused = True


def freeze_both(node: Node) -> None:
    node.engine.paused = node.agent.paused = True


def give_away(node: Node) -> None:
    node.agent.do(node.agent.machine.give_away(node.agent.clock(), ""))


@pytest.mark.parametrize(
    ("fault", "leases", "more"),
    [
        (give_away, 0, 200 * MS),
        (fail_engine, 0, SECOND),
        (fail_agent, 0, SECOND),
        (fail_both, 1.2, SECOND),
        (freeze_engine, 1.2, SECOND),
        (freeze_both, 1.2, SECOND),
    ],
)
def test_the_time_to_a_new_leader(fault: Callable[[Node], None], leases: float, more: int) -> None:
    """In the world's time, on a log that answers in a few ms. The wait is on the slowest clock."""
    for seed in range(12):
        world = World(seed)
        world.spikes = 0
        assert world.run_until(world.settled, 10 * SECOND), world.describe()
        world.run(SECOND + seed * 7 * MS)
        old = world.leader()
        assert old
        fault(old)
        at = world.now
        wanted = int(leases * world.lease * 1000 / min(RATES)) + more

        def led_anew(old: Engine = old.engine, world: World = world) -> bool:
            new = world.leader()
            return new is not None and new.engine is not old

        assert world.run_until(led_anew, wanted), f"seed {seed}\n{world.describe()}"
        assert world.now - at <= wanted
        world.check_recovers()


@history(40)
@given(seed=SEED, nodes=st.integers(1, 3), records=st.integers(1, 60), stopped=st.booleans())
def test_a_lost_tail_is_noticed(seed: int, nodes: int, records: int, stopped: bool) -> None:
    """Whoever holds more committed data than the log keeps it, serves none of it, and says so."""
    world, random = World(seed, nodes=nodes), Random(seed)
    world.run(random.randrange(3 * SECOND))
    for node in world.nodes:
        if random.random() < 0.3:
            node.kill_engine()
    if stopped:
        random.choice(world.nodes).agent.paused = True
    world.run(random.randrange(3 * SECOND))
    world.log.available = False
    world.run(random.choice([0, SECOND]))
    world.lose_tail(records)
    kept = []
    for node in world.nodes:
        known = node.engine.committed if node.engine.leads else node.engine.offset
        if node.engine.alive and known > world.position.unit_end:
            assert node.agent.alive
            assert node.engine.control
            kept.append((node, node.engine, known))
    world.heal()
    world.run(machine.INSIST * 2 + 10 * SECOND)
    for node, engine, known in kept:
        if world.content[:known] == engine.data[:known]:
            continue  # A retry that was still under way has put it back.
        assert node.engine is engine, f"{node.name} threw its memory away"
        assert engine.alive
        assert not engine.may_serve(), world.describe()
        assert engine.leads or not engine.reads, world.describe()
        assert node.alarms, world.describe()
        assert node.agent.machine.phase is machine.Phase.FROZEN or node.agent.machine.corrupt, (
            world.describe()
        )
