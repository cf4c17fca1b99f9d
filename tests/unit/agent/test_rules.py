"""The rules of leadership (docs/architecture.md, *Leadership*), each by the story that it is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.agent.hand import GENERATION, LEASE, MINE, MS, SECOND, THEIRS, Hand, unit

from memorycluster.agent import machine as machine_module
from memorycluster.agent.actions import (
    Alarm,
    Append,
    AskEngine,
    Commit,
    EndEngine,
    Freeze,
    Lease,
    Promote,
    ReadLast,
    ReadNext,
    Reads,
    Revoke,
    Writes,
)
from memorycluster.agent.machine import Machine, Phase
from memorycluster.log.chain import Position
from memorycluster.log.record import Flags, Kind


def stream(hand: Hand, received: int, *ends: int) -> None:
    hand.did(hand.machine.stream(hand.now, received, list(ends)))


# ---------------------------------------------------------------------- claims


def test_the_first_claim_needs_no_wait() -> None:
    hand = Hand()
    hand.up()
    hand.end()
    claim = hand.flight()
    assert (claim.kind, claim.epoch, claim.sequence, claim.start, claim.text) == (Kind.CLAIM, 1, 2, 0, "a")
    assert claim.crc == hand.position.unit_crc


def test_nothing_is_claimed_before_the_log_has_been_read() -> None:
    hand = Hand()
    hand.log.clear()  # The stream is there, and its first record is not.
    hand.up()
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.FOLLOWING


def test_a_follower_waits_1_2_leases_after_the_last_record() -> None:
    hand = Hand().following()
    hand.quiet(6 * SECOND - 250 * MS)
    assert hand.phase() is Phase.FOLLOWING
    hand.quiet(250 * MS)
    assert hand.phase() is Phase.CLAIMING
    assert hand.flight().epoch == 2
    assert hand.flight().start == 100


def test_a_record_restarts_the_wait() -> None:
    hand = Hand().following()
    hand.quiet(5 * SECOND)
    hand.write(Kind.RENEW)
    hand.end()
    hand.quiet(6 * SECOND - 250 * MS)
    assert hand.phase() is Phase.FOLLOWING
    hand.quiet(250 * MS)
    assert hand.phase() is Phase.CLAIMING


def test_the_wait_starts_anew_when_the_log_becomes_readable_again() -> None:
    hand = Hand().following()
    hand.wait(60 * SECOND)  # Nobody could renew, or read that somebody did.
    hand.end()
    assert hand.phase() is Phase.FOLLOWING
    hand.quiet(6 * SECOND - 250 * MS)
    assert hand.phase() is Phase.FOLLOWING
    hand.quiet(250 * MS)
    assert hand.phase() is Phase.CLAIMING


def test_an_unreadable_log_restarts_the_wait_at_once() -> None:
    hand = Hand().following()
    hand.quiet(5 * SECOND)
    hand.machine.log_unreadable()
    hand.quiet(6 * SECOND)
    assert hand.phase() is Phase.FOLLOWING
    hand.quiet(250 * MS)
    assert hand.phase() is Phase.CLAIMING


def test_an_end_that_was_confirmed_long_ago_is_no_base_for_a_claim() -> None:
    hand = Hand().following()
    hand.quiet(5 * SECOND)
    hand.wait(2 * SECOND)
    hand.tick()
    assert hand.phase() is Phase.FOLLOWING


def test_who_has_not_applied_the_log_to_its_end_does_not_claim() -> None:
    hand = Hand()
    hand.write(Kind.CLAIM, b"b")
    hand.write(Kind.DATA, unit(100))
    hand.up(hand.engine(99))
    hand.end()
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.FOLLOWING
    assert hand.of(AskEngine)
    hand.answer(100)
    assert hand.phase() is Phase.CLAIMING


def test_no_claim_without_an_engine() -> None:
    hand = Hand().following()
    hand.machine.engine_lost(hand.now)
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.FOLLOWING


def test_two_claimants_with_the_same_tail_the_refused_one_follows() -> None:
    hand = Hand().claiming()
    hand.send()
    hand.write(Kind.CLAIM, b"b")
    hand.did(hand.machine.append_refused(hand.now))
    assert not hand.actions
    assert hand.phase() is Phase.FOLLOWING
    assert hand.machine.epoch == 0
    hand.end()
    hand.quiet(6 * SECOND - 250 * MS)
    assert hand.phase() is Phase.FOLLOWING, "the winner gets its time"


def test_a_refused_claimant_waits_although_it_has_not_read_why() -> None:
    hand = Hand().following()
    hand.quiet(6 * SECOND)
    hand.send()
    hand.machine.append_refused(hand.now)
    hand.quiet(SECOND)
    assert hand.phase() is Phase.FOLLOWING


def test_the_loser_may_claim_the_next_epoch() -> None:
    hand = Hand().claiming()
    mine = hand.send()
    hand.write(Kind.CLAIM, b"b")
    hand.machine.append_refused(hand.now)
    hand.end()
    hand.quiet(6 * SECOND - 250 * MS)
    assert hand.phase() is Phase.FOLLOWING
    hand.quiet(500 * MS)
    assert hand.flight().epoch == mine.epoch + 1


def test_own_claim_read_by_the_tail_before_its_ack() -> None:
    hand = Hand().claiming()
    claim = hand.send()
    hand.land(claim)
    hand.read()
    assert hand.phase() is Phase.CLAIMING
    hand.did(hand.machine.append_done(hand.now, claim))
    assert hand.of(Promote) == [Promote(1, 0)]
    assert hand.machine.position == hand.position


def test_a_claim_after_mine_was_read_before_my_ack() -> None:
    hand = Hand().claiming()
    claim = hand.send()
    hand.land(claim)
    hand.write(Kind.CLAIM, b"b")
    hand.read()
    hand.did(hand.machine.append_done(hand.now, claim))
    assert not hand.actions
    assert hand.phase() is Phase.FOLLOWING


def test_an_engine_that_moved_while_the_claim_was_in_flight_is_not_promoted() -> None:
    hand = Hand().claiming()
    hand.machine.engine_exited(hand.now)
    hand.up(hand.engine(0))
    hand.machine.engine = hand.engine(7)
    hand.commit()
    assert not hand.of(Promote)
    assert hand.flight().kind is Kind.RELEASE
    assert hand.flight().epoch == 1


def test_an_engine_that_died_while_the_claim_was_in_flight_gives_leadership_away() -> None:
    hand = Hand().claiming()
    hand.machine.engine_exited(hand.now)
    hand.commit()
    assert hand.flight().kind is Kind.RELEASE


def test_a_claim_voids_an_open_unit() -> None:
    hand = Hand().following()
    hand.write(Kind.DATA, unit(50), flags=Flags.CONTINUES)
    hand.read()
    hand.quiet(7 * SECOND)
    assert hand.flight().start == 100
    assert hand.flight().crc == hand.position.unit_crc != hand.position.open_crc
    hand.commit()
    assert hand.of(Promote) == [Promote(2, 100)]


# ---------------------------------------------------------------------- the lease


def test_no_lease_before_the_first_record_of_the_epoch_commits() -> None:
    hand = Hand().promoting()
    assert not hand.of(Lease)
    hand.tick()
    assert not hand.actions
    hand.did(hand.machine.engine_promoted(hand.now))
    assert not hand.of(Lease)
    assert not hand.of(Writes)
    assert hand.flight().kind is Kind.RENEW
    sent = hand.boot
    hand.commit(after=3 * MS)
    assert hand.of(Lease) == [Lease(1, sent + LEASE)]


def test_the_lease_runs_from_the_first_send_not_from_the_ack() -> None:
    hand = Hand().leading()
    hand.wait(SECOND)
    stream(hand, 10, 10)
    sent = hand.boot
    hand.commit(after=3 * SECOND)
    assert hand.of(Lease) == [Lease(1, sent + LEASE)]


def test_a_retried_append_does_not_stretch_the_lease() -> None:
    hand = Hand().leading()
    hand.wait(SECOND)
    stream(hand, 10, 10)
    sent = hand.boot
    hand.send()
    hand.wait(2 * SECOND)
    hand.commit()  # Sends it again.
    assert hand.of(Lease) == [Lease(1, sent + LEASE)]


def test_an_append_that_took_longer_than_the_lease_gives_none() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    hand.commit(after=LEASE)
    assert not hand.of(Lease)
    assert hand.of(Commit) == [Commit(10)]
    assert not hand.machine.serving(hand.now)


def test_a_lapsed_leader_resumes_once_a_fresh_record_commits() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    hand.commit(after=2 * LEASE)
    hand.answer()
    assert hand.phase() is Phase.LEADING
    assert hand.flight().kind is Kind.RENEW
    sent = hand.boot
    hand.commit()
    assert hand.of(Lease) == [Lease(1, sent + LEASE)]
    assert hand.machine.serving(hand.now)


def test_an_idle_leader_renews_well_before_its_lease_ends() -> None:
    hand = Hand().leading()
    for _ in range(20):
        hand.wait(200 * MS)
        hand.answer()
        hand.tick()
        if hand.machine.in_flight:
            assert hand.flight().kind is Kind.RENEW
            hand.commit()
            assert hand.of(Lease)
        assert hand.machine.deadline - hand.boot > LEASE // 2


def test_time_alone_renews_if_the_engine_has_answered() -> None:
    hand = Hand().leading()
    hand.wait(900 * MS)
    hand.answer()
    assert not hand.actions
    hand.wait(100 * MS)
    hand.tick()
    renewal = hand.flight()
    assert (renewal.kind, renewal.start, renewal.end, renewal.sequence) == (Kind.RENEW, 0, 0, 4)


def test_leases_are_sent_when_they_are_worth_it() -> None:
    hand = Hand().leading()
    hand.wait(200 * MS)
    stream(hand, 10, 10)
    hand.commit()
    assert not hand.of(Lease), "it would end a moment later than the one before"
    hand.wait(100 * MS)
    stream(hand, 20, 20)
    hand.commit()
    assert hand.of(Lease)


def test_a_lapsed_leader_gets_even_a_moment() -> None:
    hand = Hand().leading()
    hand.wait(200 * MS)
    sent = hand.boot
    stream(hand, 10, 10)
    hand.commit(after=LEASE - 100 * MS)
    assert hand.of(Lease) == [Lease(1, sent + LEASE)]


def test_an_append_that_was_never_sent_gives_no_lease() -> None:
    hand = Hand().leading()
    hand.wait(SECOND)
    stream(hand, 10, 10)
    record = hand.record(hand.flight())
    hand.did(hand.machine.append_done(hand.now, record))
    assert hand.of(Commit)
    assert not hand.of(Lease)


def test_a_second_answer_to_the_same_append_is_ignored() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    record = hand.send()
    hand.land(record)
    hand.machine.append_done(hand.now, record)
    assert not hand.machine.append_done(hand.now, record)
    stream(hand, 20, 20)
    assert not hand.machine.append_done(hand.now, record)
    assert hand.flight().sequence == record.sequence + 1


def test_what_the_reader_says_does_not_concern_a_leader() -> None:
    hand = Hand().leading()
    hand.quiet(20 * SECOND)
    assert not hand.actions
    for _ in range(100):
        hand.wait(250 * MS)
        assert not hand.machine.log_end(hand.now, 1)
        assert not hand.machine.log_too_short(1)
    assert not hand.machine.log_corrupt("rotten")
    assert not hand.machine.engine_promoted(hand.now)
    assert not hand.machine.engine_failed(hand.now, "late")
    assert hand.phase() is Phase.LEADING


def test_an_own_record_that_does_not_follow_freezes_and_silences() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    record = replace(hand.send(), start=5)
    hand.did(hand.machine.append_done(hand.now, record))
    assert hand.phase() is Phase.FROZEN
    assert hand.of(Revoke) == [Revoke(1)]
    assert [reads.allowed for reads in hand.of(Reads)] == [False]


def test_a_frozen_engine_under_a_live_agent_loses_the_lease() -> None:
    hand = Hand().leading()
    for _ in range(60):
        hand.wait(100 * MS)
        hand.tick()
        assert hand.machine.in_flight is None, "renewed, and the engine has not answered"
    assert not hand.machine.serving(hand.now)


def test_an_answer_asked_for_before_the_last_record_proves_nothing() -> None:
    hand = Hand().leading()
    asked = hand.machine.renewed.boot if hand.machine.renewed else 0
    hand.wait(4 * SECOND)
    hand.did(hand.machine.engine_answered(hand.now, asked, hand.engine(leads=1)))
    assert not hand.actions
    hand.answer()
    assert hand.of(Append)


def test_a_clock_jump_during_an_append_voids_its_lease() -> None:
    hand = Hand().leading()
    hand.wait(2 * SECOND)
    hand.answer()
    record = hand.send()
    hand.land(record)
    hand.wait(MS)
    hand.skew += 600 * MS
    hand.did(hand.machine.append_done(hand.now, record))
    assert not [lease for lease in hand.of(Lease) if lease.deadline > hand.boot]


@pytest.mark.parametrize("jump", [-SECOND, SECOND])
def test_a_clock_jump_voids_the_lease_that_is_held(jump: int) -> None:
    hand = Hand().leading()
    hand.wait(SECOND)
    hand.skew += jump
    hand.tick()
    leases = hand.of(Lease)
    assert leases
    assert leases[0].epoch == 1
    assert leases[0].deadline <= hand.boot
    assert not hand.machine.serving(hand.now)
    hand.answer()
    if hand.machine.in_flight is None:
        hand.tick()
    hand.commit()
    assert hand.machine.serving(hand.now), "a fresh record gives a fresh lease"


def test_a_clock_jump_is_told_once() -> None:
    hand = Hand().leading()
    hand.wait(SECOND)
    hand.skew += SECOND
    hand.tick()
    hand.tick()
    assert not hand.of(Lease)


def test_small_drift_of_the_clocks_is_none() -> None:
    hand = Hand().leading()
    hand.wait(SECOND)
    hand.skew += 100 * MS
    hand.tick()
    assert hand.machine.serving(hand.now)


# ---------------------------------------------------------------------- appending


def test_a_commit_is_told_only_when_its_record_is_acknowledged() -> None:
    hand = Hand().leading()
    stream(hand, 30, 10, 30)
    assert (hand.flight().start, hand.flight().end) == (0, 30)
    assert not hand.of(Commit)
    hand.commit()
    assert hand.of(Commit) == [Commit(30)]


def test_one_append_in_flight_and_the_next_carries_all_that_came() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    stream(hand, 20, 20)
    stream(hand, 30, 30)
    assert not hand.actions
    hand.commit()
    assert [(append.start, append.end) for append in hand.of(Append)] == [(10, 30)]


def test_a_record_ends_where_a_unit_ends() -> None:
    hand = Hand().leading()
    stream(hand, 25, 10, 20)
    assert hand.flight().end == 20
    hand.commit()
    assert hand.machine.in_flight is None, "the rest of the unit has not arrived"
    stream(hand, 30)
    assert hand.machine.in_flight is None
    stream(hand, 30, 30)
    assert (hand.flight().start, hand.flight().end) == (20, 30)


def test_a_torn_unit_is_not_committed_until_its_end_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MAX_PAYLOAD", 64)
    hand = Hand().leading()
    stream(hand, 150, 150)
    assert (hand.flight().end, hand.flight().flags) == (64, Flags.CONTINUES)
    hand.commit()
    assert not hand.of(Commit)
    assert (hand.flight().end, hand.flight().flags) == (128, Flags.CONTINUES)
    hand.commit()
    assert not hand.of(Commit)
    assert (hand.flight().end, hand.flight().flags) == (150, Flags.NONE)
    hand.commit()
    assert hand.of(Commit) == [Commit(150)]


def test_units_go_into_records_whole_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MAX_PAYLOAD", 64)
    hand = Hand().leading()
    stream(hand, 100, 40, 60, 100)
    assert (hand.flight().end, hand.flight().flags) == (60, Flags.NONE)
    hand.commit()
    assert (hand.flight().start, hand.flight().end) == (60, 100)


def test_a_unit_of_exactly_a_record_whose_end_is_told_late_is_not_left_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The marks come on another connection, and may be later than the bytes.

    A record cut at the unit's very end, as if the unit went on, would leave it open until the next one.
    """
    monkeypatch.setattr(machine_module, "MAX_PAYLOAD", 64)
    hand = Hand().leading()
    stream(hand, 64)
    if hand.machine.in_flight:
        hand.commit()
    stream(hand, 64, 64)
    hand.commit()
    assert hand.machine.position.unit_end == 64
    assert hand.of(Commit) == [Commit(64)]


