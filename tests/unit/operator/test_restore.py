"""A new cluster that begins with what was: its logs are made once all of it is there."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from tests.unit.operator.makings import Job, SnapshotWorld, told_to
from tests.unit.operator.world import spec_of

from memorycluster.snapshot.reshard import complete
from memorycluster_operator.makings import Progress
from memorycluster_operator.plan.jobs import AGAIN_AFTER
from memorycluster_operator.plan.restore import TAKEN_WITHIN
from memorycluster_operator.plan.step import LOOK_AGAIN
from memorycluster_operator.snapshot import Key, Source

SNAPSHOT = {"snapshot": "orders-1"}
MOMENT = {"cluster": "old", "time": "2026-11-01T12:34:56Z"}


def restoring(world: SnapshotWorld) -> None:
    """Go on until Jobs restore."""
    for _ in range(60):
        world.tick()
        world.operate()
        if world.open_jobs():
            return
    raise AssertionError(world.status)


def restored(world: SnapshotWorld, job: Job) -> None:
    world.end(job, {"restored": f"digest-{told_to(job).shard}"})


def waits(world: SnapshotWorld) -> dict[str, str]:
    return {each.reason: each.message for each in world.plan().waits}


def test_logs_begin_with_what_was_restored_once_all_of_it_is() -> None:
    world = SnapshotWorld(shards=2, restore=SNAPSHOT)
    restoring(world)
    world.go_on()
    first, second = world.open_jobs()
    assert {told_to(job).shard for job in (first, second)} == {0, 1}
    ours = {told_to(job).generation for job in (first, second)}
    for job in (first, second):
        assert (wanted := told_to(job).restore)
        assert set(wanted.ours) == ours, "what the other one makes is not what is asked for"
    assert [each.snapshot for job in (first, second) if (each := told_to(job).restore)] == ["orders-1"] * 2
    restored(world, first)
    world.go_on()
    assert world.seeds == {}, "the other one is not there yet"
    assert "Restoring" in waits(world)
    restored(world, second)
    world.settle()
    assert world.seeds == {0: b"digest-0", 1: b"digest-1"}


def with_takers() -> SnapshotWorld:
    """Return a cluster that is not restored yet, as a Job of another one may delete what it is made of."""
    world = SnapshotWorld(restore=SNAPSHOT)
    world.takers = ("Job old-0-snapshot-1",)
    for _ in range(20):
        world.tick()
        world.operate()
    assert world.jobs == {}
    return world


def test_nothing_is_restored_while_what_may_delete_it_is_about_to_end() -> None:
    world = with_takers()
    assert "Job old-0-snapshot-1" in waits(world)["Restoring"]
    again = world.plan().again
    assert again is not None
    assert again <= world.kubernetes.now + LOOK_AGAIN, "nobody tells this cluster that it has ended"
    world.takers = ()
    restoring(world)


def test_what_does_not_end_is_not_waited_for_long() -> None:
    """The other cluster may be paused, or its log have no room to wait."""
    world = with_takers()
    world.kubernetes.now = world.began + TAKEN_WITHIN
    world.go_on()
    assert len(world.open_jobs()) == 1


def test_how_far_a_restore_is_is_what_the_cluster_waits_for() -> None:
    world = SnapshotWorld(restore=SNAPSHOT)
    restoring(world)
    (job,) = world.open_jobs()
    world.progress[job.manifest["metadata"]["name"]] = Progress("load", 3 << 20, 12 << 20)
    world.go_on()
    blocked = world.status["blocked"]
    assert blocked["message"] == "shard 0 is being restored: load 3.0 MiB of 12.0 MiB"
    world.progress[job.manifest["metadata"]["name"]] = Progress("upload", 9 << 20, 12 << 20)
    world.go_on()
    assert world.status["blocked"]["until"] == blocked["until"], "it is the same that is waited for"
    assert "upload" in world.status["blocked"]["message"]


def test_what_was_restored_into_another_store_does_not_count() -> None:
    world = SnapshotWorld(restore=SNAPSHOT)
    restoring(world)
    (job,) = world.open_jobs()
    restored(world, job)
    world.change(snapshots={"store": {"s3": {"bucket": "another"}}})
    for _ in range(5):
        world.tick()
        world.operate()
    assert world.seeds == {}
    (again,) = world.open_jobs()
    assert told_to(again).store != told_to(job).store
    world.change(snapshots={"store": {"credentials": {"secretName": "rotated"}}})
    world.go_on()
    assert world.open_jobs() == [again], "whoever opens it, it is the same store"
    restored(world, again)
    world.settle()
    assert world.seeds == {0: b"digest-0"}


def test_no_engine_starts_before_its_cluster_is_restored() -> None:
    world = SnapshotWorld(restore=SNAPSHOT)
    restoring(world)
    for _ in range(20):
        world.tick()
        world.operate()
    assert Key("StatefulSet", "orders-0") not in world.kubernetes.objects
    assert world.status["phase"] == "Pending"


def test_a_failure_is_told_and_tried_again() -> None:
    world = SnapshotWorld(restore=SNAPSHOT)
    restoring(world)
    (job,) = world.open_jobs()
    world.end(job, {"failed": "s3://b has no snapshot orders-1", "broken": []}, failed=True)
    world.go_on(seconds=1)
    assert "no snapshot orders-1" in waits(world)["RestoreFailed"]
    assert world.status["blocked"]["reason"] == "RestoreFailed"
    assert world.open_jobs() == []
    world.kubernetes.now += AGAIN_AFTER
    world.go_on()
    (again,) = world.open_jobs()
    restored(world, again)
    world.settle()
    assert world.seeds == {0: b"digest-0"}


def test_the_retry_needs_no_news() -> None:
    world = SnapshotWorld(restore=SNAPSHOT)
    restoring(world)
    (job,) = world.open_jobs()
    world.end(job, {"failed": "away", "broken": []}, failed=True)
    again = world.plan().again
    assert again is not None
    assert again <= world.kubernetes.now + AGAIN_AFTER


def test_what_is_there_is_not_restored() -> None:
    world = SnapshotWorld()
    world.settle()
    world.change(restoreFrom=SNAPSHOT)
    world.settle()
    assert world.jobs == {}
    assert world.seeds == {0: b""}


def test_a_moment_is_read_from_the_log_of_the_cluster_that_it_is_of() -> None:
    world = SnapshotWorld(restore=MOMENT)
    for _ in range(30):
        world.tick()
        world.operate()
    assert world.open_jobs() == []
    assert "old" in waits(world)["RestoreFailed"], "it is not there"
    spec = spec_of(zones=["zone-a"], snapshots={"store": {"gcs": {"bucket": "theirs"}}})
    world.source = Source("old", spec, (UUID(int=1),))
    restoring(world)
    (job,) = world.open_jobs()
    wanted = told_to(job).restore
    assert wanted is not None
    [log] = wanted.logs
    assert wanted.store.gcs is not None
    assert (log.stream, log.generation) == ("old-0", UUID(int=1))
    assert log.servers == ["nats://old-log-0.old-log.shop.svc.cluster.local:4222"]
    secrets = [
        each["secret"] for each in job.manifest["spec"]["template"]["spec"]["volumes"] if "secret" in each
    ]
    (theirs,) = [each for each in secrets if each["secretName"] == "old-internal"]
    assert [each["key"] for each in theirs["items"]] == ["log-password"], "and nothing else of theirs"
    egress = world.kubernetes.objects[Key("NetworkPolicy", "orders-snapshot")]["spec"]["egress"]
    assert "old" in str(egress)


def test_into_other_shards_each_job_is_told_of_all_former_ones() -> None:
    world = SnapshotWorld(shards=2, restore=MOMENT)
    spec = spec_of(
        shards=3,
        zones=["zone-a"],
        engine={"resources": {"requests": {"memory": "48Gi"}}},
        snapshots={"store": {"gcs": {"bucket": "theirs"}}},
    )
    world.source = Source("old", spec, tuple(UUID(int=each) for each in (1, 2, 3)))
    restoring(world)
    world.go_on()
    jobs = sorted(world.open_jobs(), key=lambda job: told_to(job).shard)
    assert [told_to(job).slots for job in jobs] == [[(0, 8191)], [(8192, 16383)]]
    for job in jobs:
        wanted = told_to(job).restore
        assert wanted is not None
        assert [each.stream for each in wanted.logs] == ["old-0", "old-1", "old-2"]
        assert [each.generation for each in wanted.logs] == list(world.source.generations)
        assert complete([each.slots for each in wanted.logs])
        (container,) = job.manifest["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["requests"]["memory"] == "48Gi", "it loads a former shard"
        restored(world, job)
    world.settle()
    assert world.seeds == {0: b"digest-0", 1: b"digest-1"}


def test_what_lies_ahead_is_the_same_moment_for_all_shards() -> None:
    """The Jobs of some may begin an hour later, when there is more."""
    world = SnapshotWorld(shards=6, restore={"cluster": "old", "time": "2126-11-01T12:34:56Z"})
    spec = spec_of(zones=["zone-a"], snapshots={"store": {"gcs": {"bucket": "theirs"}}})
    world.source = Source("old", spec, (UUID(int=1),))
    restoring(world)
    moments = set()
    for _ in range(20):
        for job in world.open_jobs():
            wanted = told_to(job).restore
            assert wanted is not None
            moments.add(wanted.time)
            restored(world, job)
        world.kubernetes.now += timedelta(minutes=10)
        world.go_on()
    assert moments == {world.began}
    world.settle()
    assert len(world.seeds) == 6


def test_shards_that_are_not_of_one_piece_are_no_cluster() -> None:
    world = SnapshotWorld(shards=2, restore=SNAPSHOT)
    restoring(world)
    world.go_on()
    first, second = world.open_jobs()
    world.end(first, {"restored": "digest-0", "origin": "a" * 64})
    world.end(second, {"restored": "digest-1", "origin": "b" * 64})
    world.go_on()
    world.go_on()
    assert world.seeds == {}
    assert "Delete this MemoryCluster" in waits(world)["RestoreFailed"]


def test_a_log_that_somebody_restores_from_is_not_trimmed_and_can_be_reached() -> None:
    world = SnapshotWorld(shards=1)
    world.settle()
    world.ask("now")
    world.readers = ("newer",)
    world.go_on()
    (job,) = world.open_jobs()
    keep = told_to(job).keep
    assert keep is not None
    assert keep.held
    ingress = world.kubernetes.objects[Key("NetworkPolicy", "orders-log")]["spec"]["ingress"]
    assert "newer" in str(ingress)
    world.succeed(job, waits=True)
    world.go_on()
    assert world.open_jobs() == [], "to wait is of no use meanwhile"
    world.readers = ()
    world.kubernetes.now += timedelta(minutes=1)
    world.go_on()
    assert len(world.open_jobs()) == 1


def test_few_are_restored_at_once() -> None:
    world = SnapshotWorld(shards=6, restore=SNAPSHOT)
    restoring(world)
    for _ in range(10):
        world.go_on()
        world.check_jobs()
    for _ in range(20):
        for job in world.open_jobs():
            restored(world, job)
        world.go_on()
    world.settle()
    assert world.seeds == {shard: f"digest-{shard}".encode() for shard in range(6)}
