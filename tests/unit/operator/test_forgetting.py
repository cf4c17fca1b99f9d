"""MemorySnapshots that take their data along, and those of which nobody heard that their data has expired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.unit.operator.makings import Job, SnapshotWorld, told_to
from tests.unit.operator.world import NAME

from memorycluster.snapshot.alone import KEPT, RETAINED
from memorycluster_operator.actions import SetFinalizers
from memorycluster_operator.makings import DATA_FINALIZER, FORGET, MAKING_LABEL
from memorycluster_operator.plan.asked import RETRY_FOR
from memorycluster_operator.plan.forgetting import FORGET_WITHIN, abandon
from memorycluster_operator.plan.jobs import AGAIN_AFTER, TOLD_AT_MOST
from memorycluster_operator.plan.known import LOST_AFTER


def settled(**options: Any) -> SnapshotWorld:
    world = SnapshotWorld(**options)
    world.settle()
    return world


def taken(world: SnapshotWorld, name: str, **spec: Any) -> None:
    """A user asks for a snapshot, and it is made."""
    world.ask(name, **spec)
    world.go_on()
    for job in world.open_jobs():
        world.succeed(job)
    world.go_on()
    assert world.told(name)["phase"] == "Completed"


def forgetting(world: SnapshotWorld) -> list[Job]:
    return [job for job in world.open_jobs() if job.manifest["metadata"]["labels"][MAKING_LABEL] == FORGET]


def unwanted(job: Job) -> set[str]:
    config = told_to(job)
    assert config.keep is not None
    return set(config.keep.unwanted)


def said(world: SnapshotWorld, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        each for each in world.told(name)["conditions"] if each["type"] == "DataDeleted"
    )
    return found


def finalizers(world: SnapshotWorld, name: str) -> list[str]:
    found: list[str] = world.memorysnapshots[name]["metadata"].get("finalizers") or []
    return found


def test_only_what_takes_its_data_along_is_held() -> None:
    world = settled()
    taken(world, "mine")
    taken(world, "gone", deletionPolicy="Delete")
    assert finalizers(world, "mine") == []
    assert finalizers(world, "gone") == [DATA_FINALIZER]
    world.memorysnapshots["gone"]["spec"]["deletionPolicy"] = "Retain"
    world.go_on()
    assert finalizers(world, "gone") == []


def test_its_data_goes_first_from_each_shard() -> None:
    world = settled(shards=2)
    taken(world, "mine")
    taken(world, "gone", deletionPolicy="Delete")
    world.unask("gone")
    world.go_on()
    jobs = forgetting(world)
    assert len(jobs) == 2
    for config in map(told_to, jobs):
        assert not config.make
        assert config.keep is not None
        assert list(config.keep.unwanted.values()) == ["gone"]
        assert all(f"/{config.shard}/" in place for place in config.keep.unwanted)
    world.succeed(jobs[0])
    world.go_on()
    assert "gone" in world.memorysnapshots, "half of it is there"
    world.succeed(jobs[1])
    world.go_on()
    assert list(world.memorysnapshots) == ["mine"]
    assert set(world.store.values()) == {"mine"}
    assert "SnapshotDeleted" in world.events
    assert world.go_on().actions == ()


def test_what_the_log_needs_is_left_to_retention_and_that_is_said() -> None:
    world = settled()
    taken(world, "gone", deletionPolicy="Delete")
    world.unask("gone")
    world.go_on()
    (job,) = forgetting(world)
    config = told_to(job)
    assert config.keep is not None
    world.needed = set(config.keep.unwanted)
    world.end(job, {"kept": [], "trouble": "", "unwanted": dict.fromkeys(world.needed, KEPT)})
    world.go_on()
    assert world.memorysnapshots == {}
    assert list(world.store.values()) == ["gone"]


def test_a_store_that_is_away_is_tried_again_and_holds_nothing_for_ever() -> None:
    world = settled()
    taken(world, "gone", deletionPolicy="Delete")
    world.unask("gone")
    world.go_on()
    for _ in range(3):
        (job,) = forgetting(world)
        world.end(job, {"failed": "s3://b: no answer", "trouble": "", "unwanted": {}}, failed=True)
        world.go_on(seconds=1)
        assert (said(world, "gone")["reason"], said(world, "gone")["status"]) == ("DeletionFailed", "False")
        assert "no answer" in world.told("gone")["message"]
        assert forgetting(world) == [], "not at once"
        assert world.condition()["status"] == "True", "it is no snapshot that failed"
        world.kubernetes.now += AGAIN_AFTER
        world.go_on()
    assert "SnapshotDeletionFailed" in world.events
    world.kubernetes.now += FORGET_WITHIN
    world.go_on()
    assert world.memorysnapshots == {}
    assert list(world.store.values()) == ["gone"]
    assert "SnapshotDataKept" in world.events


def test_without_a_store_or_a_cluster_it_is_let_go_too() -> None:
    world = settled()
    taken(world, "gone", deletionPolicy="Delete")
    world.unask("gone")
    asked, _ = world.facts()
    (action,) = abandon(NAME, (each for each in asked if each.forgetting))
    assert action.finalizers == ()
    assert next(iter(world.store)) in action.reason, "whoever wants it away is told where it is"
    world.change(snapshots={"store": {"s3": None, "credentials": None}})
    world.go_on()
    assert "has no store" in said(world, "gone")["message"]
    world.kubernetes.now += FORGET_WITHIN
    world.go_on()
    assert world.memorysnapshots == {}


def test_what_a_cluster_is_being_restored_from_is_not_deleted() -> None:
    world = settled()
    taken(world, "gone", deletionPolicy="Delete")
    world.restored_from = frozenset({"gone"})
    world.unask("gone")
    world.go_on()
    assert forgetting(world) == []
    assert "restored" in said(world, "gone")["message"]
    world.restored_from = frozenset()
    world.go_on()
    world.succeed(*forgetting(world))
    world.go_on()
    assert world.memorysnapshots == {}


def test_data_goes_also_from_a_log_that_always_asks_for_a_snapshot() -> None:
    world = settled()
    taken(world, "gone", deletionPolicy="Delete")
    world.committed += 300 << 20
    world.go_on()
    assert [told_to(job).make for job in world.open_jobs()] == [True]
    world.unask("gone")
    world.go_on()
    world.succeed(*forgetting(world))
    world.go_on()
    assert world.memorysnapshots == {}


def test_a_job_that_deletes_what_a_restore_begins_with_is_ended() -> None:
    world = settled()
    taken(world, "gone", deletionPolicy="Delete")
    world.unask("gone")
    world.go_on()
    assert len(forgetting(world)) == 1
    world.restored_from = frozenset({"gone"})
    world.go_on()
    assert forgetting(world) == []


def test_one_that_is_still_being_made_is_made_first() -> None:
    world = settled()
    world.ask("gone", deletionPolicy="Delete")
    world.go_on()
    world.unask("gone")
    world.go_on()
    (job,) = world.open_jobs()
    assert told_to(job).make
    world.succeed(job)
    world.go_on()
    world.succeed(*forgetting(world))
    world.go_on()
    assert (world.memorysnapshots, world.store) == ({}, {})


@pytest.mark.parametrize("failed", [True, False])
def test_what_a_job_has_left_that_died_or_was_not_heard_is_never_said_to_be_gone(failed: bool) -> None:
    world = settled()
    world.ask("gone", deletionPolicy="Delete")
    world.go_on()
    world.unask("gone")
    world.go_on()
    world.lose(*world.open_jobs(), failed=failed)
    if not failed:
        world.go_on(seconds=1)
        assert said(world, "gone")["reason"] == "Waiting", "its pod may just not have been seen yet"
        world.kubernetes.now += LOST_AFTER
    released: list[Any] = []
    for _ in range(3):
        released += [each for each in world.operate().actions if isinstance(each, SetFinalizers)]
        world.kubernetes.now += timedelta(seconds=1)
    assert "SnapshotDataKept" in world.events
    assert f"called gone below {NAME}/0/" in released[-1].reason, "where to look"
    assert world.memorysnapshots == {}
    assert list(world.store.values()) == ["gone"]


def test_so_is_what_it_has_left_if_another_job_made_it_again() -> None:
    world = settled()
    world.ask("gone", deletionPolicy="Delete")
    world.go_on()
    world.lose(*world.open_jobs(), failed=True)
    world.go_on()
    world.kubernetes.now += AGAIN_AFTER
    world.go_on()
    world.succeed(*world.open_jobs())
    world.go_on()
    assert world.told("gone")["phase"] == "Completed"
    assert list(world.store.values()) == ["gone", "gone"]
    world.unask("gone")
    world.go_on()
    world.succeed(*forgetting(world))
    world.go_on()
    assert world.memorysnapshots == {}
    assert list(world.store.values()) == ["gone"], "of that nobody knows the place"
    assert "SnapshotDataKept" in world.events
    assert "SnapshotDeleted" not in world.events


def test_what_a_former_log_needs_stays_and_that_is_said_at_once() -> None:
    world = settled()
    taken(world, "gone", deletionPolicy="Delete")
    world.unask("gone")
    world.go_on()
    (job,) = forgetting(world)
    world.end(job, {"kept": [], "trouble": "", "unwanted": dict.fromkeys(world.store, RETAINED)})
    world.go_on()
    assert world.memorysnapshots == {}
    assert "SnapshotDataKept" in world.events
    assert world.go_on().actions == ()


def test_those_that_cant_be_deleted_are_not_in_the_way_of_others() -> None:
    world = settled()
    names = [f"gone-{each:02}" for each in range(TOLD_AT_MOST + 2)]
    for name in names:
        taken(world, name, deletionPolicy="Delete")
    for name in names:
        world.unask(name)
    world.go_on()
    (job,) = forgetting(world)
    assert len(unwanted(job)) == TOLD_AT_MOST
    world.end(job, {"failed": "they can't", "trouble": "", "unwanted": {}}, failed=True)
    world.go_on()
    (other,) = forgetting(world)
    assert len(unwanted(other)) == 2
    assert not unwanted(other) & unwanted(job)
    world.succeed(other)
    world.go_on()
    assert len(world.memorysnapshots) == TOLD_AT_MOST
    assert forgetting(world) == [], "not at once"
    world.kubernetes.now += AGAIN_AFTER
    world.go_on()
    (again,) = forgetting(world)
    assert unwanted(again) == unwanted(job)


def test_while_it_is_paused_nothing_is_deleted_and_who_wants_no_data_deleted_waits_for_nobody() -> None:
    world = settled()
    taken(world, "gone", deletionPolicy="Delete")
    world.change(paused=True)
    world.unask("gone")
    world.kubernetes.now += 2 * FORGET_WITHIN
    world.go_on()
    assert list(world.store.values()) == ["gone"]
    assert "gone" in world.memorysnapshots
    world.memorysnapshots["gone"]["spec"]["deletionPolicy"] = "Retain"
    world.go_on()
    assert world.memorysnapshots == {}


def test_the_schedule_does_not_wait_for_one_that_is_being_deleted() -> None:
    world = settled(schedule="*/10 * * * *")
    world.kubernetes.now += timedelta(minutes=10)
    world.go_on()
    (name,) = world.memorysnapshots
    world.memorysnapshots[name]["spec"]["deletionPolicy"] = "Delete"
    world.go_on()
    world.unask(name)
    world.kubernetes.now += timedelta(minutes=10)
    world.go_on()
    assert len(world.memorysnapshots) == 2


def test_one_of_the_schedule_goes_although_the_answer_that_its_data_has_was_lost() -> None:
    world = settled(schedule="0 * * * *")
    world.kubernetes.now += timedelta(hours=1)
    world.go_on()
    (name,) = world.memorysnapshots
    world.succeed(world.open_jobs()[0])
    world.go_on()
    (place,) = world.store
    world.ask("one")
    world.go_on()
    world.end(world.open_jobs()[0], None)  # it has deleted it, and nobody heard
    world.kubernetes.now += LOST_AFTER + AGAIN_AFTER
    world.go_on()
    (job,) = world.open_jobs()
    config = told_to(job)
    assert config.keep is not None
    assert config.keep.listed == {place: name}
    world.succeed(job, deleted=[name])
    world.go_on()
    assert list(world.memorysnapshots) == ["one"]


def test_each_shard_has_its_own_time_to_be_tried_again() -> None:
    """Some begin late: no more than four Jobs run at once."""
    world = settled(shards=5)
    world.ask("now")
    world.go_on()
    first = world.open_jobs()
    assert len(first) == 4
    world.kubernetes.now += RETRY_FOR
    for job in first:
        world.succeed(job)
    world.go_on()
    (job,) = world.open_jobs()
    world.end(job, {"failed": "so it is"}, failed=True)
    world.go_on()
    assert world.told("now")["phase"] == "Running", "it has been tried once"
    world.kubernetes.now += AGAIN_AFTER
    world.go_on()
    world.succeed(*world.open_jobs())
    world.go_on()
    assert world.told("now")["phase"] == "Completed"


def test_a_job_is_not_told_what_is_as_by_default() -> None:
    """An engine image that is older than such a field would refuse it, and make no snapshot."""
    world = settled()
    world.ask("one")
    world.go_on()
    config = told_to(world.open_jobs()[0])
    assert config.keep is not None
    assert config.keep.model_fields_set == {"retention", "agents", "api_token_file"}
    assert "restore" not in config.model_fields_set


class Forgetting(RuleBasedStateMachine):
    """Whatever becomes of Jobs: what is deleted with its data goes in the end, and nothing else."""

    world: SnapshotWorld

    @initialize(seed=st.integers(0, 2**32), shards=st.integers(1, 3))
    def begin(self, seed: int, shards: int) -> None:
        self.world = settled(seed=seed, shards=shards)
        self.deleted: list[str] = []
        self.count = 0

    @rule(policy=st.sampled_from(["Delete", "Delete", "Retain"]))
    def ask(self, policy: str) -> None:
        self.count += 1
        self.world.ask(f"asked-{self.count}", deletionPolicy=policy)

    @rule(data=st.data())
    def unask(self, data: st.DataObject) -> None:
        if names := sorted(set(self.world.memorysnapshots) - set(self.deleted)):
            self.deleted.append(data.draw(st.sampled_from(names)))
            self.world.unask(self.deleted[-1])

    @rule(seconds=st.sampled_from([1, 31, 61, 600, 1800]))
    def wait(self, seconds: int) -> None:
        self.world.kubernetes.now += timedelta(seconds=seconds)

    @rule(share=st.sampled_from([0.3, 1.0, 1.0]))
    def operate(self, share: float) -> None:
        self.world.operate(share)

    @rule(data=st.data(), how=st.sampled_from(["succeeds", "succeeds", "fails", "dies", "is lost"]))
    def a_job_ends(self, data: st.DataObject, how: str) -> None:
        if jobs := self.world.open_jobs():
            self.world.befall(data.draw(st.sampled_from(jobs)), how)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for _ in range(40):
            self.world.go_on(passes=3)
            for job in self.world.open_jobs():
                self.world.succeed(job)
            self.world.kubernetes.now += AGAIN_AFTER
        assert not set(self.deleted) & set(self.world.memorysnapshots)
        kept = {name for name in self.world.memorysnapshots if self.world.told(name)["phase"] == "Completed"}
        assert kept <= set(self.world.store.values()), "what nobody deleted is there"


TestForgetting = Forgetting.TestCase
TestForgetting.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