def test_marks_and_bytes_that_come_while_being_promoted_count() -> None:
    hand = Hand().promoting()
    stream(hand, 14, 14)
    assert not hand.actions
    hand.did(hand.machine.engine_promoted(hand.now))
    assert (hand.flight().kind, hand.flight().end) == (Kind.DATA, 14)


def test_marks_of_an_engine_that_is_gone_cut_nothing() -> None:
    """The engine that was ended wrote on for a moment: its marks mean nothing in the next epoch."""
    hand = Hand().leading()
    hand.machine.engine_exited(hand.now)
    hand.commit()
    assert hand.phase() is Phase.FOLLOWING
    stream(hand, 33, 33)
    hand.up()
    hand.end()
    hand.commit()
    hand.did(hand.machine.engine_promoted(hand.now))
    hand.commit()
    stream(hand, 34)
    assert hand.machine.in_flight is None
    stream(hand, 35, 20)
    assert hand.flight().end == 20


def test_a_second_leadership_starts_from_nothing() -> None:
    hand = Hand().leading()
    stream(hand, 1000)
    hand.machine.give_away(hand.now, "c")
    hand.machine.engine_revoked(hand.now, 1, 0)
    assert (hand.flight().kind, hand.flight().text) == (Kind.RELEASE, "c")
    hand.commit()
    hand.machine.engine_exited(hand.now)
    hand.up()
    hand.end()
    hand.quiet(SECOND)
    hand.commit()
    assert hand.of(Promote)
    hand.did(hand.machine.engine_promoted(hand.now))
    hand.commit()
    assert hand.machine.serving(hand.now)
    stream(hand, 0, 20)
    assert hand.machine.in_flight is None, "none of it has arrived"
    hand.machine.give_away(hand.now, "")
    hand.tick()
    assert hand.machine.in_flight is None, "the engine has not said that it is silent"
    hand.machine.engine_exited(hand.now)
    assert (hand.flight().kind, hand.flight().text) == (Kind.RELEASE, "")


