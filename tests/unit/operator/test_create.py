"""From nothing, from what is left, and in the way of others."""

from dataclasses import replace
from uuid import UUID

import pytest
from tests.unit.operator.kubernetes import SimClaim
from tests.unit.operator.world import NAME, World, spec_of

from memorycluster_operator.actions import ApplyObject, CreateLog, SaveIdentity, StampClaim
from memorycluster_operator.identity import Identity
from memorycluster_operator.plan import make_plan
from memorycluster_operator.snapshot import Component, Key, Snapshot


def made(**fields: object) -> World:
    world = World(spec_of(**fields))
    world.settle()
    return world


def reasons(world: World) -> list[str]:
    return [wait.reason for wait in world.plan().waits]


def begin_again(world: World) -> None:
    """Delete everything but the log's claims, and apply the same manifest again."""
    world.kubernetes.objects.clear()
    world.kubernetes.pods.clear()
    world.database.engines.clear()
    for data in world.database.shards.values():
        data.leader = ""
    world.status, world.seen, world.uid, world.generation = {}, {}, "cluster-2", 1


def test_a_cluster_is_made_from_nothing_and_then_left_in_peace() -> None:
    world = made(shards=2)
    assert world.status["phase"] == "Ready"
    assert world.status["shardsReady"] == "2/2"
    for _ in range(10):
        world.tick(3600)
        assert world.operate().actions == ()


def test_a_claim_that_is_being_bound_is_left_alone() -> None:
    """A change of it makes the scheduler begin again, and its pod wait."""
    world = World(spec_of())
    for _ in range(60):
        world.tick()
        seen = world.snapshot()
        if stamps(seen):
            break
        world.operate()
    unbound = [replace(claim, phase="Pending", capacity=None) for claim in seen.claims]
    assert not stamps(replace(seen, claims=tuple(unbound)))
    assert len(stamps(seen)) == len(seen.claims) == 3


def stamps(seen: Snapshot) -> list[StampClaim]:
    return [each for each in make_plan(seen).actions if isinstance(each, StampClaim)]


def test_things_are_made_in_an_order_in_which_nothing_can_be_guessed() -> None:
    """Identity stored, then on every volume, then the log, its marks on the volumes, in the status,
    engines."""
    world = World(spec_of())
    order = []
    for _ in range(60):
        world.tick()
        plan = world.operate()
        for action in plan.actions:
            match action:
                case SaveIdentity() | StampClaim():
                    order.append(f"{type(action).__name__} {'made' if action.identity.made else 'drawn'}")
                case CreateLog():
                    order.append("CreateLog")
                case ApplyObject() if action.key.kind == "StatefulSet":
                    order.append(action.key.name)
    first = list(dict.fromkeys(order))
    assert first == [
        "SaveIdentity drawn",
        f"{NAME}-log",
        "StampClaim drawn",
        "CreateLog",
        "StampClaim made",
        "SaveIdentity made",
        f"{NAME}-0",
    ]
    assert order.count("CreateLog") == order.count("SaveIdentity drawn") == 1


def test_everything_but_the_volumes_is_deleted_and_all_data_are_found_again() -> None:
    world = made(shards=2)
    identity = Identity.model_validate(world.status["identity"])
    config = world.kubernetes.objects[Key("ConfigMap", f"{NAME}-config")]["data"]
    written = {shard: data.committed for shard, data in world.database.shards.items()}
    begin_again(world)
    world.settle()
    assert Identity.model_validate(world.status["identity"]) == identity
    assert world.kubernetes.objects[Key("ConfigMap", f"{NAME}-config")]["data"] == config, "node ids too"
    assert all(data.committed >= written[shard] for shard, data in world.database.shards.items())


def test_two_operators_at_once_make_one_log() -> None:
    world = World(spec_of())
    plans = [world.plan(), world.plan()]
    drawn = [action.identity for plan in plans for action in plan.actions if isinstance(action, SaveIdentity)]
    assert drawn[0].uid != drawn[1].uid
    for plan in plans:
        for action in plan.actions:
            world.attempt(action)
    assert Identity.model_validate(world.status["identity"]) == drawn[0]
    world.settle()


def test_all_pods_deleted_at_once_come_back() -> None:
    world = made(shards=2)
    for pod in list(world.kubernetes.pods.values()):
        world.kubernetes.delete_pod(pod.name, pod.uid, str(pod.version))
    world.settle()


