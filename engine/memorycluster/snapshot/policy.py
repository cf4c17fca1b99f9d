"""When to take a snapshot, what may be trimmed behind them, which ones may go. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cronsim import CronSim

from memorycluster.api.units import format_bytes
from memorycluster.log.record import OVERHEAD
from memorycluster.snapshot.manifest import Manifest

FIRST = 1
"""Sequence of the record that a restored log begins with: its snapshot is the state after it."""

KEPT_ANYWAY = 2
"""Snapshots of a shard's present log that are never deleted: it is trimmed behind the older one."""

RECORD_COST = OVERHEAD + 64
"""Bytes that a record takes in the log beside its payload; roughly."""


FIRST_PAUSE, LONGEST_PAUSE = 15.0, 240.0
"""Seconds from a making that came to nothing until the next one: twice as many each time."""


class Known(Protocol):
    """What is known of a verified snapshot: where in its shard's log it ends."""

    @property
    def sequence(self) -> int:
        """Of the last record that it holds."""

    @property
    def offset(self) -> int:
        """Replication offset of its state."""


@dataclass(frozen=True, slots=True)
class End:
    """Where a log ends."""

    sequence: int
    offset: int


def newest_first(manifests: Collection[Manifest]) -> list[Manifest]:
    """Return the snapshots of one log in order."""
    return sorted(manifests, key=lambda each: (each.sequence, each.created_at), reverse=True)


def replay_bytes(end: End, newest: Known | None) -> int:
    """Return how many bytes of the log a restart replays if ``newest`` is the newest snapshot."""
    records = end.sequence - (newest.sequence if newest else 0)
    return max(end.offset - (newest.offset if newest else 0), 0) + max(records, 0) * RECORD_COST


def pause(failures: int) -> float:
    """Return the seconds until another making, after so many in a row that came to nothing.

    Each may load all data and read the log, so it must not go on without rest.
    """
    return min(FIRST_PAUSE * 2.0 ** min(max(failures - 1, 0), 16), LONGEST_PAUSE)


def replay_limit(max_log_replay: int, max_bytes: int) -> int:
    """Return at how many bytes of replay a snapshot starts.

    Two snapshots' worth of log are kept, and more comes while one is made: a quarter of the log at most.
    """
    return min(max_log_replay, max_bytes // 4)


def trim_before(verified: Collection[Known], reading: Collection[int]) -> int:
    """Return the sequence below which the log may be trimmed; 1: nothing.

    :param verified: the snapshots of this log (of its generation) that are whole, and that it agrees with.
    :param reading: the last sequences that those who read the log have read.
    """
    sequences = sorted({each.sequence for each in verified}, reverse=True)
    if len(sequences) < KEPT_ANYWAY:
        return 1
    return min([sequences[KEPT_ANYWAY - 1], *reading]) + 1


def trims(before: int, first: int) -> bool:
    """Return whether trimming a log that begins at ``first`` below ``before`` is worth it.

    Its first record is not trimmed alone: it says which snapshot the log begins with, so it stays as long as
    those that end there may be started from.
    """
    return before > max(first, FIRST + 1)


def reaches_back(first: int, manifests: Collection[Manifest]) -> datetime | None:
    """Return the first moment to which snapshots lead, with a log that begins at ``first``; None: to none.

    A log that was never trimmed, and began empty, reaches back to its own beginning as well. What a restored
    one begins with carries a moment of its source's, which is none of its own.
    """
    usable = [each for each in manifests if each.sequence + 1 >= first and each.sequence > FIRST]
    return min((each.log_time for each in usable if each.log_time), default=None)


def kept_for_want_of_one(log_bytes: int, first: int, verified: Collection[Known], limit: int) -> bool:
    """Return whether much of the log, which begins at ``first``, is kept just for want of a snapshot.

    :param limit: of replay, in bytes; see ``replay_limit``.
    """
    newest = max((each.sequence for each in verified), default=0)
    kept = not trims(trim_before(verified, ()), first)
    return log_bytes > 3 * limit and kept and newest >= max(first, 1)


def replay_due(end: End, log_bytes: int, first: int, verified: Collection[Known], limit: int) -> str:
    """Return why the log asks for a snapshot, schedule or not; empty: it does not.

    :param first: sequence at which the log begins. :param limit: see ``replay_limit``.
    """
    if kept_for_want_of_one(log_bytes, first, verified, limit):
        return f"{format_bytes(log_bytes)} of the log are kept for want of one"
    replay = replay_bytes(end, max(verified, key=lambda each: each.sequence, default=None))
    return f"a restart would replay {format_bytes(replay)}" if replay > limit else ""


def previous_moment(schedule: str, now: datetime) -> datetime:
    """Return the last moment up to ``now`` that a ``schedule`` names."""
    # It goes back to what is before the moment that it is given, to the second.
    return next(CronSim(schedule, now.replace(microsecond=0) + timedelta(seconds=1), reverse=True))


def next_moment(schedule: str, now: datetime) -> datetime:
    """Return the first moment after ``now`` that a ``schedule`` names."""
    return next(CronSim(schedule, now))


def expired(
    manifests: Sequence[Manifest],
    *,
    count: int,
    age: timedelta,
    now: datetime,
    spared: Collection[str] = (),
) -> list[Manifest]:
    """Return the snapshots that may be deleted: beyond ``count`` and ``age``, not needed for the log.

    Those of the schedule are counted by themselves, so that many writes do not shorten how far back they
    reach. What a user asked for never expires, nor what has one of the names that are ``spared``.
    """
    needed = sorted({each.sequence for each in manifests}, reverse=True)[:KEPT_ANYWAY]
    made = _made_at(newest_first(manifests), now)
    gone = []
    for reason in ("schedule", "replay"):
        ordered = newest_first([each for each in manifests if each.reason == reason])
        gone += [
            each
            for each in ordered[count:]
            if each.sequence not in needed and each.name not in spared and now - made[each.checksum] > age
        ]
    return gone


def _made_at(ordered: Sequence[Manifest], now: datetime) -> dict[str, datetime]:
    """Return when snapshots were made, the newest first, by their checksums.

    One whose time lies ahead was made under a wrong clock: it is no younger than the next that was not.
    """
    found, latest = {}, now
    for each in ordered:
        if each.created_at <= now:
            latest = each.created_at
        found[each.checksum] = latest
    return found


def crowding(manifests: Sequence[Manifest], room: int, *, spared: Collection[str] = ()) -> list[Manifest]:
    """Return the snapshots that may be deleted so that another one as large as the newest has room.

    The oldest go first; not those that the log needs, nor what a user asked for, nor what is ``spared`` by
    its name.
    """
    ordered = newest_first(manifests)
    needed = sorted({each.sequence for each in ordered}, reverse=True)[:KEPT_ANYWAY]
    excess = sum(each.size for each in [*ordered[:1], *ordered]) - room
    gone = []
    for each in reversed(ordered):
        may_go = each.reason != "user" and each.sequence not in needed and each.name not in spared
        if excess > 0 and may_go:
            gone.append(each)
            excess -= each.size
    return gone