# ---------------------------------------------------------------------- a refused append


def deposed(hand: Hand) -> Hand:
    """Its append was refused; it has asked why."""
    hand.wait(SECOND)
    stream(hand, 10, 10)
    hand.send()
    hand.did(hand.machine.append_refused(hand.now))
    return hand


def test_a_refused_append_stops_serving_first_and_then_reads() -> None:
    hand = deposed(Hand().leading())
    assert hand.actions == [Revoke(1), ReadNext(3)]
    assert not hand.machine.serving(hand.now)


def test_an_append_refused_while_draining_or_releasing_is_looked_into_too() -> None:
    draining = Hand().leading()
    stream(draining, 10, 10)
    draining.send()
    draining.machine.give_away(draining.now, "")
    draining.wait(SECOND)
    draining.did(draining.machine.append_refused(draining.now))
    assert draining.phase() is Phase.DEPOSED
    assert draining.of(ReadNext)

    releasing = Hand().leading()
    releasing.machine.engine_exited(releasing.now)
    releasing.send()
    releasing.wait(SECOND)
    releasing.did(releasing.machine.append_refused(releasing.now))
    assert releasing.phase() is Phase.DEPOSED
    assert releasing.actions == [ReadNext(3)], "there is nobody to silence"


def test_the_engine_of_a_deposed_agent_dies() -> None:
    hand = deposed(Hand().leading())
    hand.machine.engine_exited(hand.now)
    assert hand.phase() is Phase.FOLLOWING


def test_a_revoke_whose_answer_was_lost_is_sent_again() -> None:
    hand = deposed(Hand().leading())
    hand.machine.engine_lost(hand.now)
    hand.up(hand.engine(10, leads=1))
    assert hand.actions == [Revoke(1)]
    hand.machine.engine_revoked(hand.now, 1, 10)
    hand.machine.engine_lost(hand.now)
    assert not hand.up(hand.engine(10, leads=1))


def test_an_append_given_up_is_decided_before_the_next_claim() -> None:
    hand = Hand().leading()
    claim = hand.write(Kind.CLAIM, b"b")
    hand.wait(7 * SECOND)
    hand.answer()
    assert hand.flight().kind is Kind.RENEW
    hand.machine.log_last(claim)
    assert hand.phase() is Phase.FOLLOWING
    hand.machine.engine_exited(hand.now)
    hand.up(hand.engine(0))
    hand.end()
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.FOLLOWING
    hand.machine.append_refused(hand.now)
    hand.end()
    assert hand.phase() is Phase.CLAIMING


def test_a_claim_of_a_higher_epoch_demotes() -> None:
    hand = Hand().leading()
    claim = hand.write(Kind.CLAIM, b"b")
    deposed(hand)
    hand.did(hand.machine.log_next(hand.now, 3, claim))
    assert hand.of(EndEngine)
    assert not hand.of(Append)
    assert not hand.of(Commit)
    assert hand.phase() is Phase.FOLLOWING


def test_a_demoted_engine_follows_only_after_a_restart() -> None:
    hand = Hand().leading()
    claim = hand.write(Kind.CLAIM, b"b")
    deposed(hand)
    hand.machine.log_next(hand.now, 3, claim)
    hand.machine.engine_answered(hand.now, hand.boot, hand.engine(0))
    hand.end()
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.FOLLOWING
    hand.machine.engine_exited(hand.now)
    hand.up(hand.engine(0))
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.CLAIMING


def test_a_log_without_what_was_acknowledged_freezes_its_leader() -> None:
    hand = deposed(Hand().leading())
    for _ in range(200):
        hand.did(hand.machine.log_too_short(2))
        if hand.phase() is Phase.FROZEN:
            break
        hand.wait(100 * MS)
        hand.tick()
    assert hand.phase() is Phase.FROZEN
    assert hand.of(Alarm)
    assert not hand.of(EndEngine)