def test_volumes_of_different_clusters_are_refused() -> None:
    world, other = made(), World(spec_of(), seed=7)
    other.settle()
    begin_again(world)
    world.claim_of(1).identity = other.claim_of(1).identity
    for _ in range(20):
        world.tick()
        world.operate()
    assert "IdentityConflict" in reasons(world)
    assert not world.pods()
    assert world.status["blocked"]["reason"] == "IdentityConflict"
    assert f"data-{NAME}-log-1" in world.status["message"]


def test_volumes_of_another_cluster_than_the_status_says_are_refused() -> None:
    world, other = made(), World(spec_of(), seed=7)
    other.settle()
    for index in range(3):
        world.claim_of(index).identity = other.claim_of(index).identity
    assert "IdentityConflict" in reasons(world)
    assert not [
        action for action in world.plan().actions if isinstance(action, SaveIdentity | StampClaim | CreateLog)
    ]


def test_a_mark_that_cannot_be_read_is_refused() -> None:
    world = made()
    world.claim_of(0).identity = "{}"
    assert "IdentityConflict" in reasons(world)
    assert not world.plan().actions


def test_volumes_that_are_gone_are_not_replaced_by_empty_ones() -> None:
    """The MemoryCluster remembers that there was a log; its volumes are not there."""
    world = made()
    status = world.status
    begin_again(world)
    world.status = status
    world.kubernetes.claims.clear()
    for _ in range(20):
        world.tick()
        world.operate()
    assert "LogVolumesMissing" in reasons(world)
    assert Key("StatefulSet", f"{NAME}-log") not in world.kubernetes.objects


@pytest.mark.parametrize("left", [1, 2])
def test_the_log_is_not_started_with_an_empty_volume_that_would_have_a_vote(left: int) -> None:
    """Two of three acknowledge: one that lags and one that is empty would outvote the one with the newest
    writes."""
    world = made()
    begin_again(world)
    for index in range(left, 3):
        del world.kubernetes.claims[f"data-{NAME}-log-{index}"]
    for _ in range(20):
        world.tick()
        world.operate()
    assert "LogVolumesMissing" in reasons(world)
    assert f"{NAME}-log-2" in world.status["message"]
    assert not world.pods()
    # A human who knows that it is lost for good says so, by making it.
    for index in range(left, 3):
        name, fresh = f"data-{NAME}-log-{index}", world.kubernetes.fresh
        size = world.claim_of(0).size
        accepted = SimClaim(name, f"uid-{fresh()}", fresh(), index, size, world.kubernetes.now, capacity=size)
        accepted.identity = world.claim_of(0).identity
        accepted.copies = dict(world.claim_of(0).copies)
        world.kubernetes.claims[name] = accepted
    world.settle()


def test_a_new_volume_is_marked_only_once_its_member_has_everything() -> None:
    world = made()
    claim = world.claim_of(2)
    claim.identity, claim.copies = None, {}
    assert not [action for action in world.plan().actions if isinstance(action, StampClaim)]
    world.settle()
    assert claim.identity == world.claim_of(0).identity


def test_marks_that_somebody_removed_are_written_again_as_the_log_proves_them() -> None:
    world = made()
    before = world.claim_of(0).identity
    for index in range(3):
        world.claim_of(index).identity = None
    world.settle()
    assert [world.claim_of(index).identity for index in range(3)] == [before] * 3


@pytest.mark.parametrize("going", ["terminating", "owners"])
def test_what_goes_with_a_deleted_cluster_is_waited_for_and_says_nothing_of_the_new_one(going: str) -> None:
    """CNPG#5233, #10985: deleted with deletionPolicy Delete, and applied again at once."""
    world = made()
    begin_again(world)
    for index in range(3):
        setattr(world.claim_of(index), going, ({"uid": "another"},) if going == "owners" else True)
    for _ in range(5):
        world.tick()
        world.operate()
    assert "ClaimTerminating" in reasons(world)
    assert not world.pods()
    assert "identity" not in world.status
    world.kubernetes.claims.clear()
    for data in world.database.shards.values():
        data.generation, data.committed = None, 0
    world.identity = None
    world.settle()


def test_a_terminating_claim_is_waited_for_and_never_made_anew() -> None:
    world = made()
    begin_again(world)
    world.claim_of(0).terminating = True
    for _ in range(5):
        world.tick()
        world.operate()
    assert "ClaimTerminating" in reasons(world)
    assert not world.pods()


def test_objects_of_a_deleted_predecessor_are_waited_for_without_an_alarm() -> None:
    world = World(spec_of())
    world.foreign = {Key("StatefulSet", f"{NAME}-log"): f"MemoryCluster {NAME}"}
    for _ in range(5):
        world.tick()
        world.operate()
    assert world.status["blocked"]["reason"] == "ObjectTerminating"
    assert not world.pods()


