"""What may be trimmed, what may be deleted, when another one is due."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.snapshot.manifests import NOW, manifest

from memorycluster.snapshot.policy import (
    End,
    crowding,
    expired,
    kept_for_want_of_one,
    newest_first,
    pause,
    reaches_back,
    replay_bytes,
    replay_limit,
    trim_before,
    trims,
)

sequences = st.lists(st.integers(1, 1000), max_size=8)


@given(sequences, st.lists(st.integers(0, 1000), max_size=4))
def test_what_two_snapshots_do_not_hold_stays_and_what_is_being_read(
    made: list[int], reading: list[int]
) -> None:
    before = trim_before([manifest(each, offset=0) for each in made], reading)
    assert before >= 1
    gone = before - 1  # the last record that may go
    if gone:
        assert len({each for each in made if each >= gone}) >= 2
        assert all(gone <= each for each in reading)


def test_one_snapshot_trims_nothing_also_if_there_are_two_of_it() -> None:
    assert trim_before([], ()) == 1
    assert trim_before([manifest(10)], ()) == 1
    assert trim_before([manifest(10), manifest(10)], ()) == 1
    assert trim_before([manifest(10), manifest(20), manifest(15)], ()) == 16
    assert trim_before([manifest(10), manifest(20)], (7,)) == 8


def test_the_first_record_is_not_trimmed_alone() -> None:
    """It says which of the snapshots that end with it the log begins with."""
    made = [manifest(1, offset=0), manifest(20)]
    assert not trims(trim_before(made, ()), 1)
    assert kept_for_want_of_one(1000, 1, made, 100)
    assert trims(trim_before([*made, manifest(2)], ()), 1)


@given(st.lists(st.integers(1, 1000), max_size=12, unique=True), st.integers(1, 5), st.integers(0, 500))
def test_retention_keeps_what_count_or_age_or_the_log_wants(made: list[int], count: int, age: int) -> None:
    manifests = [manifest(each, offset=0) for each in made]
    now, limit = NOW + timedelta(seconds=1000), timedelta(seconds=age)
    gone = expired(manifests, count=count, age=limit, now=now)
    kept = [each for each in manifests if each not in gone]
    assert len(kept) >= min(max(count, 2), len(manifests))
    for each in gone:
        assert now - each.created_at > limit
        assert sum(other.sequence > each.sequence for other in kept) >= max(count, 2)
    assert trim_before(manifests, ()) == trim_before(kept, ())


def test_what_a_wrong_clock_has_made_expires_as_what_came_after_it() -> None:
    made = [
        manifest(1, offset=0),
        manifest(2, created_at=NOW + timedelta(days=400)),
        manifest(3),
        manifest(4, created_at=NOW + timedelta(days=400)),
        manifest(5, created_at=NOW + timedelta(days=400)),
        manifest(6, created_at=NOW + timedelta(days=400)),
    ]

    def gone(days: int) -> list[int]:
        now = NOW + timedelta(days=days)
        return sorted(
            each.sequence for each in expired(made, count=1, age=timedelta(days=7, hours=1), now=now)
        )

    assert gone(7) == []
    assert gone(8) == [1, 2, 3], "when the others were made is not known, but not long ago"


def test_what_is_spared_neither_expires_nor_makes_room() -> None:
    made = [manifest(each, name=f"s{each}", offset=0) for each in range(1, 6)]
    now = NOW + timedelta(days=1)
    gone = expired(made, count=1, age=timedelta(0), now=now, spared={"s2"})
    assert {each.sequence for each in gone} == {1, 3}
    assert {each.sequence for each in crowding(made, 0, spared={"s2"})} == {1, 3}


def test_what_a_user_asked_for_stays_and_many_writes_do_not_push_out_the_schedule() -> None:
    made = [
        manifest(1, offset=0, reason="user"),
        manifest(2, reason="replay"),
        manifest(3, reason="schedule"),
        *(manifest(each, reason="replay") for each in range(4, 10)),
    ]
    gone = expired(made, count=2, age=timedelta(0), now=NOW + timedelta(days=1))
    assert {each.sequence for each in gone} == {2, 4, 5, 6, 7}


def test_the_two_that_the_log_needs_are_two_positions() -> None:
    made = [manifest(10), manifest(20), manifest(20, name="again")]
    assert expired(made, count=1, age=timedelta(0), now=NOW + timedelta(days=1)) == []


def test_replay_counts_what_follows_the_newest_snapshot() -> None:
    assert replay_bytes(End(10, 1000), manifest(10)) == 0
    assert replay_bytes(End(11, 1500), manifest(10)) > 500
    assert replay_bytes(End(10, 1000), None) > 1000
    assert replay_bytes(End(5, 500), manifest(10)) == 0, "a log that is shorter than its snapshot"


def test_a_small_log_is_trimmed_in_time() -> None:
    assert replay_limit(256 << 20, 4 << 30) == 256 << 20
    assert replay_limit(256 << 20, 64 << 20) == 16 << 20


def test_another_snapshot_is_due_if_only_that_lets_the_log_be_trimmed() -> None:
    assert kept_for_want_of_one(400, 1, [manifest(10)], 100)
    assert not kept_for_want_of_one(300, 1, [manifest(10)], 100), "not that much"
    assert not kept_for_want_of_one(400, 1, [], 100), "the replay limit asks for the first one"
    assert kept_for_want_of_one(400, 11, [manifest(20), manifest(10)], 100)
    assert not kept_for_want_of_one(400, 5, [manifest(20), manifest(10)], 100), "a reader holds it"


def test_what_comes_to_nothing_is_done_again_ever_more_seldom() -> None:
    assert [pause(failures) for failures in (1, 2, 3)] == [15, 30, 60]
    assert pause(5) == pause(1000) == 240


def test_moments_that_can_be_restored_begin_with_the_first_snapshot_that_leads_into_the_log() -> None:
    made = [
        manifest(each, log_time=NOW + timedelta(seconds=each) if each != 20 else None)
        for each in (10, 20, 30, 40)
    ]
    assert reaches_back(1, made) == NOW + timedelta(seconds=10)
    assert reaches_back(11, made) == NOW + timedelta(seconds=10)
    assert reaches_back(12, made) == NOW + timedelta(seconds=30), "no moment of a record of unknown time"
    assert reaches_back(41, made) == NOW + timedelta(seconds=40)
    assert reaches_back(42, made) is None
    restored = manifest(1, offset=0, log_time=NOW - timedelta(days=300))
    assert reaches_back(1, [restored]) is None, "its time is that of what it was restored from"
    assert reaches_back(1, [restored, *made]) == NOW + timedelta(seconds=10)


sized = st.lists(
    st.tuples(st.integers(1, 1000), st.integers(1, 100), st.sampled_from(["schedule", "replay", "user"])),
    max_size=12,
    unique_by=lambda each: each[0],
)


@given(sized, st.integers(0, 800))
def test_what_crowds_goes_oldest_first_and_no_more_than_must(
    made: list[tuple[int, int, str]], room: int
) -> None:
    manifests = [manifest(each, size=size, reason=reason, offset=0) for each, size, reason in made]
    gone = crowding(manifests, room)
    kept = newest_first([each for each in manifests if each not in gone])
    assert len(kept) >= min(2, len(manifests))
    assert kept[:2] == newest_first(manifests)[:2]
    assert not any(each.reason == "user" for each in gone)
    may_go = [each for each in kept[2:] if each.reason != "user"]
    if may_go:  # then the next one has room
        assert sum(each.size for each in kept) + kept[0].size <= room
        assert all(each.sequence < may_go[-1].sequence for each in gone)
    if gone:
        last = max(gone, key=lambda each: each.sequence)
        assert sum(each.size for each in [*kept, last]) + kept[0].size > room
