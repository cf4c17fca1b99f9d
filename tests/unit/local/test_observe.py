from datetime import UTC, datetime
from typing import Any

from memorycluster.api.status import MemoryClusterStatus, Phase, Role, RottenRecord
from memorycluster.api.topology import Address, build_topology
from memorycluster.local.observe import Answer, build_status

THEN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
PORTS = {f"demo-{shard}-{index}": 7000 + 2 * shard + index for shard in (0, 1) for index in (0, 1)}
TOPOLOGY = build_topology(
    "demo",
    "uid",
    shards=2,
    nodes_per_shard=2,
    zones=["a", "b", "c"],
    address=lambda name: Address("127.0.0.1", PORTS[name], PORTS[name] + 100),
)


def said(role: str, **more: Any) -> dict[str, Any]:
    """Return what an agent says that has nothing to complain of."""
    answer = {
        "role": role,
        "epoch": 3,
        "committed": 100,
        "applied": 100,
        "end": 100,
        "lag": 0,
        "lease": 4.2,
        "ready": True,
        "message": "",
        "log": None,
    }
    return answer | more


def log(*current: bool, last: int = 7) -> dict[str, Any]:
    members = [
        {"name": f"log-{i}", "zone": "abc"[i], "leader": i == 0, "current": each, "lag": 0}
        for i, each in enumerate(current)
    ]
    return {"firstSequence": 1, "lastSequence": last, "bytes": 10, "maxBytes": 99, "members": members}


HEALTHY: dict[str, Answer] = {
    "demo-0-0": said("leader", log=log(True, True, True)),
    "demo-0-1": said("follower", lease=None),
    "demo-1-0": said("follower", lease=None),
    "demo-1-1": said("leader", epoch=5, log=log(True, True, True)),
}


def status(
    answers: dict[str, Answer], before: MemoryClusterStatus | None = None, now: datetime = NOW
) -> MemoryClusterStatus:
    return build_status(TOPOLOGY, answers, generation=1, before=before, now=now)


def conditions(seen: MemoryClusterStatus) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in seen.conditions}


def test_healthy() -> None:
    seen = status(HEALTHY)
    assert seen.phase is Phase.READY
    assert [shard.primary for shard in seen.shards] == ["demo-0-0", "demo-1-1"]
    assert [shard.epoch for shard in seen.shards] == [3, 5]
    assert [shard.slots for shard in seen.shards] == [["0-8191"], ["8192-16383"]]
    assert seen.endpoints == [f"127.0.0.1:{port}" for port in (7000, 7001, 7002, 7003)]
    assert conditions(seen) == {"Ready": ("True", "AllShardsServe"), "Redundant": ("True", "AllPartsCurrent")}


def test_the_shape_is_that_of_kubernetes() -> None:
    shape = status(HEALTHY).model_dump(mode="json", by_alias=True)
    assert (shape["observedGeneration"], shape["phase"], len(shape["endpoints"])) == (1, "Ready", 4)
    assert (shape["shardsReady"], shape["primaryZones"], shape["logMembersReady"]) == ("2/2", "a,c", "3/3")
    assert (shape["replicasPerShard"], shape["message"]) == (1, "2 of 2 shards serve")
    assert set(shape["conditions"][0]) > {"type", "status", "reason", "message", "lastTransitionTime"}
    node = shape["shards"][0]["nodes"][0]
    assert (node["role"], node["committedOffset"], node["appliedOffset"], node["lease"]) == (
        "primary",
        100,
        100,
        4.2,
    )
    assert set(shape["shards"][0]["log"]) == {"firstSequence", "lastSequence", "bytes", "maxBytes", "members"}


def test_a_silent_replica_degrades() -> None:
    seen = status({name: answer for name, answer in HEALTHY.items() if name != "demo-0-1"})
    assert seen.phase is Phase.DEGRADED
    assert seen.shards[0].nodes[1].role is Role.UNKNOWN
    assert conditions(seen)["Ready"][0] == "True"
    assert seen.conditions[1].message == "demo-0-1: the agent does not answer"


def test_a_log_member_behind_degrades() -> None:
    seen = status({**HEALTHY, "demo-0-0": said("leader", log=log(True, False, True))})
    assert seen.phase is Phase.DEGRADED
    assert seen.conditions[1].message == "shard 0: log member log-1 is not current"


def test_what_any_reader_finds_rotten_degrades() -> None:
    found = [{"log": "demo-0", "member": "log-2", "record": 9, "reason": "log record 9: missing"}]
    seen = status({**HEALTHY, "demo-0-1": said("follower", lease=None, rotten=found)})
    assert seen.phase is Phase.DEGRADED
    assert seen.conditions[1].message == "shard 0: log member log-2 is rotten: log record 9: missing"
    assert seen.shards[0].log is not None
    assert [member.rotten for member in seen.shards[0].log.members] == [
        None,
        None,
        RottenRecord(record=9, reason="log record 9: missing"),
    ]


def test_a_lapsed_leader_does_not_serve() -> None:
    lapsed = {**HEALTHY, "demo-0-0": said("leader", ready=False, lease=0.0, message="the lease has lapsed")}
    seen = status(lapsed, before=status(HEALTHY))
    assert seen.phase is Phase.UNAVAILABLE
    assert seen.shards[0].primary is None
    assert seen.conditions[0].message == "no primary serves shard 0: the lease has lapsed"


def test_before_it_was_ever_ready_it_is_pending() -> None:
    first = status({})
    assert first.phase is Phase.PENDING
    assert status({}, before=first).phase is Phase.PENDING
    assert status({}, before=status(HEALTHY)).phase is Phase.UNAVAILABLE
    assert status({}, before=status({}, before=status(HEALTHY))).phase is Phase.UNAVAILABLE


def test_of_two_that_say_they_lead_the_newer_epoch_counts() -> None:
    both = {**HEALTHY, "demo-0-0": said("leader", epoch=3), "demo-0-1": said("leader", epoch=4)}
    assert status(both).shards[0].primary == "demo-0-1"


def test_a_frozen_node_is_never_primary() -> None:
    seen = status(
        {**HEALTHY, "demo-0-0": said("frozen", ready=False, message="the log lacks what was promised")}
    )
    assert seen.shards[0].primary is None
    assert seen.shards[0].nodes[0].role is Role.FROZEN


def test_the_leaders_view_of_the_log_counts() -> None:
    views = {
        **HEALTHY,
        "demo-0-0": said("leader", log=log(True, True, True, last=7)),
        "demo-0-1": said("follower", log=log(True, True, False, last=9)),
    }
    shown = status(views).shards[0].log
    assert shown is not None
    assert shown.last_sequence == 7


def test_conditions_keep_the_time_of_their_last_transition() -> None:
    before = status(HEALTHY, now=THEN)
    degraded = status({**HEALTHY, "demo-0-1": said("starting", ready=False)}, before=before, now=NOW)
    times = {each.type: each.last_transition_time for each in degraded.conditions}
    assert times == {"Ready": THEN, "Redundant": NOW}