def test_a_frozen_machine_does_nothing_any_more() -> None:
    hand = deposed(Hand().leading())
    hand.machine.log_next(hand.now, 3, hand.write(Kind.DATA, unit(10)))
    assert hand.phase() is Phase.FROZEN
    hand.quiet(20 * SECOND)
    stream(hand, 10, 10)
    assert not hand.tick()
    assert not hand.machine.engine_answered(hand.now, hand.boot, hand.engine(leads=1))
    assert not hand.machine.engine_lost(hand.now)
    assert not hand.machine.engine_exited(hand.now)
    assert hand.up(hand.engine(leads=1)) == [Revoke(1)], "it may not have been told"
    assert not hand.machine.give_away(hand.now, "")
    assert hand.phase() is Phase.FROZEN


def frozen_successor(hand: Hand) -> Hand:
    """The agent has ended; the next one has found the note of its freeze, and the log has grown since."""
    (note,) = hand.of(Freeze)
    hand.machine = Machine("a", LEASE, Position(GENERATION))
    hand.machine.refreeze(note.reason, note.epoch, note.position)
    return hand


def test_the_successor_of_a_frozen_leader_is_frozen_and_knows_what_it_knew() -> None:
    hand = deposed(Hand().leading())
    at = hand.machine.position
    hand.did(hand.machine.log_next(hand.now, 3, hand.write(Kind.DATA, unit(10))))
    reason = hand.machine.reason
    hand = frozen_successor(hand)
    assert hand.up(hand.engine(10, leads=1)) == [Revoke(1)]
    assert not hand.did(hand.machine.engine_revoked(hand.now, 1, 10))
    claim = hand.write(Kind.CLAIM, b"b")
    assert not hand.did(hand.machine.log_last(claim))
    hand.quiet(20 * SECOND)
    assert not hand.tick()
    assert (hand.phase(), hand.machine.reason) == (Phase.FROZEN, reason)
    assert (hand.machine.epoch, hand.machine.position) == (1, at)


def test_the_successor_of_a_frozen_follower_answers_no_reads() -> None:
    hand = Hand().following()
    for _ in range(60):
        hand.wait(SECOND)
        hand.did(hand.machine.engine_ahead(hand.now, 200, 100))
        if hand.of(Freeze):
            break
    hand = frozen_successor(hand)
    hand.up(hand.engine(200))
    assert hand.of(Reads) == [Reads(False, hand.machine.reason)]
    hand.end()
    assert not hand.quiet(20 * SECOND)
    assert hand.phase() is Phase.FROZEN


def test_a_record_of_my_epoch_that_is_not_mine_freezes() -> None:
    hand = deposed(Hand().leading())
    hand.did(hand.machine.log_next(hand.now, 3, hand.write(Kind.DATA, unit(10))))
    assert hand.phase() is Phase.FROZEN


def test_a_claim_that_cuts_what_was_acknowledged_freezes() -> None:
    hand = Hand().leading()
    other = Hand().leading()
    claim = other.write(Kind.CLAIM, b"b")
    stream(hand, 10, 10)
    hand.commit()
    stream(hand, 20, 20)
    hand.send()
    hand.machine.append_refused(hand.now)
    hand.did(hand.machine.log_next(hand.now, hand.machine.position.sequence, claim))
    assert hand.phase() is Phase.FROZEN


def test_a_release_in_my_name_ends_the_engine() -> None:
    hand = deposed(Hand().leading())
    hand.did(hand.machine.log_next(hand.now, 3, hand.write(Kind.RELEASE)))
    assert hand.of(EndEngine)
    assert hand.phase() is Phase.FOLLOWING


def test_a_refused_record_whose_place_is_empty_gives_leadership_away_once_the_engine_is_silent() -> None:
    hand = deposed(Hand().leading())
    hand.did(hand.machine.log_next(hand.now, 3, None))
    assert not hand.actions
    hand.machine.engine_revoked(hand.now, 1, 10)
    hand.did(hand.machine.log_next(hand.now, 3, None))
    assert hand.actions == [ReadLast()]
    hand.did(hand.machine.log_last(hand.log[-1].record))
    assert hand.flight().kind is Kind.RELEASE
    hand.commit()
    assert hand.of(EndEngine)


def test_only_the_very_end_of_the_log_says_that_nothing_stands_for_it() -> None:
    hand = deposed(Hand().leading())
    last = hand.log[-1].record
    assert not hand.machine.log_last(last), "the engine may still serve"
    hand.machine.engine_revoked(hand.now, 7, 10)
    assert not hand.machine.log_last(last), "another epoch's revoke"
    hand.machine.engine_revoked(hand.now, 1, 10)
    assert not hand.machine.log_last(hand.write(Kind.RENEW)), "the next question will tell"
    assert hand.machine.log_last(last)


def test_a_log_that_lost_its_tail_and_grew_to_the_same_length_is_not_mistaken_for_it() -> None:
    other = Hand()
    other.write(Kind.CLAIM, b"b")
    lost_and_regrown = other.write(Kind.DATA, unit(10))
    hand = deposed(Hand().leading())
    hand.machine.engine_revoked(hand.now, 1, 10)
    hand.did(hand.machine.log_next(hand.now, 3, None))
    hand.did(hand.machine.log_last(lost_and_regrown))
    assert hand.phase() is Phase.FROZEN
    assert not hand.of(EndEngine)


def test_an_answer_about_another_place_is_ignored() -> None:
    hand = deposed(Hand().leading())
    assert not hand.machine.log_next(hand.now, 2, hand.write(Kind.CLAIM, b"b"))
    assert hand.phase() is Phase.DEPOSED


