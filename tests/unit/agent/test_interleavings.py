"""The machine among others of its kind, under faults that hypothesis chooses: simulation.py has the checks.

``MEMORYCLUSTER_EXAMPLES`` asks for more than the default number of histories, new ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.unit.agent.simulation import MAX_PAYLOAD, MS, RATES, SECOND, Engine, Node, World

from memorycluster.agent import machine
from memorycluster.log.record import Kind

EXAMPLES = int(os.environ.get("MEMORYCLUSTER_EXAMPLES", "0"))

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 300)


def history(default: int, steps: int = 30) -> settings:
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


SEED = st.integers(0, 2**32)
WHO = st.sampled_from([-1, -1, -1, 0, 1, 2])
"""A node; -1: the one that leads."""
THEN = st.sampled_from([0, MS, 20 * MS, 200 * MS, SECOND, 3 * SECOND])
"""How long the world goes on after a fault."""


class Faults(RuleBasedStateMachine):
    """Nodes that write, read and fail over, while everything that may fail does."""

    world: World

    @initialize(seed=SEED, nodes=st.integers(1, 3), then=THEN)
    def start(self, seed: int, nodes: int, then: int) -> None:
        self.world = World(seed, nodes=nodes)
        self.world.run(then)

    def node(self, who: int) -> Node:
        leader = self.world.leader() if who < 0 else None
        return leader or self.world.nodes[who % len(self.world.nodes)]

    @rule(kind=st.sampled_from([Kind.CLAIM, Kind.DATA, Kind.RENEW, Kind.RELEASE]))
    def until_a_record_lands(self, kind: Kind) -> None:
        self.world.run_to(kind, 3 * SECOND)

    @rule(who=WHO, what=st.sampled_from(["engine", "agent", "both"]), then=THEN)
    def is_killed(self, who: int, what: str, then: int) -> None:
        node = self.node(who)
        if what != "agent":
            node.kill_engine()
        if what != "engine":
            node.kill_agent()
        self.world.run(then)

    @rule(who=WHO, then=THEN)
    def machine_is_lost(self, who: int, then: int) -> None:
        self.node(who).lose()
        self.world.run(then)

    @rule(then=THEN)
    def all_machines_are_back(self, then: int) -> None:
        for node in self.world.nodes:
            node.restore()
        self.world.run(then)

    @rule(who=WHO, takes_notes=st.booleans(), then=THEN)
    def disk_of_a_node_is_full(self, who: int, takes_notes: bool, then: int) -> None:
        self.node(who).takes_notes = takes_notes
        self.world.run(then)

    @rule(then=THEN)
    def everything_is_killed(self, then: int) -> None:
        for node in self.world.nodes:
            node.kill_engine()
            node.kill_agent()
        self.world.run(then)

    @rule(who=WHO, what=st.sampled_from(["engine", "agent", "both"]), then=THEN)
    def is_stopped(self, who: int, what: str, then: int) -> None:
        node = self.node(who)
        node.engine.paused |= what != "agent"
        node.agent.paused |= what != "engine"
        self.world.run(then)

    @rule(then=THEN)
    def all_go_on(self, then: int) -> None:
        for node in self.world.nodes:
            node.engine.resume()
            node.agent.resume()
        self.world.run(then)

    @rule(who=WHO, what=st.sampled_from(["control", "link"]), then=THEN)
    def connection_breaks(self, who: int, what: str, then: int) -> None:
        engine = self.node(who).engine
        if what == "control" and engine.control:
            engine.control.close()
        if what == "link" and engine.link:
            engine.link.drop()
        self.world.run(then)

    @rule(quorum=st.booleans(), then=THEN)
    def log_has_a_quorum(self, quorum: bool, then: int) -> None:
        if quorum:
            self.world.log.recover()
        else:
            self.world.log.available = False
        self.world.run(then)

    @rule(share=st.sampled_from([0.0, 0.3, 0.8]), then=THEN)
    def answers_get_lost(self, share: float, then: int) -> None:
        self.world.answers_lost = share
        self.world.run(then)

    @rule(who=WHO, network=st.sampled_from([0, 200 * MS, 3 * SECOND, 8 * SECOND]), then=THEN)
    def network_is_slow(self, who: int, network: int, then: int) -> None:
        self.node(who).slow = network
        self.world.run(then)

    @rule(who=WHO, delay=st.sampled_from([0, 50 * MS, SECOND]), then=THEN)
    def node_is_sluggish(self, who: int, delay: int, then: int) -> None:
        self.node(who).sluggish = delay
        self.world.run(then)

    @rule(duration=st.integers(0, 10 * SECOND), then=THEN)
    def member_of_the_log_is_behind(self, duration: int, then: int) -> None:
        self.world.log.stale = (len(self.world.log.entries), self.world.now + duration)
        self.world.run(then)

    @rule(share=st.none() | st.floats(0, 1), then=THEN)
    def record_rots(self, share: float | None, then: int) -> None:
        self.world.log.rotten.clear()
        if share is not None:
            self.world.log.rotten.add(1 + int(share * len(self.world.log.entries)))
        self.world.run(then)

    @rule(used=st.sampled_from([10, 87, 95]), full=st.booleans(), then=THEN)
    def log_fills(self, used: int, full: bool, then: int) -> None:
        self.world.space_used, self.world.log.full = used, full and used > 90
        self.world.run(then)

    @rule(who=WHO, jump=st.integers(-10 * SECOND, 10 * SECOND), then=THEN)
    def clock_jumps(self, who: int, jump: int, then: int) -> None:
        self.node(who).skew += jump
        self.world.run(then)

    @rule(successor=st.sampled_from(["", "n0", "n1", "n2"]), then=THEN)
    def leader_gives_away(self, successor: str, then: int) -> None:
        if leader := self.world.leader():
            agent = leader.agent
            agent.run(lambda: agent.do(agent.machine.give_away(agent.clock(), successor)))
        self.world.run(then)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.check_recovers()


def test_interleavings() -> None:
    run_state_machine_as_test(Faults, settings=history(200))


def fail_engine(node: Node) -> None:
    node.kill_engine()


def fail_agent(node: Node) -> None:
    node.kill_agent()


def fail_both(node: Node) -> None:
    node.kill_engine()
    node.kill_agent()


def lose_node(node: Node) -> None:
    node.lose()


def fail_both_unnoted(node: Node) -> None:
    """With a note of no promotion but an older one: as if this one could not be written."""
    node.promotion = replace(node.promotion, epoch=node.promotion.epoch - 1) if node.promotion else None
    fail_both(node)


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
        (fail_both, 0, SECOND),
        (fail_both_unnoted, 1.2, SECOND),
        (lose_node, 1.2, SECOND),
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
@given(
    seed=SEED,
    nodes=st.integers(1, 3),
    records=st.integers(1, 60),
    stopped=st.booleans(),
    restarts=st.integers(0, 3),
)
def test_a_lost_tail_is_noticed(seed: int, nodes: int, records: int, stopped: bool, restarts: int) -> None:
    """Whoever holds more committed data than the log keeps it, serves none of it, and says so.

    Also when its agent is started again, and again.
    """
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
    kept, held = [], {}
    for node in world.nodes:
        known = node.engine.committed if node.engine.leads else node.engine.offset
        if node.engine.alive and known > world.position.unit_end:
            assert node.agent.alive
            assert node.engine.control
            kept.append((node, node.engine, known))
            held[node.engine] = node.engine.data[:known]
    world.heal()
    world.run(machine.INSIST * 2 + 10 * SECOND)
    for _ in range(restarts):  # The log has grown meanwhile, perhaps beyond what was lost.
        for node in world.nodes:
            if node.agent.machine.phase is machine.Phase.FROZEN:
                node.kill_agent()
        world.run(random.randrange(6 * SECOND))
    world.run(SECOND)
    for node, engine, known in kept:
        if world.content[:known] == engine.data[:known]:
            continue  # A retry that was still under way has put it back.
        assert node.engine is engine, f"{node.name} threw its memory away"
        assert node.agent.alive
        assert engine.data[:known] == held[engine], f"{node.name} was fed another history"
        assert engine.alive
        assert not engine.may_serve(), world.describe()
        assert engine.leads or not engine.reads, world.describe()
        assert node.alarms, world.describe()
        assert node.agent.machine.phase is machine.Phase.FROZEN or node.agent.machine.corrupt, (
            world.describe()
        )
