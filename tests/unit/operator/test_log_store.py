"""Snapshots in the log service itself: whose default that is, the room for it, and what reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.operator.makings import STORE, SnapshotWorld, told_to
from tests.unit.operator.test_restore import restored, restoring, waits
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster.api.snapshots import SMALLEST, LogStore
from memorycluster_operator.identity import Identity
from memorycluster_operator.objects import build_objects
from memorycluster_operator.objects.names import selector
from memorycluster_operator.objects.store import store_of, with_default_store
from memorycluster_operator.plan import view_all
from memorycluster_operator.snapshot import Cluster, Component, Key, Source

GI = 1 << 30
IN_LOG: dict[str, Any] = {"s3": None, "credentials": None, "log": {}}
MADE_WITH, MADE_WITHOUT = (
    Identity.draw(UUID(int=1), [UUID(int=2)], log_store=each) for each in (True, False)
)


def cluster(**fields: Any) -> Cluster:
    return replace(World(spec_of(**fields)).snapshot().cluster)


def settled(**snapshots: Any) -> SnapshotWorld:
    world = SnapshotWorld(**{"store": {"log": {}}, **snapshots})
    world.settle()
    return world


class TestDefault:
    """Where snapshots are kept if the spec does not say."""

    def test_of_a_new_cluster_in_its_log_service(self) -> None:
        spec = with_default_store(cluster(shards=2), None).spec
        assert spec.snapshots.store.log == LogStore()
        assert spec.log_bytes == (2 + 1) * 4 * GI + 2 * 4 * GI
        assert spec.log_volume_bytes == spec.log_bytes * 5 // 4

    def test_of_one_that_was_made_without_nowhere(self) -> None:
        given = cluster()
        assert with_default_store(given, MADE_WITHOUT) == given
        assert store_of(given.spec) is None

    def test_of_one_whose_volumes_are_to_be_small_nowhere(self) -> None:
        given = cluster(log={"maxBytes": "1Gi", "storage": {"size": "2Gi"}})
        assert with_default_store(given, None) == given

    def test_a_new_cluster_with_another_store_gets_no_room_for_it(self) -> None:
        given = cluster(snapshots={"store": STORE})
        assert with_default_store(given, None) == given

    def test_one_that_has_it_gets_another_store_and_keeps_the_room_and_what_is_there(self) -> None:
        spec = with_default_store(cluster(snapshots={"store": STORE}), MADE_WITH).spec
        store = store_of(spec)
        assert store is not None
        assert store.s3 is not None
        assert store.log == LogStore()
        assert spec.log_bytes == 3 * 4 * GI

    @given(st.sampled_from([None, "2Gi", "3Gi", "20Gi"]), st.sampled_from([{}, STORE, {"log": {}}]))
    def test_no_member_may_store_more_than_its_volume_holds(
        self, size: str | None, store: dict[str, Any]
    ) -> None:
        log = {"maxBytes": "1Gi", "storage": {"size": size} if size else {}}
        if size == "2Gi" and "log" in store:
            return  # refused
        for identity in (None, MADE_WITH, MADE_WITHOUT):
            spec = with_default_store(cluster(log=log, snapshots={"store": store}), identity).spec
            assert spec.log_file_bytes <= spec.log_volume_bytes

    def test_the_identity_remembers_it(self) -> None:
        world = settled()
        identity = view_all(world.snapshot()).settled.identity
        assert identity is not None
        assert identity.log_store
        assert all(
            claim.identity and Identity.parse(claim.identity).log_store for claim in world.snapshot().claims
        )
        world = SnapshotWorld()
        world.settle()
        assert (identity := view_all(world.snapshot()).settled.identity)
        assert not identity.log_store


def test_what_an_older_operator_has_marked_is_read_and_stays_as_it_is() -> None:
    text = '{"uid":"00000000-0000-4000-8000-000000000001","shards":[]}'
    assert not Identity.parse(text).log_store


def test_jobs_are_told_how_much_the_log_service_may_hold_and_who_only_reads_is_not() -> None:
    world = settled()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    config = told_to(job)
    assert config.store.log is not None
    assert config.store.log.max_bytes == 4 * GI
    assert config.keep is not None
    assert config.keep.room == 4 * GI
    pods = {pod.uid for pod in world.pods(shard=0)}
    world.change(snapshots={"store": {"log": {"maxBytes": "8Gi"}}})
    world.settle()
    assert pods == {pod.uid for pod in world.pods(shard=0)}, "engines do not mind"


def test_beside_another_store_there_is_no_limit_but_the_room_stays() -> None:
    world = settled()
    world.change(snapshots={"store": STORE})
    world.settle()
    world.ask("now")
    world.go_on()
    (job,) = world.open_jobs()
    config = told_to(job)
    assert config.store.s3 is not None
    assert config.store.log is not None
    assert config.keep is not None
    assert config.keep.room is None


def test_no_snapshot_is_taken_before_each_volume_has_the_room_and_each_member_knows_it() -> None:
    world = SnapshotWorld()
    world.settle()
    for claim in world.kubernetes.claims.values():
        claim.expandable = False
    world.change(snapshots={"store": IN_LOG})
    world.ask("now")
    world.go_on(passes=20)
    assert world.jobs == {}
    assert "VolumeTooSmall" in waits(world)
    assert "each volume of the log must have" in world.told("now")["message"]


def test_a_store_that_is_there_goes_on_while_it_can_not_grow() -> None:
    world = settled()
    world.ask("first")
    world.go_on()
    for job in world.open_jobs():
        world.succeed(job)
    world.go_on()
    assert world.status["shards"][0]["snapshots"]["kept"]
    for claim in world.kubernetes.claims.values():
        claim.expandable = False
    world.change(snapshots={"store": {"log": {"maxBytes": "8Gi"}}})
    world.ask("second")
    world.go_on(passes=20)
    (job,) = world.open_jobs()
    config = told_to(job)
    assert config.store.log is not None
    assert config.store.log.max_bytes == SMALLEST, "which makes it no larger"
    assert "VolumeTooSmall" in waits(world)


def test_the_network_lets_them_read_another_clusters_snapshots() -> None:
    world = SnapshotWorld(restore={"snapshot": "old-1", "cluster": "old"}, store={"log": {}})
    built = dict(build_objects(view_all(world.snapshot()).inputs))
    to = built[Key("NetworkPolicy", f"{NAME}-snapshot")]["spec"]["egress"]
    peers = [peer["podSelector"]["matchLabels"] for rule in to for peer in rule.get("to", ())]
    assert selector("old", Component.LOG) in peers


@pytest.mark.parametrize("named", [{}, {"store": {"log": {}}}])
def test_a_snapshot_in_another_clusters_log_service_is_restored_from_there(named: dict[str, Any]) -> None:
    world = SnapshotWorld(restore={"snapshot": "old-1", "cluster": "old", **named}, store={"log": {}})
    for _ in range(30):
        world.tick()
        world.operate()
    assert world.jobs == {}
    assert "old is not there" in waits(world)["RestoreFailed"]
    spec = spec_of(snapshots={"store": {"log": {}}})
    world.source = Source("old", spec, (UUID(int=1),))
    restoring(world)
    (job,) = world.open_jobs()
    wanted = told_to(job).restore
    assert wanted is not None
    assert wanted.store.log is not None
    assert wanted.service is not None
    assert "old-log-0" in wanted.service.servers[0]
    volumes = job.manifest["spec"]["template"]["spec"]["volumes"]
    assert any("old" in str(each) for each in volumes), "with the password for it"
    restored(world, job)
    world.settle()


def test_one_in_a_bucket_that_only_the_other_cluster_names_can_be_reached() -> None:
    world = SnapshotWorld(restore={"snapshot": "old-1", "cluster": "old"}, store={"log": {}})
    spec = spec_of(snapshots={"store": {"s3": {"bucket": "b", "endpoint": "http://minio:9000"}}})
    world.source = Source("old", spec, (UUID(int=1),))
    restoring(world)
    (job,) = world.open_jobs()
    wanted = told_to(job).restore
    assert wanted is not None
    assert wanted.store.s3 is not None
    egress = world.kubernetes.objects[Key("NetworkPolicy", f"{NAME}-snapshot")]["spec"]["egress"]
    assert any(port["port"] == 9000 for rule in egress for port in rule["ports"])


def test_of_which_cluster_it_is_must_be_said() -> None:
    world = SnapshotWorld(restore={"snapshot": "old-1"}, store={"log": {}})
    for _ in range(30):
        world.tick()
        world.operate()
    assert world.jobs == {}
    assert "name the cluster" in waits(world)["RestoreFailed"]


def test_one_in_a_bucket_needs_no_cluster_that_is_there() -> None:
    world = SnapshotWorld(restore={"snapshot": "old-1", "cluster": "old", "store": STORE}, store={"log": {}})
    restoring(world)
    (job,) = world.open_jobs()
    assert (wanted := told_to(job).restore)
    assert wanted.store.s3 is not None
    assert wanted.service is None


def test_an_operator_that_knows_of_it_rolls_no_pod_of_a_cluster_that_does_not() -> None:
    world = World(spec_of(shards=1))
    world.settle()
    before = dict(world.kubernetes.objects)
    seen = world.snapshot()
    identity = view_all(seen).settled.identity
    assert with_default_store(seen.cluster, identity) == seen.cluster
    assert Key("NetworkPolicy", f"{seen.cluster.name}-snapshot") not in before
