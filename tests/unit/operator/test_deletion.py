"""A MemoryCluster that is deleted: its last snapshot comes first, and nothing holds it for ever."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.operator.makings import SnapshotWorld, told_to
from tests.unit.operator.world import NAME

from memorycluster_operator.actions import TO_CONFIRM, Action, LetGo
from memorycluster_operator.makings import Last
from memorycluster_operator.objects import names
from memorycluster_operator.snapshot import LAST_SNAPSHOT_FINALIZER, Component, Snapshot

HOUR = timedelta(hours=1)


class HeldWorld(SnapshotWorld):
    """One whose deletion waits for a last snapshot."""

    def __init__(self, seed: int = 0, shards: int = 1, policy: str = "Delete", **spec: Any) -> None:
        fields = {"deletionPolicy": policy, "replicasPerShard": 1, **spec}
        super().__init__(seed, shards, spec=fields, beforeDelete=True)
        self.began = self.kubernetes.now

    def carry_out(self, action: Action) -> None:
        if isinstance(action, LetGo) and action.resource_version == str(self.version):
            self.check_volumes()
        super().carry_out(action)

    def owned(self) -> list[str]:
        """Return the volumes that go with the MemoryCluster."""
        claims = self.kubernetes.claims.values()
        return [each.name for each in claims if any(owner["uid"] == self.uid for owner in each.owners)]

    def check_volumes(self) -> None:
        """The volumes don't go while they hold anything that is nowhere else."""
        if not self.spec.snapshots.before_delete or not self.owned():
            return
        ends = tuple(data.committed for data in self.database.shards.values())
        assert self.complete(ends) or not any(ends), "the only copy"

    def complete(self, ends: tuple[int, ...]) -> bool:
        """Whether a last snapshot is whole that holds all up to ``ends``."""
        return any(
            each.last is not None and each.last.ends == ends and each.status.get("phase") == "Completed"
            for each in self.facts()[0]
        )

    def said(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status.get("deletion") or {}
        return found

    def until(self, reason: str, passes: int = 100) -> None:
        """Let time pass until the status says that."""
        for _ in range(passes):
            self.tick()
            self.operate()
            if self.said().get("reason") == reason:
                return
        raise AssertionError(f"not {reason}: {self.said()}")

    def until_gone(self, passes: int = 100) -> None:
        for _ in range(passes):
            if self.gone:
                return
            self.tick()
            self.operate()
        raise AssertionError(f"still there: {self.said()}")

    def make_all(self) -> None:
        """Let all Jobs succeed, until the MemoryCluster is gone."""
        for _ in range(100):
            if self.gone:
                return
            for job in self.open_jobs():
                self.succeed(job)
            self.tick()
            self.operate()
        raise AssertionError(f"still there: {self.said()}")


def settled(**options: Any) -> HeldWorld:
    world = HeldWorld(**options)
    world.settle()
    return world


def test_the_finalizer_is_there_only_while_a_last_snapshot_is_wanted() -> None:
    world = settled()
    assert world.finalizers == (LAST_SNAPSHOT_FINALIZER,)
    world.change(snapshots={"beforeDelete": False})
    world.settle()
    assert world.finalizers == ()
    assert len(world.owned()) == 1, "deletionPolicy is Delete"
    world.change(paused=True, snapshots={"beforeDelete": True})
    world.operate()
    assert (world.finalizers, world.owned()) == ((), []), "who sees it may rely on it"
    world.operate()
    assert world.finalizers == (LAST_SNAPSHOT_FINALIZER,), "while it is paused, too"
    assert world.owned() == [], "they would go with it"


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_the_last_snapshot_is_taken_when_nothing_is_written_any_more(policy: str) -> None:
    world = settled(shards=2, policy=policy)
    world.delete()
    world.until("TakingSnapshot")
    assert world.status["phase"] == "Deleting"
    for _ in range(3):
        world.tick()
        world.operate()
    assert world.pods(Component.ENGINE) == []
    assert len(world.pods(Component.LOG)) == 1
    (name,) = world.memorysnapshots
    assert name.startswith(f"{NAME}-last-")
    assert world.said()["snapshot"] == name
    since, deadline = (datetime.fromisoformat(world.said()[each]) for each in ("since", "deadline"))
    assert deadline - since == HOUR
    jobs = world.open_jobs()
    assert len(jobs) == 2
    for config in map(told_to, jobs):
        assert (config.name, config.reason, config.anew) == (name, "user", True)
        assert config.keep is not None
        assert config.keep.held, "nothing else is deleted, or trimmed"
    assert world.owned() == []
    world.make_all()
    assert world.told(name)["phase"] == "Completed"
    assert len(world.owned()) == (1 if policy == "Delete" else 0)
    assert "SnapshotTaken" in world.events


def test_what_fails_is_tried_again_until_the_deadline_and_then_the_volumes_stay() -> None:
    world = settled()
    world.delete()
    world.until("TakingSnapshot")
    began, tries = world.kubernetes.now, 0
    while world.kubernetes.now < began + HOUR - timedelta(minutes=5):
        for job in world.open_jobs():
            world.end(job, {"failed": "s3://b: no such bucket"}, failed=True)
            tries += 1
        world.tick(30)
        world.operate()
    assert tries > 20
    assert not world.gone
    (name,) = world.memorysnapshots
    assert (world.told(name)["phase"], world.said()["reason"]) == ("Running", "TakingSnapshot")
    assert "no such bucket" in world.said()["message"]
    world.tick(600)
    world.until_gone()
    assert world.owned() == [], "the volumes stay"
    assert world.told(name)["phase"] == "Failed"
    assert world.said()["reason"] == "NoLastSnapshot"
    assert world.said()["message"].count("volumes stay") == 1
    assert "no such bucket" in world.said()["message"]
    assert "NoLastSnapshot" in world.events


def test_who_is_being_restored_from_its_logs_is_waited_for_until_the_deadline() -> None:
    for finishes in (True, False):
        world = settled()
        world.readers = ("newer",)
        world.delete()
        world.until("TakingSnapshot")
        world.tick()
        world.operate()
        for job in world.open_jobs():
            world.succeed(job)
        world.until("BeingRestored")
        assert "newer is being restored" in world.said()["message"]
        assert world.owned() == []
        assert len(world.pods(Component.LOG)) == 1
        if finishes:
            world.readers = ()
            world.until_gone(passes=10)
            assert world.kubernetes.now < datetime.fromisoformat(world.said()["deadline"])
        else:
            world.tick(3600)
            world.until_gone(passes=10)
        assert world.said()["reason"] == "SnapshotTaken"
        assert len(world.owned()) == 1, "deletionPolicy is Delete"


def test_switching_it_off_lets_it_go_and_deletion_policy_counts_again() -> None:
    world = settled()
    world.delete()
    world.until("TakingSnapshot")
    world.change(snapshots={"beforeDelete": False})
    world.until_gone()
    assert len(world.owned()) == 1
    assert world.said()["reason"] == "NotHeld"
    assert [world.told(name)["phase"] for name in world.memorysnapshots] == ["Failed"]


def test_the_last_snapshot_of_a_former_cluster_is_none_of_a_new_one() -> None:
    world = settled()
    world.delete()
    world.until("TakingSnapshot")
    world.tick()
    world.operate()
    (name,) = world.memorysnapshots
    world.jobs.clear()
    world.uid, world.deleting, world.status = "cluster-2", False, {}  # and nobody had told it
    world.memorysnapshots[name].pop("status", None)
    for claim in world.kubernetes.claims.values():
        claim.owners = ()
    world.kubernetes.objects.clear()
    for _ in range(60):
        world.tick()
        world.operate()
    assert world.status["phase"] == "Ready"
    assert world.open_jobs() == []
    assert (world.told(name)["phase"], "is gone" in world.told(name)["message"]) == ("Failed", True)


def test_what_was_never_made_is_let_go_at_once() -> None:
    world = HeldWorld()
    for _ in range(2):
        world.operate()
    assert world.finalizers
    world.delete()
    world.until_gone(5)
    assert world.said()["reason"] == "NothingWritten"
    assert world.memorysnapshots == {}


def test_an_engine_that_may_hold_more_than_the_log_is_not_stopped() -> None:
    world = settled(shards=2)
    world.freeze(world.primary(0))
    world.tick()
    world.operate()
    world.delete()
    world.until("Frozen")
    for _ in range(20):
        world.tick()
        world.operate()
    assert len(world.pods(shard=0)) == 2
    assert world.memorysnapshots == {}
    assert world.status["blocked"]["reason"] == "Frozen"
    pod = next(pod for pod in world.pods(shard=0) if world.database.engines[pod.uid].role == "frozen")
    world.kubernetes.delete_pod(pod.name, pod.uid, str(pod.version))  # a human has given it up
    world.make_all()
    assert world.said()["reason"] == "SnapshotTaken"


def test_what_a_frozen_engine_holds_no_deadline_gives_up() -> None:
    world = settled()
    world.freeze(world.primary())
    world.tick()
    world.operate()
    world.delete()
    world.until("Frozen")
    world.tick(3700)
    for _ in range(20):
        world.tick()
        world.operate()
    assert not world.gone
    world.change(snapshots={"beforeDelete": False})  # a human has given it up
    world.until_gone()
    assert world.said()["reason"] == "NotHeld"


def test_without_its_log_no_engine_is_stopped() -> None:
    """A follower that is ready may have applied what only members that are gone had acknowledged."""
    world = settled()
    for machine in world.kubernetes.machines.values():
        machine.alive = False
    world.tick()
    world.operate()
    world.delete()
    world.until("LogUnavailable")
    engines = len(world.pods(Component.ENGINE))
    for _ in range(20):
        world.tick()
        world.operate()
    assert len(world.pods(Component.ENGINE)) == engines == 2
    for machine in world.kubernetes.machines.values():
        machine.alive = True
    world.make_all()
    assert world.said()["reason"] == "SnapshotTaken"


def test_an_agent_that_does_not_answer_is_waited_for_until_the_deadline() -> None:
    world = settled()
    world.database.engines[world.primary().uid].unreachable = True
    world.delete()
    world.until("EnginesUnclear")
    world.tick(3700)
    world.until_gone()
    assert world.owned() == []


def test_what_is_written_after_all_calls_for_another_one() -> None:
    world = settled()
    world.delete()
    world.until("TakingSnapshot")
    for _ in range(3):
        world.tick()
        world.operate()
    world.database.shards[0].committed += 1
    world.claim_of(0).copies[0] += 1
    world.make_all()
    assert len(world.memorysnapshots) == 2
    assert world.complete((world.database.shards[0].committed,))


def test_a_log_that_is_away_is_waited_for_and_its_end_is_asked_for_again() -> None:
    world = settled()
    world.delete()
    world.until("TakingSnapshot")
    world.tick()
    world.operate()
    for machine in world.kubernetes.machines.values():
        machine.alive = False
    for job in world.open_jobs():
        world.succeed(job)
    world.until("LogUnavailable")
    for _ in range(10):
        world.tick()
        world.operate()
    assert not world.gone, "it is not known where the log ends"
    for machine in world.kubernetes.machines.values():
        machine.alive = True
    world.make_all()
    assert world.said()["reason"] == "SnapshotTaken"


def test_a_deletion_in_the_foreground_is_made_one_in_the_background() -> None:
    world = settled()
    world.delete("foregroundDeletion")
    world.operate()
    world.operate()
    assert world.finalizers == (LAST_SNAPSHOT_FINALIZER,)
    for key in list(world.kubernetes.objects):  # what Kubernetes was quicker with
        del world.kubernetes.objects[key]
    world.kubernetes.pods.clear()
    world.make_all()
    assert world.said()["reason"] == "SnapshotTaken"


def test_one_that_leaves_what_it_is_made_of_is_not_held() -> None:
    world = settled()
    world.delete("orphan")
    world.operate()
    world.operate()
    assert world.finalizers == ("orphan",), "which is Kubernetes' own"
    assert world.owned() == []
    assert len(world.pods(Component.ENGINE)) == 2
    world = settled()
    world.delete()
    world.foreign[names.log_set(NAME)] = ""
    world.until_gone(5)
    assert world.said()["reason"] == "Orphaned"


def test_without_its_volumes_it_is_let_go() -> None:
    """So a namespace can be deleted: its volumes go as everything else in it, and no Job can be made."""
    world = settled()
    world.delete()
    world.kubernetes.claims.clear()
    world.kubernetes.pods.clear()
    world.kubernetes.objects.clear()
    world.operate()
    world.operate()
    assert world.gone
    assert world.said()["reason"] == "VolumesGone"


def test_the_deadline_runs_from_when_the_operator_saw_it() -> None:
    """One that was away for long still tries."""
    world = settled()
    world.delete()
    world.kubernetes.now += timedelta(days=3)
    world.until("TakingSnapshot")
    world.make_all()
    assert world.said()["reason"] == "SnapshotTaken"


def test_paused_or_not_it_goes() -> None:
    world = settled()
    world.change(paused=True)
    world.operate()
    world.delete()
    world.make_all()
    assert world.said()["reason"] == "SnapshotTaken"


def test_that_it_is_being_deleted_is_no_alarm() -> None:
    world = settled()
    world.events.clear()
    world.delete()
    world.make_all()
    assert "Unavailable" not in world.events
    assert [
        each for each in world.events if each in ("StoppingEngines", "TakingSnapshot", "SnapshotTaken")
    ] == [
        "StoppingEngines",
        "TakingSnapshot",
        "SnapshotTaken",
    ]


def test_what_an_annotation_says_is_read_as_it_was_written() -> None:
    last = Last("uid-1", (3, 0, 12))
    assert Last.parse(str(last)) == last
    assert Last.parse("uid-1") is None
    assert Last.parse("uid-1 3,x") is None


class Deleting(RuleBasedStateMachine):
    """Whatever users, fate and operators do: no volume with the only copy goes, and in the end it is gone."""

    world: HeldWorld

    @initialize(
        seed=st.integers(0, 2**32),
        shards=st.integers(1, 2),
        replicas=st.integers(0, 2),
        policy=st.sampled_from(["Retain", "Delete", "Delete"]),
        made=st.sampled_from([True, True, False]),
    )
    def begin(self, seed: int, shards: int, replicas: int, policy: str, made: bool) -> None:
        self.world = HeldWorld(seed, shards, policy, replicasPerShard=replicas)
        self.old: list[Snapshot] = []
        if made:
            self.world.settle()

    @rule(finalizers=st.sampled_from([(), (), ("foregroundDeletion",)]))
    def delete(self, finalizers: tuple[str, ...]) -> None:
        if not self.world.deleting:
            self.world.delete(*finalizers)

    @rule(wanted=st.sampled_from([True, True, False]))
    def change(self, wanted: bool) -> None:
        if not self.world.gone:
            self.world.change(snapshots={"beforeDelete": wanted})

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.world.change(paused=paused)

    @rule(data=st.data())
    def freeze(self, data: st.DataObject) -> None:
        engines = self.world.database.engines
        pods = [pod for pod in self.world.pods(Component.ENGINE) if pod.uid in engines]
        if pods:
            self.world.freeze(data.draw(st.sampled_from(pods)))

    @rule(data=st.data(), disguised=st.booleans())
    def restart_or_cut_off_an_agent(self, data: st.DataObject, disguised: bool) -> None:
        if engines := sorted(self.world.database.engines):
            engine = self.world.database.engines[data.draw(st.sampled_from(engines))]
            engine.unreachable = not disguised
            engine.disguised = disguised and engine.role == "frozen"

    @rule(data=st.data(), alive=st.booleans())
    def lose_a_machine(self, data: st.DataObject, alive: bool) -> None:
        machines = self.world.kubernetes.machines
        machines[data.draw(st.sampled_from(sorted(machines)))].alive = alive

    @rule(data=st.data())
    def lose_a_stateful_set(self, data: st.DataObject) -> None:
        sets = sorted(key for key in self.world.kubernetes.objects if key.kind == "StatefulSet")
        if sets:
            del self.world.kubernetes.objects[data.draw(st.sampled_from(sets))]

    @rule(data=st.data(), how=st.sampled_from(["succeeds", "succeeds", "fails", "is lost", "vanishes"]))
    def a_job_ends(self, data: st.DataObject, how: str) -> None:
        if jobs := self.world.open_jobs():
            self.world.befall(data.draw(st.sampled_from(jobs)), how)

    @rule(seconds=st.sampled_from([1, 5, 60, 1800]), ticks=st.integers(1, 4))
    def wait(self, seconds: int, ticks: int) -> None:
        for _ in range(ticks):
            self.world.tick(seconds)

    @precondition(lambda self: not self.world.gone)
    @rule(share=st.sampled_from([0.3, 1.0, 1.0]), passes=st.integers(1, 5))
    def operate(self, share: float, passes: int) -> None:
        for _ in range(passes):
            if not self.world.gone:
                self.world.operate(share)
                self.world.tick()

    @rule()
    def remember(self) -> None:
        self.old = [*self.old[-3:], self.world.snapshot()]

    @precondition(lambda self: self.old and not self.world.gone)
    @rule(data=st.data())
    def an_operator_wakes_with_old_news(self, data: st.DataObject) -> None:
        for action in self.world.plan(data.draw(st.sampled_from(self.old))).actions:
            if not isinstance(action, TO_CONFIRM) and not self.world.gone:
                self.world.attempt(action)

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "world") and not self.world.gone:
            self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        if not world.deleting:
            world.delete()
        for tries in range(150):
            if world.gone:
                return
            for job in world.open_jobs():
                world.succeed(job)
            world.tick(60)
            world.operate()
            if tries > 100 and world.said().get("reason") == "Frozen":
                for machine in world.kubernetes.machines.values():
                    machine.alive = True  # a Node that is lost is waited for: so is its engine
                for pod in world.pods(Component.ENGINE):  # a human gives up what nobody else may
                    engine = world.database.engines.get(pod.uid)
                    if engine is not None and engine.role == "frozen":
                        world.kubernetes.delete_pod(pod.name, pod.uid, str(pod.version))
        raise AssertionError(f"it is stuck: {world.said()} {world.plan().waits}")


TestDeleting = Deleting.TestCase
TestDeleting.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