def test_the_question_is_asked_again_but_not_at_every_tick() -> None:
    hand = deposed(Hand().leading())
    hand.tick()
    assert not hand.actions
    hand.wait(LEASE // 20)
    hand.tick()
    assert hand.of(ReadNext)


def test_a_leader_whose_frozen_engine_lapsed_learns_of_its_successor() -> None:
    hand = Hand().leading()
    claim = hand.write(Kind.CLAIM, b"b")
    hand.wait(7 * SECOND)
    hand.tick()
    if hand.of(ReadNext):
        hand.did(hand.machine.log_next(hand.now, 3, claim))
    else:
        assert hand.of(ReadLast)
        hand.did(hand.machine.log_last(claim))
    assert hand.of(EndEngine)
    assert hand.phase() is Phase.FOLLOWING


def test_a_lapsed_leader_that_reads_its_own_record_before_the_ack_goes_on() -> None:
    """A leader that wakes after its lease appends and asks who leads: the answer may be its own record."""
    hand = Hand().leading()
    hand.wait(7 * SECOND)
    hand.answer()
    hand.tick()
    record = hand.send()
    hand.land(record)
    hand.did(hand.machine.log_next(hand.now, 3, record))
    hand.did(hand.machine.log_last(record))
    assert hand.phase() is Phase.LEADING
    hand.machine.append_done(hand.now, record)
    assert hand.machine.serving(hand.now)


# ---------------------------------------------------------------------- release


def test_an_engine_that_exited_is_silent() -> None:
    hand = Hand().leading()
    hand.did(hand.machine.engine_exited(hand.now))
    assert hand.flight().kind is Kind.RELEASE
    hand.commit()
    assert hand.phase() is Phase.FOLLOWING


def test_a_lost_connection_is_not_a_death() -> None:
    hand = Hand().leading()
    hand.did(hand.machine.engine_lost(hand.now))
    assert hand.of(EndEngine)
    assert not hand.of(Append)
    hand.wait(SECOND)
    hand.tick()
    assert hand.machine.in_flight is None
    hand.did(hand.machine.engine_exited(hand.now))
    assert hand.flight().kind is Kind.RELEASE


def test_the_release_waits_for_the_append_in_flight() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    hand.machine.engine_exited(hand.now)
    assert hand.flight().kind is Kind.DATA
    hand.commit()
    assert hand.flight().kind is Kind.RELEASE
    hand.commit()
    assert hand.phase() is Phase.FOLLOWING


def test_the_release_is_read_before_its_ack() -> None:
    """The engine's successor is up and has been fed the release; then a claim, before the answer comes."""
    hand = Hand().leading()
    hand.machine.engine_exited(hand.now)
    release = hand.send()
    hand.land(release)
    hand.up(hand.engine(0))
    hand.write(Kind.CLAIM, b"b")
    hand.read()
    assert hand.phase() is Phase.RELEASING
    hand.did(hand.machine.append_done(hand.now, release))
    assert not hand.actions
    assert hand.phase() is Phase.FOLLOWING
    assert hand.machine.position == hand.position


def test_a_reader_behind_its_own_agent_does_not_take_it_back() -> None:
    hand = Hand().leading()
    hand.machine.engine_exited(hand.now)
    hand.up(hand.engine(0))
    hand.machine.log_read(hand.now, hand.log[1])
    hand.commit()
    assert hand.phase() is Phase.FOLLOWING
    assert hand.machine.position == hand.position


def test_a_leader_that_lost_its_engine_does_not_renew() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    hand.wait(1500 * MS)
    hand.answer()
    hand.machine.engine_lost(hand.now)
    hand.commit()
    assert hand.machine.in_flight is None
    assert not hand.of(Append)


def test_an_engine_that_could_not_be_promoted_is_ended_and_leadership_given_away() -> None:
    hand = Hand().promoting()
    hand.did(hand.machine.engine_failed(hand.now, "it was at another offset"))
    assert hand.of(EndEngine)
    assert hand.flight().kind is Kind.RELEASE
    hand.commit()
    hand.up()
    hand.end()
    assert hand.phase() is Phase.CLAIMING, "the next engine may lead"


def test_a_release_is_claimed_at_once() -> None:
    hand = Hand().following()
    hand.write(Kind.RELEASE)
    hand.read()
    assert hand.phase() is Phase.CLAIMING


def test_a_release_read_before_the_engine_has_all_is_claimed_when_it_has() -> None:
    hand = Hand().following()
    hand.write(Kind.DATA, unit(10))
    hand.write(Kind.RELEASE)
    hand.end()
    assert hand.of(AskEngine)
    assert hand.phase() is Phase.FOLLOWING
    hand.answer(110)
    assert hand.phase() is Phase.CLAIMING


def test_the_wanted_successor_is_preferred() -> None:
    chosen, other = Hand().following(), Hand().following()
    chosen.write(Kind.RELEASE, b"a")
    chosen.end()
    assert chosen.phase() is Phase.CLAIMING
    other.write(Kind.RELEASE, b"c")
    other.end()
    other.quiet(SECOND - 250 * MS)
    assert other.phase() is Phase.FOLLOWING
    other.machine.log_unreadable()
    other.tick()
    assert other.phase() is Phase.FOLLOWING
    other.end()
    other.quiet(SECOND - 250 * MS)
    assert other.phase() is Phase.FOLLOWING
    other.quiet(250 * MS)
    assert other.phase() is Phase.CLAIMING, "the successor did not come forward"


# ---------------------------------------------------------------------- planned failover


def test_planned_failover_silences_drains_and_releases_to_the_successor() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    hand.did(hand.machine.give_away(hand.now, "c"))
    assert hand.actions == [Revoke(1)]
    assert not hand.machine.serving(hand.now)
    hand.commit()
    assert hand.of(Commit) == [Commit(10)]
    assert not hand.of(Lease)
    assert hand.machine.in_flight is None, "released, and the engine has not said that it is silent"
    hand.machine.engine_revoked(hand.now, 7, 10)
    assert hand.machine.in_flight is None, "released for another epoch's revoke"
    hand.did(hand.machine.engine_revoked(hand.now, 1, 30))
    assert hand.machine.in_flight is None, "released, and the engine has written more than was appended"
    stream(hand, 30, 20, 30)
    assert (hand.flight().kind, hand.flight().end) == (Kind.DATA, 30)
    hand.commit()
    assert hand.of(Commit) == [Commit(30)]
    assert (hand.flight().kind, hand.flight().text) == (Kind.RELEASE, "c")
    hand.commit()
    assert hand.of(EndEngine) == [EndEngine(hand.of(EndEngine)[0].reason, flush=True)]
    assert hand.phase() is Phase.FOLLOWING


def test_only_a_leader_can_give_away() -> None:
    hand = Hand().following()
    assert not hand.machine.give_away(hand.now, "")
    assert hand.phase() is Phase.FOLLOWING


def test_a_drain_that_took_too_long_is_noticed() -> None:
    """The engine froze while it was being silenced, and somebody else has claimed: don't wait for ever."""
    hand = Hand().leading()
    hand.machine.give_away(hand.now, "")
    claim = hand.write(Kind.CLAIM, b"b")
    hand.wait(7 * SECOND)
    hand.tick()
    if hand.of(ReadNext):
        hand.did(hand.machine.log_next(hand.now, 3, claim))
    else:
        assert hand.of(ReadLast)
        hand.did(hand.machine.log_last(claim))
    assert hand.of(EndEngine)
    assert hand.phase() is Phase.FOLLOWING


# ---------------------------------------------------------------------- a restarted agent


def inheriting(hand: Hand, *, committed: int = 100) -> Hand:
    """An agent that has just started finds an engine that leads in epoch 1."""
    hand.write(Kind.CLAIM, b"a", nonce=THEIRS)
    hand.write(Kind.DATA, unit(100))
    hand.up(hand.engine(130, leads=1, committed=committed))
    return hand


def test_a_restarted_agent_silences_then_releases_and_never_appends_data() -> None:
    hand = inheriting(Hand())
    assert hand.actions == [Revoke(1)]
    assert hand.phase() is Phase.INHERITING
    stream(hand, 130, 130)
    assert not hand.of(Append)
    hand.wait(SECOND)
    assert not hand.tick()
    hand.did(hand.machine.engine_revoked(hand.now, 1, 130))
    assert hand.actions == [ReadLast()]
    assert not hand.tick()
    assert not hand.machine.log_last(None), "it could not be had"
    hand.wait(LEASE // 20)
    assert hand.tick() == [ReadLast()]
    hand.did(hand.machine.log_last(hand.log[-1].record))
    release = hand.flight()
    hand.wait(SECOND)
    assert not hand.tick()
    assert not hand.machine.log_last(hand.log[-1].record), "it is in flight"
    assert (release.kind, release.epoch, release.sequence, release.start) == (Kind.RELEASE, 1, 4, 100)
    hand.commit()
    assert hand.of(EndEngine)
    assert hand.phase() is Phase.FOLLOWING


def test_an_append_of_its_predecessor_lands_after_all() -> None:
    hand = inheriting(Hand())
    hand.machine.engine_revoked(hand.now, 1, 130)
    hand.machine.log_last(hand.log[-1].record)
    hand.send()
    late = hand.write(Kind.DATA, unit(30))
    hand.did(hand.machine.append_refused(hand.now))
    assert hand.actions == [ReadLast()]
    hand.did(hand.machine.log_last(late))
    assert (hand.flight().sequence, hand.flight().start, hand.flight().crc) == (5, 130, late.running_crc)
    hand.commit()
    assert hand.phase() is Phase.FOLLOWING


def test_an_inherited_release_may_follow_an_open_unit() -> None:
    hand = inheriting(Hand())
    hand.write(Kind.DATA, unit(20), flags=Flags.CONTINUES)
    hand.machine.engine_revoked(hand.now, 1, 130)
    hand.machine.log_last(hand.log[-1].record)
    assert hand.flight().start == 120
    hand.commit()  # Asserts that every reader accepts it.


@pytest.mark.parametrize("kind", [Kind.CLAIM, Kind.RELEASE])
def test_an_inherited_epoch_that_is_over_needs_no_release(kind: Kind) -> None:
    hand = inheriting(Hand())
    hand.machine.engine_revoked(hand.now, 1, 130)
    hand.did(hand.machine.log_last(hand.write(kind)))
    assert hand.of(EndEngine)
    assert not hand.of(Append)


def test_an_answer_from_before_a_reconnect_does_not_release_an_engine_that_may_serve() -> None:
    hand = inheriting(Hand())
    hand.machine.engine_revoked(hand.now, 1, 130)
    hand.machine.engine_lost(hand.now)
    hand.up(hand.engine(130, leads=1, committed=100))
    hand.did(hand.machine.log_last(hand.log[-1].record))
    assert not hand.of(Append)
    hand.machine.engine_revoked(hand.now, 1, 130)
    hand.did(hand.machine.log_last(hand.log[-1].record))
    assert hand.of(Append)


def test_an_inherited_engine_that_dies_is_not_mourned() -> None:
    hand = inheriting(Hand())
    hand.machine.engine_exited(hand.now)
    assert hand.phase() is Phase.FOLLOWING
    assert not hand.machine.log_last(hand.log[-1].record), "asked for before"
    hand.up(hand.engine(100))
    hand.end()
    assert hand.machine.caught_up
    hand.quiet(6 * SECOND)
    assert hand.phase() is Phase.CLAIMING


def test_what_is_read_while_the_inherited_release_is_in_flight_is_not_forgotten() -> None:
    """The engine died, and its successor was fed to the log's end before the release was acknowledged."""
    hand = inheriting(Hand())
    hand.machine.engine_revoked(hand.now, 1, 130)
    hand.machine.log_last(hand.log[-1].record)
    release = hand.send()
    hand.machine.engine_exited(hand.now)
    hand.up(hand.engine(0))
    hand.land(release)
    hand.read()
    hand.machine.append_done(hand.now, release)
    assert hand.phase() is Phase.FOLLOWING
    hand.machine.engine_answered(hand.now, hand.boot, hand.engine(100))
    hand.did(hand.machine.log_end(hand.now, hand.position.sequence))
    assert hand.machine.position == hand.position
    assert hand.phase() is Phase.CLAIMING


def insist(hand: Hand, record: object) -> None:
    """Give the same answer for half a minute."""
    for _ in range(300):
        if hand.phase() is Phase.FROZEN:
            return
        hand.did(hand.machine.log_last(record))  # type: ignore[arg-type]
        hand.wait(100 * MS)
        hand.machine.tick(hand.now)


def test_a_restarted_agent_whose_engine_acknowledged_more_than_the_log_has_freezes() -> None:
    hand = inheriting(Hand(), committed=101)
    hand.machine.engine_revoked(hand.now, 1, 130)
    insist(hand, hand.log[-1].record)
    assert hand.phase() is Phase.FROZEN
    assert hand.of(Alarm)


def test_a_restarted_agent_whose_engine_led_in_an_epoch_that_the_log_lacks_freezes() -> None:
    hand = Hand()
    hand.write(Kind.CLAIM, b"a")
    hand.up(hand.engine(0, leads=2))
    hand.machine.engine_revoked(hand.now, 2, 0)
    insist(hand, hand.log[-1].record)
    assert hand.phase() is Phase.FROZEN


# ---------------------------------------------------------------------- a predecessor whose engine has exited


def orphaned(hand: Hand, *, epoch: int = 1, nonce: int = THEIRS) -> Hand:
    """An agent that has just started learns that the engine which its predecessor led with has exited."""
    if hand.position.sequence == 1:
        hand.write(Kind.CLAIM, b"a")
        hand.write(Kind.DATA, unit(100))
    hand.did(hand.machine.orphaned(hand.now, epoch, nonce))
    return hand


def test_what_a_dead_engine_led_is_released_at_once() -> None:
    hand = orphaned(Hand())
    assert hand.actions == [ReadLast()]
    assert not hand.machine.log_last(None), "it could not be had"
    hand.wait(LEASE // 20)
    assert hand.tick() == [ReadLast()]
    hand.did(hand.machine.log_last(hand.log[-1].record))
    release = hand.flight()
    assert (release.kind, release.epoch, release.sequence, release.start) == (Kind.RELEASE, 1, 4, 100)
    hand.wait(LEASE // 20)
    assert not hand.tick(), "it is in flight"
    assert not hand.machine.log_last(hand.log[-1].record)
    hand.commit()  # Asserts that every reader accepts it.
    assert not hand.actions
    assert hand.phase() is Phase.FOLLOWING
    hand.wait(LEASE)
    assert not hand.tick(), "once is enough"


def test_a_released_orphan_may_be_claimed_by_whoever_released_it() -> None:
    hand = orphaned(Hand())
    hand.machine.log_last(hand.log[-1].record)
    hand.up(hand.engine(0))
    hand.read()
    release = hand.send()
    hand.land(release)
    hand.answer(100)
    hand.end()
    assert not hand.of(Append), "one append at a time"
    hand.did(hand.machine.append_done(hand.now, release))
    hand.end()
    assert hand.phase() is Phase.CLAIMING
    assert hand.flight().epoch == 2


def test_the_release_of_an_orphan_may_follow_an_open_unit() -> None:
    hand = orphaned(Hand())
    hand.machine.log_last(hand.write(Kind.DATA, unit(20), flags=Flags.CONTINUES))
    assert hand.flight().start == 120
    hand.commit()


def test_an_append_of_the_dead_agent_lands_after_all() -> None:
    hand = orphaned(Hand())
    hand.machine.log_last(hand.log[-1].record)
    hand.send()
    late = hand.write(Kind.DATA, unit(30))
    hand.did(hand.machine.append_refused(hand.now))
    hand.wait(LEASE // 20)
    assert hand.tick() == [ReadLast()]
    hand.did(hand.machine.log_last(late))
    assert (hand.flight().sequence, hand.flight().start, hand.flight().crc) == (5, 130, late.running_crc)


def test_another_epoch_than_the_one_of_the_dead_engine_is_never_released() -> None:
    hand = orphaned(Hand())
    claim = hand.write(Kind.CLAIM, b"b", nonce=THEIRS)
    hand.did(hand.machine.log_last(claim))
    assert not hand.of(Append)
    hand.wait(LEASE)
    assert not hand.tick(), "it is over"


def test_an_epoch_of_the_same_number_that_another_process_claimed_is_never_released() -> None:
    """The log lost the dead agent's claim, and somebody else, whose engine lives, claimed in its place."""
    hand = orphaned(Hand(), nonce=MINE)
    hand.did(hand.machine.log_last(hand.log[-1].record))
    assert not hand.of(Append)
    hand.wait(LEASE)
    assert not hand.tick(), "it is over"


def test_an_orphan_that_has_been_released_needs_no_release() -> None:
    hand = orphaned(Hand())
    hand.did(hand.machine.log_last(hand.write(Kind.RELEASE)))
    assert not hand.of(Append)
    hand.wait(LEASE)
    assert not hand.tick(), "it is over"


def test_an_answer_from_before_the_orphans_claim_is_not_the_last_word() -> None:
    hand = orphaned(Hand())
    hand.did(hand.machine.log_last(hand.log[0].record))
    assert not hand.actions
    hand.wait(LEASE // 20)
    assert hand.tick() == [ReadLast()]
    hand.machine.log_last(hand.log[-1].record)
    assert hand.flight().kind is Kind.RELEASE


def test_nothing_is_released_for_the_dead_while_a_claim_is_in_flight() -> None:
    hand = Hand().following()
    hand.quiet(6 * SECOND)
    hand.did(hand.machine.orphaned(hand.now, 1, THEIRS))
    assert not hand.actions
    hand.did(hand.machine.log_last(hand.log[-1].record))
    assert not hand.actions
    hand.commit()
    assert hand.of(Promote)


def test_the_release_of_an_orphan_is_not_that_of_an_engine_which_still_leads() -> None:
    hand = orphaned(Hand())
    hand.machine.log_last(hand.log[-1].record)
    release = hand.send()
    hand.land(release)
    hand.write(Kind.CLAIM, b"a")
    hand.up(hand.engine(100, leads=2, committed=100))
    assert hand.actions == [Revoke(2)]
    hand.did(hand.machine.append_done(hand.now, release))
    assert not hand.actions
    assert hand.phase() is Phase.INHERITING
    hand.did(hand.machine.engine_revoked(hand.now, 2, 100))
    hand.did(hand.machine.log_last(hand.log[-1].record))
    assert hand.flight().epoch == 2


def test_an_orphans_release_that_is_done_changes_nothing_in_a_frozen_node() -> None:
    hand = orphaned(Hand())
    hand.machine.log_last(hand.log[-1].record)
    release = hand.send()
    hand.up()
    for _ in range(60):
        hand.wait(SECOND)
        hand.machine.engine_ahead(hand.now, 200, 100)
    assert hand.phase() is Phase.FROZEN
    reason = hand.machine.reason
    hand.land(release)
    hand.did(hand.machine.append_done(hand.now, release))
    assert not hand.actions
    assert hand.machine.reason == reason


# ---------------------------------------------------------------------- following


def test_reads_only_after_the_log_has_been_applied_to_its_end() -> None:
    hand = Hand()
    hand.write(Kind.CLAIM, b"b")
    hand.write(Kind.DATA, unit(100))
    hand.up(hand.engine(0))
    hand.read()
    assert not hand.of(Reads)
    hand.end()
    assert not hand.of(Reads)
    hand.answer(50)
    assert not hand.of(Reads)
    hand.answer(100)
    assert hand.of(Reads) == [Reads(True)]


def test_a_follower_catches_up_while_the_leader_never_stops_writing() -> None:
    """The end that was confirmed is what counts: by the time the engine has it, the log has gone on."""
    hand = Hand()
    hand.write(Kind.CLAIM, b"b")
    hand.write(Kind.DATA, unit(100))
    hand.up(hand.engine(0))
    hand.end()
    assert hand.of(AskEngine)
    hand.write(Kind.DATA, unit(100))
    hand.end()
    hand.write(Kind.DATA, unit(100))
    hand.read()
    hand.answer(99)
    assert not hand.of(Reads)
    hand.answer(100)
    assert hand.of(Reads) == [Reads(True)]
    hand.answer(150)
    hand.end()
    assert not hand.of(Reads), "once is enough"


def test_reads_and_a_question_at_once() -> None:
    hand = Hand()
    hand.write(Kind.CLAIM, b"b")
    hand.write(Kind.DATA, unit(100))
    hand.up(hand.engine(0))
    hand.end()
    hand.write(Kind.DATA, unit(10))
    hand.write(Kind.RELEASE)
    hand.end()
    hand.answer(100)
    assert hand.actions == [Reads(True), AskEngine()]


def test_an_engine_whose_link_is_down_has_no_offset_of_this_log() -> None:
    hand = Hand()
    hand.write(Kind.CLAIM, b"b")
    hand.up(replace(hand.engine(0), linked=False))
    hand.end()
    assert hand.actions == [AskEngine()]
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.FOLLOWING
    hand.answer(0)
    assert hand.of(Reads) == [Reads(True)]
    assert hand.phase() is Phase.CLAIMING


def test_an_engine_that_was_fed_more_than_was_read_does_not_claim() -> None:
    hand = Hand().following()
    hand.answer(110)
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.FOLLOWING


def test_an_answer_of_an_engine_that_is_gone_is_ignored() -> None:
    hand = Hand().following()
    hand.machine.engine_lost(hand.now)
    assert not hand.answer(100)
    hand.quiet(10 * SECOND)
    assert hand.phase() is Phase.FOLLOWING


def test_reading_again_for_a_new_engine_changes_nothing() -> None:
    hand = Hand().following()
    hand.quiet(5 * SECOND)
    for step in hand.log:
        assert not hand.machine.log_read(hand.now, step)
    assert hand.machine.position == hand.position
    hand.quiet(SECOND)
    assert hand.phase() is Phase.CLAIMING, "nothing new was read"


def test_time_alone_lets_a_follower_claim() -> None:
    hand = Hand().following()
    hand.quiet(6 * SECOND - 250 * MS)
    hand.wait(250 * MS)
    hand.tick()
    assert hand.phase() is Phase.CLAIMING


def test_a_new_engine_must_catch_up_anew() -> None:
    hand = Hand().following()
    hand.machine.engine_exited(hand.now)
    hand.up(hand.engine(0))
    hand.end()
    hand.answer(99)
    assert not hand.of(Reads)
    hand.answer(100)
    assert hand.of(Reads) == [Reads(True)]


def test_corruption_restarts_the_wait() -> None:
    hand = Hand().following()
    hand.quiet(5 * SECOND)
    hand.machine.log_corrupt("record 4 is rotten")
    hand.tick()
    hand.quiet(6 * SECOND)
    assert hand.phase() is Phase.FOLLOWING
    hand.quiet(250 * MS)
    assert hand.phase() is Phase.CLAIMING


def test_corruption_beyond_its_claim_does_not_disturb_a_claimant() -> None:
    hand = Hand().claiming()
    assert not hand.machine.log_corrupt("record 9 is rotten")
    hand.commit()
    assert hand.of(Promote)
    assert not hand.machine.reason


def test_corruption_alarms_ends_reads_and_recovers() -> None:
    hand = Hand().following()
    hand.did(hand.machine.log_corrupt("record 4 is rotten"))
    assert hand.of(Alarm)
    assert [reads.allowed for reads in hand.of(Reads)] == [False]
    assert hand.machine.reason
    hand.wait(20 * SECOND)
    hand.did(hand.machine.log_corrupt("record 4 is rotten"))
    hand.tick()
    assert hand.phase() is Phase.FOLLOWING
    hand.write(Kind.RENEW)
    hand.end()
    assert hand.of(Reads) == [Reads(True)]
    assert not hand.machine.reason
    assert hand.phase() is Phase.FOLLOWING, "the leader gets its time"


def test_no_claim_while_the_log_is_corrupt() -> None:
    hand = Hand().following()
    hand.quiet(5 * SECOND)
    hand.machine.log_corrupt("record 4 is rotten")
    for _ in range(100):
        hand.wait(100 * MS)
        hand.answer()
        hand.tick()
    assert hand.phase() is Phase.FOLLOWING


def test_a_log_that_is_shorter_than_what_was_seen_freezes_a_follower() -> None:
    hand = Hand().following()
    for _ in range(200):
        hand.wait(250 * MS)
        hand.did(hand.machine.log_end(hand.now, 2))
        if hand.phase() is Phase.FROZEN:
            break
    assert hand.phase() is Phase.FROZEN
    assert hand.of(Alarm)


def test_a_member_that_is_behind_for_a_while_freezes_nobody() -> None:
    """A log server that was stopped believes for some seconds after it wakes that it still leads."""
    hand = Hand().following()
    for _ in range(40):
        hand.wait(250 * MS)
        hand.machine.log_end(hand.now, 2)
        hand.tick()
    assert hand.phase() is Phase.FOLLOWING
    hand.end()
    for _ in range(40):
        hand.wait(250 * MS)
        hand.machine.log_end(hand.now, 2)
    assert hand.phase() is Phase.FOLLOWING, "it was right in between"

    hand = deposed(Hand().leading())
    for _ in range(100):
        hand.machine.log_too_short(2)
        hand.wait(100 * MS)
        hand.tick()
    assert hand.phase() is Phase.DEPOSED

    hand = inheriting(Hand(), committed=100)
    hand.machine.engine_revoked(hand.now, 1, 130)
    for _ in range(100):
        hand.machine.log_last(hand.log[1].record)
        hand.wait(100 * MS)
        hand.tick()
    assert hand.phase() is Phase.INHERITING
    hand.did(hand.machine.log_last(hand.log[-1].record))
    assert hand.of(Append)
    hand.send()
    hand.machine.append_refused(hand.now)
    for _ in range(100):
        hand.machine.log_last(hand.log[1].record)
        hand.wait(100 * MS)
        hand.tick()
    assert hand.phase() is Phase.INHERITING


def test_a_log_whose_past_has_changed_freezes() -> None:
    """It is read again for a new engine, and is not what it was: a tail was lost, and another one written."""
    hand = Hand().following()
    other = Hand()
    other.write(Kind.CLAIM, b"c")
    other.write(Kind.DATA, unit(99))
    other.write(Kind.DATA, unit(1))
    for step in other.log:
        hand.did(hand.machine.log_read(hand.now, step))
        if hand.phase() is Phase.FROZEN:
            break
    assert hand.phase() is Phase.FROZEN


# ---------------------------------------------------------------------- a human has put the log right


def test_a_recovered_leader_reloads_and_reads_everything_anew() -> None:
    hand = deposed(Hand().leading())
    hand.did(hand.machine.log_too_short(2))
    hand.wait(20 * SECOND)
    hand.tick()
    hand.did(hand.machine.log_too_short(2))
    assert hand.phase() is Phase.FROZEN
    assert not hand.tick()
    hand.did(hand.machine.recovered())
    assert hand.of(EndEngine)
    assert hand.phase() is Phase.FOLLOWING
    assert not hand.machine.reason
    assert hand.machine.position.sequence == 0, "its records may be others than those that were there"
    hand.did(hand.machine.engine_exited(hand.now))
    hand.up(hand.engine(0))
    hand.end()
    assert hand.phase() is Phase.FOLLOWING


def test_a_recovered_follower_keeps_its_engine_and_does_not_claim_before_it_has_read_all() -> None:
    hand = Hand().following()
    for _ in range(60):
        hand.wait(SECOND)
        hand.machine.engine_ahead(hand.now, 200, 100)
    assert hand.phase() is Phase.FROZEN
    hand.did(hand.machine.recovered())
    assert not hand.actions
    assert hand.phase() is Phase.FOLLOWING
    for _ in range(40):
        hand.wait(250 * MS)
        hand.did(hand.machine.log_end(hand.now, 0))
        assert hand.phase() is Phase.FOLLOWING


def test_who_is_not_frozen_has_nothing_to_recover_from() -> None:
    hand = Hand().leading()
    assert not hand.machine.recovered()
    assert hand.phase() is Phase.LEADING
    assert hand.machine.position.sequence


def test_a_reader_that_stopped_at_corruption_starts_anew() -> None:
    hand = Hand().following()
    hand.machine.log_corrupt("record 4 is not what it must be")
    assert not hand.machine.recovered()
    assert not hand.machine.corrupt
    assert hand.machine.position.sequence == 0
    assert not hand.machine.caught_up


# ---------------------------------------------------------------------- space


def test_a_full_log_refuses_data_in_time_and_renewals_go_on() -> None:
    hand = Hand().leading()
    hand.did(hand.machine.log_space(90 << 20, 100 << 20))
    assert not hand.actions
    hand.did(hand.machine.log_space(91 << 20, 100 << 20))
    assert [writes.allowed for writes in hand.of(Writes)] == [False]
    assert hand.of(Writes)[0].reason
    hand.did(hand.machine.log_space(92 << 20, 100 << 20))
    assert not hand.actions
    hand.wait(2 * SECOND)
    hand.answer()
    assert hand.flight().kind is Kind.RENEW
    hand.did(hand.machine.log_space(86 << 20, 100 << 20))
    assert not hand.actions, "it does not flap"
    hand.did(hand.machine.log_space(84 << 20, 100 << 20))
    assert hand.of(Writes) == [Writes(True)]


def test_a_leader_counts_what_it_has_appended_and_what_is_still_to_come() -> None:
    hand = Hand().leading()
    hand.did(hand.machine.log_space(899_000, 1_000_000))
    stream(hand, 500, 500)
    assert not hand.of(Writes)
    hand.send()
    hand.commit()
    stream(hand, 900, 900)
    assert [writes.allowed for writes in hand.of(Writes)] == [False], "before the log is asked again"


def test_what_the_log_has_no_room_for_is_given_up_while_there_is_room_for_a_claim() -> None:
    hand = Hand().leading()
    hand.did(hand.machine.log_space(960_000, 1_000_000))
    stream(hand, 20_000, 20_000)
    assert hand.of(EndEngine)
    assert not hand.of(Append)
    hand.did(hand.machine.engine_exited(hand.now))
    assert hand.flight().kind is Kind.RELEASE


def test_a_new_leader_of_a_full_log_refuses_data_from_the_start() -> None:
    hand = Hand().promoting()
    assert not hand.machine.log_space(95 << 20, 100 << 20)
    hand.did(hand.machine.engine_promoted(hand.now))
    assert [writes.allowed for writes in hand.of(Writes)] == [False]


def test_only_a_leader_refuses_writes() -> None:
    hand = Hand().following()
    assert not hand.machine.log_space(95 << 20, 100 << 20)
    hand = Hand().following()
    assert not hand.machine.log_full("it is full")


def test_an_append_that_does_not_fit_stops_writes() -> None:
    hand = Hand().leading()
    stream(hand, 10, 10)
    hand.send()
    hand.did(hand.machine.log_full("it is full"))
    assert hand.of(Writes) == [Writes(False, "it is full")]
    assert hand.machine.in_flight
    assert not hand.machine.log_full("it is full")