def test_another_number_of_shards_or_zones_than_the_volumes_have_is_refused() -> None:
    world = made(shards=2)
    begin_again(world)
    world.spec = spec_of(shards=3)
    assert "ShardsDiffer" in reasons(world)
    world.spec = spec_of(shards=2, zones=["zone-a"])
    assert "ZonesDiffer" in reasons(world)
    assert not [action for action in world.plan().actions if isinstance(action, CreateLog | StampClaim)]


def test_a_log_that_was_made_is_never_made_again() -> None:
    world = made()
    world.database.shards[0].gone = True
    for _ in range(20):
        world.tick()
        plan = world.operate()
        assert not [action for action in plan.actions if isinstance(action, CreateLog)]
    assert world.status["blocked"]["reason"] == "LogMissing"
    assert [each["status"] for each in world.status["conditions"] if each["type"] == "LogIntact"] == ["False"]


def test_nothing_is_made_while_the_cluster_is_being_deleted() -> None:
    """valkey#364: a foreground deletion never ends when what was deleted is made again."""
    world = made()
    world.deleting = True
    world.kubernetes.objects.pop(Key("StatefulSet", f"{NAME}-0"))
    assert world.plan().actions == ()
    young = World(spec_of())
    young.deleting = True
    assert young.plan().actions == ()


@pytest.mark.parametrize("key", [Key("Secret", f"{NAME}-internal"), Key("StatefulSet", f"{NAME}-0")])
def test_what_is_somebody_elses_is_never_touched(key: Key) -> None:
    world = World(spec_of())
    world.foreign = {key: "Deployment web"}
    for _ in range(20):
        world.tick()
        for action in world.operate().actions:
            assert not (isinstance(action, ApplyObject) and action.key == key)
    assert not world.pods()
    assert world.status["blocked"]["reason"] == "NameConflict"
    assert f"{key} (of Deployment web)" in world.status["message"]
    world.foreign = {}
    world.settle()


def test_a_secret_that_vanishes_comes_back_with_the_same_values() -> None:
    world = made()
    for name in (f"{NAME}-internal", f"{NAME}-log"):
        before = world.kubernetes.objects.pop(Key("Secret", name))["data"]
        world.seen = {}  # the other Secret has a copy
        world.settle()
        assert world.kubernetes.objects[Key("Secret", name)]["data"] == before


def test_passwords_that_somebody_changes_are_put_back_while_something_runs_with_the_old_ones() -> None:
    """Half of a rotation would cost the log's majority: servers that restart would be alone with it."""
    for name in (f"{NAME}-internal", f"{NAME}-log"):
        world = made()
        before = {key: world.kubernetes.objects[key]["data"] for key in KEYS}
        changed = world.kubernetes.objects[Key("Secret", name)]
        changed["data"] = {**changed["data"], "log-password": "bXkgb3du"}
        world.settle()
        assert {key: world.kubernetes.objects[key]["data"] for key in KEYS} == before


KEYS = [Key("Secret", f"{NAME}-internal"), Key("Secret", f"{NAME}-log")]


def test_lost_secrets_are_not_drawn_anew_while_something_runs_with_them() -> None:
    world = made()
    for key in KEYS:
        del world.kubernetes.objects[key]
    kept = world.seen
    world.seen = {}
    assert "SecretMissing" in reasons(world)
    assert not [action for action in world.plan().actions if isinstance(action, ApplyObject)]
    world.seen = kept
    assert {action.key for action in world.plan().actions if isinstance(action, ApplyObject)} >= {KEYS[0]}
    world.seen = {}
    for pod in list(world.kubernetes.pods.values()):
        world.kubernetes.delete_pod(pod.name, pod.uid, str(pod.version))
    world.settle()


def test_a_plan_draws_nothing_by_itself() -> None:
    snapshot = World(spec_of()).snapshot()
    assert make_plan(snapshot) == make_plan(snapshot)
    drawn = next(action for action in make_plan(snapshot).actions if isinstance(action, SaveIdentity))
    assert isinstance(drawn.identity.uid, UUID)


def test_a_broken_first_image_is_put_right() -> None:
    for image in ("engine:unpullable", "engine:broken", "engine:crashing"):
        world = World(spec_of(engine={"image": image}))
        for _ in range(40):
            world.tick()
            world.operate()
        assert world.status["phase"] == "Pending"
        world.change(engine={"image": "engine:1"})
        world.settle()
        assert {pod.image for pod in world.pods(Component.ENGINE)} == {"engine:1"}
