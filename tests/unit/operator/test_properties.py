"""Whatever users, fate and operators do, in whatever order: what must always hold holds, and in the end all
is well.

What must always hold is checked by the world itself (``check_plan``, ``_check_victim``, ``_check_left``,
``check``).
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.operator.world import World, spec_of

from memorycluster_operator.actions import TO_CONFIRM
from memorycluster_operator.snapshot import Component, Snapshot

IMAGES = ("engine:1", "engine:2", "engine:unpullable", "engine:crashing", "engine:broken")
LOG_IMAGES = ("nats:1", "nats:2", "nats:unpullable", "nats:broken")


class Operating(RuleBasedStateMachine):
    """One cluster's life."""

    world: World

    @initialize(
        seed=st.integers(0, 2**32),
        shards=st.integers(1, 2),
        replicas=st.integers(0, 3),
        zones=st.sampled_from([1, 3, 3, 3]),
        made=st.booleans(),
    )
    def begin(self, seed: int, shards: int, replicas: int, zones: int, made: bool) -> None:
        names = ["zone-a", "zone-b", "zone-c"][:zones]
        self.world = World(spec_of(shards=shards, replicasPerShard=replicas, zones=names), seed)
        self.old: list[Snapshot] = []
        if made:
            self.world.settle()

    # Users

    @rule(image=st.sampled_from(IMAGES))
    def roll_engines(self, image: str) -> None:
        self.world.change(engine={"image": image})

    @rule(image=st.sampled_from(LOG_IMAGES))
    def roll_log(self, image: str) -> None:
        self.world.change(log={"image": image})

    @rule(replicas=st.integers(0, 5))
    def scale(self, replicas: int) -> None:
        self.world.change(replicasPerShard=replicas)

    @rule(memory=st.sampled_from(["1Gi", "2Gi"]), of=st.sampled_from(["engine", "log"]))
    def resize(self, memory: str, of: str) -> None:
        self.world.change(**{of: {"resources": {"limits": {"memory": memory}}}})

    @rule(value=st.sampled_from(["100", "200"]), name=st.sampled_from(["maxclients", "tcp-backlog"]))
    def set_parameter(self, value: str, name: str) -> None:
        self.world.change(engine={"parameters": {name: value}})

    @rule(size=st.sampled_from(["4Gi", "5Gi"]))
    def grow(self, size: str) -> None:
        if spec_of(log={"maxBytes": size}).log.max_bytes > self.world.spec.log.max_bytes:
            self.world.change(log={"maxBytes": size})

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.world.change(paused=paused)

    @rule(data=st.data())
    def delete_an_object(self, data: st.DataObject) -> None:
        keys = [key for key in self.world.kubernetes.objects if key.kind not in ("StatefulSet",)]
        if keys:
            self.world.kubernetes.objects.pop(data.draw(st.sampled_from(sorted(keys))))

    @rule(data=st.data())
    def edit_an_object(self, data: st.DataObject) -> None:
        services = sorted(key for key in self.world.kubernetes.objects if key.kind == "Service")
        if services:
            live = self.world.kubernetes.objects[data.draw(st.sampled_from(services))]
            live["spec"]["selector"] = {"somebody": "else"}

    # Fate

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        if pods := sorted(self.world.kubernetes.pods):
            self.world.crash(self.world.kubernetes.pods[data.draw(st.sampled_from(pods))])

    @rule(data=st.data())
    def lose_a_machine(self, data: st.DataObject) -> None:
        machines = self.world.kubernetes.machines
        machines[data.draw(st.sampled_from(sorted(machines)))].alive = False

    @rule()
    def machines_return(self) -> None:
        for machine in self.world.kubernetes.machines.values():
            machine.alive = True

    @rule(data=st.data())
    def cut_off_an_agent(self, data: st.DataObject) -> None:
        if engines := sorted(self.world.database.engines):
            self.world.database.engines[data.draw(st.sampled_from(engines))].unreachable = True

    # Time, and operators

    @rule(seconds=st.sampled_from([1, 5, 60, 600]), ticks=st.integers(1, 4))
    def wait(self, seconds: int, ticks: int) -> None:
        for _ in range(ticks):
            self.world.tick(seconds)

    @rule(passes=st.integers(1, 6))
    def operate(self, passes: int) -> None:
        for _ in range(passes):
            self.world.operate()
            self.world.tick()

    @rule(share=st.sampled_from([0.0, 0.3, 0.7]))
    def die_in_between(self, share: float) -> None:
        self.world.operate(share)
        self.world.seen = {}

    @rule()
    def two_operators_at_once(self) -> None:
        snapshot = self.world.snapshot()
        plans = [self.world.plan(snapshot), self.world.plan(self.world.snapshot())]
        actions = [action for plan in plans for action in plan.actions]
        self.world.rng.shuffle(actions)
        for action in actions:
            self.world.attempt(action)
        for plan in plans:
            self.world.write_status(plan)

    @rule()
    def remember(self) -> None:
        self.old = [*self.old[-3:], self.world.snapshot()]

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def an_operator_wakes_with_old_news(self, data: st.DataObject) -> None:
        """It does all but what it must confirm by looking again."""
        for action in self.world.plan(data.draw(st.sampled_from(self.old))).actions:
            if not isinstance(action, TO_CONFIRM):
                self.world.attempt(action)

    @invariant()
    def sound(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        self.machines_return()
        for engine in world.database.engines.values():
            engine.unreachable = False
        world.change(paused=False, engine={"image": "engine:3"}, log={"image": "nats:3"})
        if any(wait.reason == "SecretMissing" for wait in world.operate().waits):
            for pod in list(world.kubernetes.pods.values()):  # a human does what the message says
                world.kubernetes.delete_pod(pod.name, pod.uid, str(pod.version))
        world.settle()
        disrupted = world.disrupted
        for _ in range(30):  # primaries are spread over the zones, and then there is rest
            world.tick(60)
            plan = world.operate()
        assert world.disrupted - disrupted <= world.spec.shards
        assert (plan.actions, plan.waits) == ((), ())
        assert world.status["phase"] == "Ready"
        reasons = {each["type"]: each["reason"] for each in world.status["conditions"]}
        assert reasons["Progressing"] == "UpToDate"


class Freezing(Operating):
    """The same, but nodes freeze: then no operator takes away what they alone hold, until a human does."""

    @rule(data=st.data())
    def freeze(self, data: st.DataObject) -> None:
        engines = self.world.database.engines
        pods = [pod for pod in self.world.pods(Component.ENGINE) if pod.uid in engines]
        if pods:
            self.world.freeze(data.draw(st.sampled_from(pods)))

    @rule(data=st.data())
    def restart_an_agent_that_was_frozen(self, data: st.DataObject) -> None:
        engines = self.world.database.engines
        frozen = sorted(uid for uid, engine in engines.items() if engine.role == "frozen")
        if frozen:
            engines[data.draw(st.sampled_from(frozen))].disguised = True

    @rule(shard=st.integers(0, 1), gone=st.booleans())
    def lose_a_log(self, shard: int, gone: bool) -> None:
        """Until the volumes are brought back."""
        if shard in self.world.database.made():
            self.world.database.shards[shard].gone = gone

    @rule(data=st.data())
    def lose_a_stateful_set(self, data: st.DataObject) -> None:
        """Its pods stay: kubectl delete --cascade=orphan."""
        sets = sorted(key for key in self.world.kubernetes.objects if key.kind == "StatefulSet")
        if sets:
            del self.world.kubernetes.objects[data.draw(st.sampled_from(sets))]

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.machines_return()
        for data in self.world.database.shards.values():
            data.gone = False
        for engine in self.world.database.engines.values():
            engine.disguised = False
        for _ in range(20):
            self.world.operate()
            self.world.tick()
        for pod in self.world.pods(Component.ENGINE):
            engine = self.world.database.engines.get(pod.uid)
            if engine is not None and engine.role == "frozen":
                assert "Frozen" in [wait.reason for wait in self.world.plan().waits] or engine.unreachable
                self.world.kubernetes.delete_pod(pod.name, pod.uid, str(pod.version))
        super().teardown()


PATIENT = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestOperating = Operating.TestCase
TestOperating.settings = PATIENT
TestFreezing = Freezing.TestCase
TestFreezing.settings = PATIENT
