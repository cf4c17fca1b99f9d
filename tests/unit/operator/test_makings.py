"""When Jobs make snapshots, what is said of them, and what goes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.operator.makings import STORE, SnapshotWorld, told_to
from tests.unit.operator.world import World, spec_of
from tests.unit.snapshot.manifests import manifest

from memorycluster_operator.makings import CONFIG_ANNOTATION, MAKING_LABEL, Progress
from memorycluster_operator.plan.asked import RETRY_FOR
from memorycluster_operator.plan.jobs import AGAIN_AFTER
from memorycluster_operator.plan.known import LOST_AFTER

MiB = 1 << 20


def settled(**options: Any) -> SnapshotWorld:
    world = SnapshotWorld(**options)
    world.settle()
    return world


def passes(world: SnapshotWorld, time: timedelta) -> None:
    world.kubernetes.now += time


def test_without_a_store_nothing_is_made_and_who_asks_is_told() -> None:
    world = settled()
    world.change(snapshots={"store": {"s3": None, "credentials": None}})
    world.ask("now")
    world.committed = 1 << 40
    world.go_on()
    assert world.jobs == {}
    assert world.told("now")["phase"] == "Pending"
    assert "has no store" in world.told("now")["message"]


@pytest.mark.parametrize(("size", "more"), [("2500Mi", "log.storage.size 3Gi or more"), (None, "")])
def test_without_a_store_it_is_said_that_the_log_fills(size: str | None, more: str) -> None:
    """What a schedule asks for is not made either."""
    log = {"maxBytes": "1Gi", "storage": {"size": size} if size else {}}
    world = settled(spec={"log": log}, store={"s3": None}, schedule="0 * * * *")
    said = world.condition()
    assert (said["status"], said["reason"]) == ("False", "NoStore")
    assert "the log is never trimmed" in said["message"]
    assert "spec.snapshots.store" in said["message"]
    assert more in said["message"]
    assert ("log.storage.size" in said["message"]) == bool(more)
    assert world.status["phase"] == "Ready"
    assert "NoStore" in world.events


def test_a_memorysnapshot_gets_a_job_for_each_shard_and_tells_what_they_made() -> None:
    world = settled(shards=2)
    world.ask("now")
    world.go_on()
    assert len(world.open_jobs()) == 2
    assert (world.told("now")["phase"], world.told("now")["progress"]) == ("Running", "0/2")
    first, second = world.open_jobs()
    world.succeed(first)
    world.go_on()
    assert (world.told("now")["phase"], world.told("now")["progress"]) == ("Running", "1/2")
    world.succeed(second)
    world.go_on()
    told = world.told("now")
    assert (told["phase"], told["progress"], told["size"]) == ("Completed", "2/2", "2.0KiB")
    made = manifest()
    assert {shard["digest"] for shard in told["shards"]} == {made.digest}
    assert {shard["sha256"] for shard in told["shards"]} == {made.sha256}
    assert told["conditions"][0]["status"] == "True"
    assert world.condition()["reason"] == "Taken"
    assert world.go_on().actions == (), "it is left alone from then on"


def test_a_job_goes_with_the_memorysnapshot_that_asked_for_it() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    (owner,) = job.manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("MemorySnapshot", "now", True)
    world.committed = 300 * MiB
    world.succeed(job)
    world.go_on()
    world.committed += 300 * MiB
    world.go_on()
    (job,) = world.open_jobs()
    assert job.manifest["metadata"]["ownerReferences"][0]["kind"] == "MemoryCluster"


def test_what_a_job_is_told_is_what_it_understands_and_holds_no_secret() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    config = told_to(job)
    assert (config.name, config.reason, config.anew) == ("now", "user", True)
    assert config.log_password.get_secret_value() == ""
    assert config.store.credentials is not None
    assert config.keep is not None
    assert list(config.keep.agents) == ["orders-0-0"]
    passwords = [value for each in world.seen.values() for value in each.values()]
    assert passwords
    assert not [value for value in passwords if value in str(job.manifest)]


def test_a_failure_is_told_and_tried_again_until_it_is_given_up() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    world.end(job, {"failed": "s3://b: no such bucket", "broken": []}, failed=True)
    ended = job.manifest.pop("status")
    world.go_on(seconds=1)
    assert "no such bucket" in world.told("now")["message"], "its pod has ended, and the Job has not yet"
    job.manifest["status"] = ended
    world.go_on(seconds=1)
    assert "no such bucket" in world.told("now")["message"]
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "SnapshotFailed")
    assert "no such bucket" in world.condition()["message"]
    assert world.open_jobs() == [], "not at once"
    passes(world, AGAIN_AFTER)
    world.go_on()
    (job,) = world.open_jobs()
    assert world.condition()["status"] == "False", "it is not well because it is tried again"
    passes(world, RETRY_FOR)
    world.go_on()
    assert world.told("now")["phase"] == "Running", "while it runs, it may succeed"
    world.end(job, {"failed": "s3://b: no such bucket", "broken": []}, failed=True)
    world.go_on()
    assert world.told("now")["phase"] == "Failed"
    passes(world, AGAIN_AFTER)
    world.go_on()
    assert world.open_jobs() == []
    world.ask("again")
    world.go_on()
    world.succeed(world.open_jobs()[0])
    world.go_on()
    assert world.told("again")["phase"] == "Completed"
    assert world.condition()["status"] == "True"


def test_what_nobody_heard_is_made_again() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    world.end(job, None)
    world.go_on(seconds=1)
    assert world.told("now")["phase"] == "Running"
    passes(world, LOST_AFTER + AGAIN_AFTER)
    world.go_on()
    (again,) = world.open_jobs()
    assert again is not job
    world.succeed(again)
    world.go_on()
    assert world.told("now")["phase"] == "Completed"


def test_the_log_asks_for_one_when_a_restart_would_replay_too_much() -> None:
    world = settled(maxLogReplay="64Mi")
    world.committed, world.last_sequence = 63 * MiB, 100
    world.go_on()
    assert world.jobs == {}
    world.committed = 65 * MiB
    world.go_on()
    (job,) = world.open_jobs()
    config = told_to(job)
    assert (config.reason, config.name) == ("replay", "")
    world.succeed(job)
    world.go_on()
    assert world.open_jobs() == []
    assert world.status["shards"][0]["snapshots"]["kept"][0]["offset"] == 65 * MiB
    assert world.memorysnapshots == {}, "nobody asked for it"
    world.jobs.clear()  # as their time to live is over
    world.go_on()
    assert world.open_jobs() == [], "the status knows"


def test_a_log_whose_snapshots_fail_is_tried_for_ever() -> None:
    world = settled(maxLogReplay="64Mi")
    world.committed = 65 * MiB
    for _ in range(100):
        world.go_on(passes=3)
        (job,) = world.open_jobs()
        world.end(job, {"failed": "away"}, failed=True)
        world.go_on(passes=2)
        assert world.condition()["status"] == "False"
        passes(world, AGAIN_AFTER)
    world.go_on()
    world.succeed(world.open_jobs()[0])
    world.go_on()
    assert world.condition()["status"] == "True"


def test_who_is_waited_for_before_the_log_is_trimmed_gets_a_job_that_waits() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    world.succeed(world.open_jobs()[0], waits=True)
    world.go_on()
    assert world.told("now")["phase"] == "Completed"
    (job,) = world.open_jobs()
    assert not told_to(job).make
    world.succeed(job)
    world.go_on()
    assert world.open_jobs() == []


def test_a_job_that_waits_is_not_in_the_way_of_one_that_makes() -> None:
    """While a node is away, each Job is followed by one that waits for it: the log would fill meanwhile."""
    world = settled()
    world.ask("now")
    world.go_on()
    world.succeed(world.open_jobs()[0], waits=True)
    world.go_on()
    assert kinds(world) == ["keep"]
    world.ask("again")
    world.go_on()
    assert kinds(world) == ["keep", "make"]


def kinds(world: SnapshotWorld) -> list[str]:
    return sorted(job.manifest["metadata"]["labels"][MAKING_LABEL] for job in world.open_jobs())


def test_a_log_that_is_always_due_does_not_keep_who_is_waited_for_from_being_given_up() -> None:
    """Each Job that makes one begins to wait anew: only one that does nothing else waits for long enough."""
    world = settled()
    world.committed = 300 * MiB
    world.go_on()
    for _ in range(3):
        (job,) = [job for job in world.open_jobs() if told_to(job).make]
        world.committed += 300 * MiB
        world.last_sequence += 300
        world.succeed(job, waits=True)
        world.committed += 300 * MiB
        world.go_on()
        assert kinds(world) == ["keep", "make"]


def test_jobs_that_wait_leave_room_for_those_that_make_and_take_turns() -> None:
    """A zone that is away has a silent node in each shard."""
    world = settled(shards=6)
    waited = set[int]()
    world.ask("first")
    for _ in range(6):
        world.go_on()
        assert kinds(world).count("keep") <= 2
        for job in world.open_jobs():
            if told_to(job).make:
                world.succeed(job, waits=True)
    assert kinds(world) == ["keep", "keep"]
    world.ask("second")
    world.go_on()
    assert kinds(world) == ["keep", "keep", "make", "make"]
    for _ in range(12):
        for job in world.open_jobs():
            waited |= set() if told_to(job).make else {told_to(job).shard}
            world.succeed(job, waits=True)
        world.go_on()
    assert waited == set(range(6))


def test_jobs_of_a_former_clusters_log_tell_nothing() -> None:
    """A MemorySnapshot outlives its cluster, and its Jobs with it."""
    world = settled()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    annotations = job.manifest["spec"]["template"]["metadata"]["annotations"]
    told = json.loads(annotations[CONFIG_ANNOTATION]) | {"generation": str(uuid4())}
    annotations[CONFIG_ANNOTATION] = json.dumps(told)
    world.succeed(job)
    name = job.manifest["metadata"]["name"]
    world.go_on(passes=1)
    assert world.told("now")["phase"] != "Completed"
    assert name in world.discarded
    world.go_on()
    (made,) = world.open_jobs()
    world.succeed(made)
    world.go_on()
    assert world.told("now")["phase"] == "Completed"


def test_how_far_a_job_is_stands_in_the_status_until_it_is_done() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    world.progress[job.manifest["metadata"]["name"]] = Progress("upload", 3 << 20, 12 << 20)
    world.go_on()
    said = world.told("now")
    (shard,) = said["shards"]
    assert (shard["step"], shard["done"], shard["total"]) == ("upload", 3 << 20, 12 << 20)
    assert said["message"] == "shard 0: upload 3.0 MiB of 12.0 MiB"
    world.progress[job.manifest["metadata"]["name"]] = Progress("save", 1 << 20, 0)
    world.go_on()
    (shard,) = world.told("now")["shards"]
    assert (shard["step"], "total" in shard) == ("save", False)
    world.succeed(job)
    world.go_on()
    (shard,) = world.told("now")["shards"]
    assert shard["phase"] == "Completed"
    assert not {"step", "done", "total"} & set(shard)


def test_a_restore_holds_the_log_while_there_is_room() -> None:
    """One that comes to no end must not fill the log of the cluster that it reads."""
    for full, held in ((0.4, True), (0.6, False)):
        world = settled()
        world.readers = ("other",)
        world.bytes = int(full * world.database.shards[0].max_bytes)
        world.ask("now")
        world.go_on()
        (job,) = world.open_jobs()
        keep = told_to(job).keep
        assert keep is not None
        assert keep.held is held


def test_a_job_that_runs_when_a_restore_begins_is_made_anew_and_told_to_trim_nothing() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    world.succeed(world.open_jobs()[0], waits=True)
    world.go_on()
    world.ask("more")
    world.go_on()
    assert kinds(world) == ["keep", "make"]
    world.readers = ("other",)
    world.go_on()
    (job,) = world.open_jobs()
    assert (told_to(job).name, kinds(world)) == ("more", ["make"]), "to wait is of no use meanwhile"
    keep = told_to(job).keep
    assert keep is not None
    assert keep.held
    assert len(world.discarded) == 2
    pod = job.manifest["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] <= 1, "it does not go on when its Job is gone"
    world.go_on()
    assert world.open_jobs() == [job], "it is left alone from then on"
    world.succeed(job)
    world.go_on()
    assert world.told("more")["phase"] == "Completed"


def test_a_job_goes_on_when_a_restore_begins_and_the_log_has_no_room_to_wait() -> None:
    world = settled()
    world.bytes = int(0.6 * world.database.shards[0].max_bytes)
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    world.readers, world.restored_from = ("other",), frozenset({"some"})
    world.go_on()
    assert world.open_jobs() == [job]


@pytest.mark.parametrize(("full", "must"), [(0.4, ["spared"]), (0.6, [])])
def test_what_another_cluster_is_restored_from_is_not_to_be_deleted(full: float, must: list[str]) -> None:
    """An engine image that does not know of that makes no snapshot rather, while the log has the room."""
    world = settled()
    world.bytes = int(full * world.database.shards[0].max_bytes)
    world.restored_from = frozenset({"b", "a"})
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    keep = told_to(job).keep
    assert keep is not None
    assert (keep.spared, keep.must_know, keep.held) == (["a", "b"], must, False)


def test_a_job_that_runs_is_made_anew_when_another_snapshot_is_to_be_spared() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    world.restored_from = frozenset({"a", "b"})
    world.go_on()
    (job,) = world.open_jobs()
    assert len(world.discarded) == 1
    world.restored_from = frozenset({"b"})
    world.go_on()
    assert world.open_jobs() == [job], "it spares more than it has to"


def test_a_clock_that_was_wrong_does_not_stop_the_schedule() -> None:
    world = settled(schedule="0 * * * *")
    ahead = world.kubernetes.now + timedelta(days=400)
    world.status["snapshots"] = {"last": ahead.isoformat(), "next": ahead.isoformat()}
    passes(world, timedelta(hours=1))
    world.go_on()
    assert len(world.memorysnapshots) == 1


def test_the_schedule_asks_once_for_each_moment() -> None:
    world = settled(schedule="0 * * * *")
    world.go_on()
    made = list(world.memorysnapshots)
    assert made == [], "the moment before it was there is not its own"
    passes(world, timedelta(hours=1))
    world.go_on()
    (name,) = world.memorysnapshots
    assert name == f"orders-{world.kubernetes.now:%Y%m%d-%H}0000"
    world.succeed(world.open_jobs()[0])
    world.go_on()
    assert world.told(name)["phase"] == "Completed"
    del world.memorysnapshots[name]
    world.go_on()
    assert world.memorysnapshots == {}, "deleted is deleted"
    passes(world, timedelta(hours=5))
    world.go_on()
    assert len(world.memorysnapshots) == 1, "what was missed is made up for once"


def test_the_next_one_of_the_schedule_waits_for_the_last_one() -> None:
    world = settled(schedule="*/10 * * * *")
    passes(world, timedelta(minutes=10))
    world.go_on()
    passes(world, timedelta(minutes=10))
    world.go_on()
    assert len(world.memorysnapshots) == 1
    world.succeed(world.open_jobs()[0])
    world.go_on()
    assert len(world.memorysnapshots) == 2


def test_the_plan_is_made_again_when_the_schedule_says() -> None:
    world = settled(schedule="0 * * * *")
    world.kubernetes.now = datetime(2026, 11, 25, 12, 59, 30, tzinfo=UTC)
    world.go_on()
    passes(world, datetime(2026, 11, 25, 13, 59, 30, tzinfo=UTC) - world.kubernetes.now)
    world.memorysnapshots.clear()
    world.jobs.clear()
    assert world.plan().again == datetime(2026, 11, 25, 14, tzinfo=UTC)


def test_a_memorysnapshot_of_the_schedule_goes_with_its_data_and_no_other_does() -> None:
    world = settled(schedule="0 * * * *")
    passes(world, timedelta(hours=1))
    world.go_on()
    (name,) = world.memorysnapshots
    world.succeed(world.open_jobs()[0])
    world.ask("mine")
    world.go_on()
    world.succeed(world.open_jobs()[0], deleted=[name, "mine"])
    world.go_on()
    assert list(world.memorysnapshots) == ["mine"]


def test_while_it_is_paused_nothing_is_made() -> None:
    world = settled()
    world.change(paused=True)
    world.ask("now")
    world.go_on()
    assert world.jobs == {}


def test_nodes_that_are_frozen_are_named() -> None:
    world = settled()
    world.freeze(world.primary())
    world.go_on()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    keep = told_to(job).keep
    assert keep is not None
    assert keep.frozen == ["orders-0-0"]


def test_before_the_logs_are_made_it_waits() -> None:
    world = SnapshotWorld()
    world.ask("now")
    world.operate()
    assert world.jobs == {}
    assert world.told("now")["phase"] == "Pending"
    assert "logs" in world.told("now")["message"]


@pytest.mark.parametrize("seed", range(3))
def test_a_cluster_that_gets_a_store_rolls_its_pods_one_by_one(seed: int) -> None:
    world = World(spec_of(shards=1), seed)
    world.settle()
    pods = {pod.uid for pod in world.pods(shard=0)}
    world.change(snapshots={"store": STORE})
    world.settle()
    assert not pods & {pod.uid for pod in world.pods(shard=0)}


@pytest.mark.parametrize(("full", "held"), [(0.4, True), (0.6, False)])
def test_a_log_is_not_trimmed_while_a_pod_may_not_know_the_store(full: float, held: bool) -> None:
    """But a rollout that is stuck must not fill it."""
    world = settled()
    world.bytes = int(full * world.database.shards[0].max_bytes)
    world.change(engine={"image": "engine:unpullable"})
    world.go_on(passes=2)
    world.ask("now")
    world.go_on(passes=2)
    (job,) = world.open_jobs()
    keep = told_to(job).keep
    assert keep is not None
    assert keep.held is held


class Snapshotting(RuleBasedStateMachine):
    """Whatever becomes of Jobs, in whatever order: what was asked for is made, or given up."""

    world: SnapshotWorld

    @initialize(seed=st.integers(0, 2**32), shards=st.integers(1, 6), scheduled=st.booleans())
    def begin(self, seed: int, shards: int, scheduled: bool) -> None:
        more = {"schedule": "*/30 * * * *"} if scheduled else {}
        self.world = SnapshotWorld(seed, shards, maxLogReplay="64Mi", **more)
        self.world.settle()
        self.asked: list[str] = []

    @rule()
    def ask(self) -> None:
        self.asked.append(f"asked-{len(self.asked)}")
        self.world.ask(self.asked[-1])

    @rule(bytes=st.integers(0, 100 * MiB))
    def write(self, bytes: int) -> None:
        self.world.committed += bytes
        self.world.last_sequence += 1 + bytes // MiB

    @rule(seconds=st.sampled_from([1, 31, 61, 600, 1800]))
    def wait(self, seconds: int) -> None:
        passes(self.world, timedelta(seconds=seconds))

    @rule(share=st.sampled_from([0.3, 1.0]))
    def operate(self, share: float) -> None:
        self.world.operate(share)

    @rule(data=st.data(), how=st.sampled_from(["succeeds", "waits", "fails", "is lost", "vanishes"]))
    def a_job_ends(self, data: st.DataObject, how: str) -> None:
        if jobs := self.world.open_jobs():
            self.world.befall(data.draw(st.sampled_from(jobs)), how)

    @invariant()
    def jobs_are_few(self) -> None:
        if hasattr(self, "world"):
            self.world.check_jobs()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for _ in range(60):
            self.world.go_on(passes=4)
            for job in self.world.open_jobs():
                self.world.succeed(job)
            passes(self.world, AGAIN_AFTER)
        for name in self.asked:
            told = self.world.told(name)
            assert told["phase"] in ("Completed", "Failed"), told
            if told["phase"] == "Completed":
                assert all(each["phase"] == "Completed" for each in told["shards"])
        assert self.world.condition()["status"] == "True"


TestSnapshotting = Snapshotting.TestCase
TestSnapshotting.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
