"""A machine whose reader starts at what a verified snapshot vouches for."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.agent.hand import MS, SECOND, Hand, unit

from memorycluster.agent.actions import Alarm
from memorycluster.agent.machine import Phase
from memorycluster.log.record import Kind


def trimmed() -> Hand:
    """A log of epoch 1 of which the machine can read nothing: a snapshot holds all of it."""
    hand = Hand()
    hand.write(Kind.CLAIM, b"b")
    hand.write(Kind.DATA, unit(100))
    return hand


def vouch(hand: Hand) -> None:
    hand.did(hand.machine.log_vouched(hand.now, hand.position))


def test_a_log_that_ends_where_the_snapshot_does_is_claimed_once_the_lease_is_over() -> None:
    hand = trimmed()
    hand.up()
    vouch(hand)
    hand.quiet(6 * SECOND - 250 * MS)
    assert hand.phase() is Phase.FOLLOWING
    hand.quiet(500 * MS)
    assert hand.phase() is Phase.CLAIMING
    claim = hand.flight()
    assert (claim.epoch, claim.sequence, claim.start) == (2, hand.position.sequence + 1, 100)
    assert claim.crc == hand.position.unit_crc


def test_a_leadership_that_was_released_within_the_snapshot_is_free() -> None:
    hand = trimmed()
    hand.write(Kind.RELEASE)
    hand.up()
    vouch(hand)
    hand.end()
    assert hand.phase() is Phase.CLAIMING


def test_what_follows_the_snapshot_is_read_from_there() -> None:
    hand = trimmed()
    vouch(hand)
    hand.write(Kind.DATA, unit(10))
    hand.read()
    assert hand.machine.position == hand.position


def test_a_snapshot_of_what_has_long_been_read_changes_nothing() -> None:
    hand = Hand().following()
    vouched = hand.log[1].position
    hand.did(hand.machine.log_vouched(hand.now, vouched))
    assert hand.machine.position == hand.position


def test_a_snapshot_of_another_history_freezes() -> None:
    hand = Hand().following()
    other = replace(hand.position, unit_crc=1, open_crc=1)
    hand.did(hand.machine.log_vouched(hand.now, other))
    assert hand.phase() is Phase.FROZEN
    assert hand.of(Alarm)


def test_a_leader_is_not_disturbed_by_a_snapshot() -> None:
    hand = Hand().leading()
    before = hand.machine.position
    hand.did(hand.machine.log_vouched(hand.now, hand.log[0].position))
    assert (hand.phase(), hand.machine.position) == (Phase.LEADING, before)
