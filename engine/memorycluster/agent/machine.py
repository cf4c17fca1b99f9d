"""Who leads: the agent's decisions, as a pure state machine. Events in, actions out; no I/O, no clock.

Every rule of docs/architecture.md, *Leadership*, is here and nowhere else. Each event takes the present
moment where it matters and returns the actions to carry out, in order. Times are µs of CLOCK_BOOTTIME.

What must hold, whatever is delayed, lost, repeated or restarted:

- at most one epoch commits at any sequence of the log (its conditional append sees to that), and a machine
  appends data only in an epoch that it claimed itself, in this life;
- a claim never cuts a committed byte: it starts at the last unit's end, with the log read to its end;
- the engine is told that an offset is committed only after the record that ends there is;
- the engine's lease never outlives that of its last committed record: first send + lease;
- leadership is released only when the engine can no longer answer a data command.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from memorycluster.agent.actions import (
    Action,
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
from memorycluster.agent.clock import Instant
from memorycluster.log.chain import Position, Read, accept
from memorycluster.log.interface import LogCorrupt
from memorycluster.log.record import MAX_PAYLOAD, OVERHEAD, Flags, Kind, Record

SECOND = 1_000_000

REFUSE_ABOVE, ALLOW_BELOW = 0.90, 0.85
"""Shares of the log's limit: data is refused above the one, until there is less than the other."""

NO_ROOM = 0.97
"""Share of the log's limit that data never exceeds: what is left is for claims, renewals and releases."""

RECORD_COST = OVERHEAD + 200
"""Bytes that a record takes beside its payload, with what the log service adds; roughly."""

INSIST = 15 * SECOND
"""For how long the log must lack what is known to be in it, before that is believed.

A member of the log service that was stopped or cut off may believe for up to 10 s that it still leads.
"""


class Phase(StrEnum):
    """What the machine is about."""

    FOLLOWING = "following"
    """Reads the log, feeds the engine, watches the lease of the leader."""
    CLAIMING = "claiming"
    """Its claim is in flight."""
    PROMOTING = "promoting"
    """Its claim stands; the engine is being made the primary."""
    LEADING = "leading"
    """Appends what the engine does, renews the lease."""
    DRAINING = "draining"
    """Gives leadership away as planned: the engine is silent, what it has done is still being appended."""
    RELEASING = "releasing"
    """The engine is silent; the release is about to be appended, or is in flight."""
    DEPOSED = "deposed"
    """An append was refused: serves nothing, and reads the log to learn why."""
    INHERITING = "inheriting"
    """Found an engine that its predecessor had led with: silences it, then releases in its name."""
    FROZEN = "frozen"
    """The log lacks what was acknowledged: keeps the engine's memory, does nothing, waits for a human."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine says of itself (TXLOG STATUS)."""

    leads: bool
    epoch: int
    offset: int
    committed: int
    version: int
    silent: bool = True
    """A follower, or its epoch is revoked: no data command of a leader is answered."""
    linked: bool = True
    """A follower: its replication link to its agent is up, so its offset is one of this log."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """An epoch that an agent of this node claimed in an earlier life, and whose only engine has exited."""

    epoch: int
    nonce: int
    """Of that agent's records: an epoch of this number that another process claimed is another one."""


@dataclass(slots=True)
class Machine:
    """The state of one agent."""

    node: str
    lease: int
    """µs for which a committed record lets its writer serve, from its first send."""
    position: Position
    """As a follower: what has been read. As a leader: what has been appended and committed."""
    phase: Phase = Phase.FOLLOWING
    reason: str = ""
    """Of the phase FROZEN, or of an alarm that is on."""

    engine: EngineState | None = None
    """None while no engine is connected."""
    tainted: bool = False
    """The engine was promoted, or is about to be: it may only follow again after a restart."""
    answered_at: int = 0
    """When the engine's last answer had been asked for."""

    # Following
    quiet_since: int | None = None
    """Since when the log has been readable without news."""
    end_at: int | None = None
    """When the log's leader last confirmed that there is nothing beyond ``position``."""
    heard_at: int | None = None
    """When the log was last read, or its end confirmed."""
    catch_up_to: int | None = None
    """Offset at which the log ended when that was first confirmed to this engine's reader."""
    caught_up: bool = False
    """The engine has applied the log to its end once, and so may answer reads."""
    corrupt: bool = False
    lacks_since: int | None = None
    """Since when the log has not shown what is known to be in it."""
    orphan: Orphan | None = None
    """What may be left to release in the name of a predecessor."""
    read_on: Position | None = None
    """What has been read while it did not follow: a new engine's reader may be ahead of a slow append."""

    # Appending: at most one in flight
    in_flight: Append | None = None
    first_sent: Instant | None = None
    space_used: int = 0
    """Bytes in the log: as last told, and what has been appended since."""
    space_limit: int = 0
    """Bytes at which the log refuses appends; 0: not known yet."""
    space_refused: str = ""
    """Why data is refused; empty while there is space."""

    # Leading
    epoch: int = 0
    """The epoch that this machine claimed in this life; 0: none."""
    received: int = 0
    """Offset up to which the engine's stream has arrived."""
    ends: deque[int] = field(default_factory=deque)
    """Offsets at which units end, in increasing order, as far as they are not yet appended."""
    committed: int = 0
    """Offset that the engine has been told is committed."""
    renewed: Instant | None = None
    """First send of the last committed record of this epoch."""
    deadline: int = 0
    """Of the last lease sent to the engine."""
    silent: bool = True
    """The engine is proved to answer no data command as leader of ``epoch``."""
    successor: str = ""
    drain_to: int | None = None
    """Offset at which the revoked engine stopped."""
    asked_log_at: int = 0

    # ------------------------------------------------------------------ the log, read

    def log_read(self, now: Instant, read: Read) -> list[Action]:
        """A record has been read and accepted by the chain's rule."""
        return self._read_to(now, read.position)

    def log_vouched(self, now: Instant, position: Position) -> list[Action]:
        """A verified snapshot vouches for ``position``: the log is read from there on."""
        return self._read_to(now, position)

    def _read_to(self, now: Instant, position: Position) -> list[Action]:
        if self.phase not in (Phase.FOLLOWING, Phase.CLAIMING):
            self.read_on = position
            return []
        if position.sequence <= self.position.sequence:
            # Known: our own claim, or the log is read again for a new engine.
            if position.sequence == self.position.sequence and position != self.position:
                return self._freeze(f"log record {position.sequence} is not the one that was there")
            return []
        self.position = position
        self.quiet_since = self.heard_at = now.boot
        self.end_at = None
        actions = self._clear_alarm()
        if self.position.released and self.phase is Phase.FOLLOWING:
            actions += self._follow(now)
        return actions

    def log_end(self, now: Instant, sequence: int) -> list[Action]:
        """The log's leader has confirmed that ``sequence`` is the last one."""
        if self.phase is not Phase.FOLLOWING:
            return []
        if sequence < self.position.sequence:
            return self._lacks(
                now.boot, f"the log ends at record {sequence}, we had seen {self.position.sequence}"
            )
        self.lacks_since = None
        if self.heard_at is None or now.boot - self.heard_at > SECOND:
            self.quiet_since = now.boot  # Readable again: the leader gets its time to resume.
        self.heard_at = self.end_at = now.boot
        if self.catch_up_to is None:
            self.catch_up_to = self.position.unit_end
        return self._clear_alarm() + self._follow(now)

    def log_unreadable(self) -> list[Action]:
        """The log can't be read at present."""
        self._unsettle()
        return []

    def log_corrupt(self, reason: str) -> list[Action]:
        """The log can't be read beyond a position: serve nothing from there on, until it can."""
        self._unsettle()
        if self.phase is not Phase.FOLLOWING:
            return []
        self.corrupt, self.reason = True, reason
        self._not_caught_up()
        return [Alarm(reason), Reads(False, reason)]

    def log_last(self, record: Record | None) -> list[Action]:
        """Answer to ReadLast: the log's last record, or None if it could not be had."""
        if record is None:
            return []
        if self._leads():
            # Asked for by a lapsed leader. The record may be its own, not yet acknowledged.
            over = record.epoch > self.epoch
            return self._end_engine(f"epoch {record.epoch} has begun") if over else []
        if self.phase is Phase.FOLLOWING:
            return self._release_orphan(record)
        if self.phase is Phase.DEPOSED:
            return self._refused_by_none(record)
        if self.phase is not Phase.INHERITING or not self.silent or self.engine is None or self.in_flight:
            return []
        if record.end < self.engine.committed:
            return self._lacks(
                self.asked_log_at,
                f"the log ends at offset {record.end}, the engine had acknowledged {self.engine.committed}",
            )
        if record.epoch < self.engine.epoch:
            return self._lacks(
                self.asked_log_at,
                f"the log's newest epoch is {record.epoch}, the engine had led in {self.engine.epoch}",
            )
        self.lacks_since = None
        if record.epoch > self.engine.epoch or record.kind is Kind.RELEASE:
            return self._end_engine(f"epoch {self.engine.epoch} is over", flush=True)
        return self._append(self._release_after(record))

    def log_next(self, now: Instant, sequence: int, record: Record | None) -> list[Action]:
        """Answer to ReadNext(sequence): the record after it; None: the log ends there."""
        if sequence != self.position.sequence or self.phase is not Phase.DEPOSED:
            return []
        if record is None:
            return [ReadLast()] if self.silent else []
        try:
            position = accept(self.position, sequence + 1, record).position
        except LogCorrupt as error:
            return self._freeze(str(error))
        if position.epoch == self.epoch and not position.released:
            return self._freeze(f"log record {sequence + 1} of our epoch {self.epoch} is not ours")
        return self._end_engine(
            f"epoch {position.epoch} of {position.leader} has begun"
            if position.epoch > self.epoch
            else f"epoch {self.epoch} has been released in our name"
        )

    def _refused_by_none(self, last: Record) -> list[Action]:
        """Our append was refused for the sake of one that the log then lost: nobody leads, so say so."""
        at = self.position
        if last.sequence != at.sequence or not self.silent:
            return []
        if (last.epoch, last.running_crc) != (at.epoch, at.open_crc):
            return self._freeze(f"log record {at.sequence} is not the one that was there")
        self.lacks_since, self.phase = None, Phase.RELEASING
        return self._append(self._record(Kind.RELEASE))

    def _release_orphan(self, last: Record) -> list[Action]:
        """Release what the predecessor led, if that is still the log's newest epoch."""
        orphan = self.orphan
        if orphan is None or self.in_flight is not None:
            return []
        if last.epoch < orphan.epoch:
            return []  # Said by a member that is behind, so ask again: the claim was committed.
        if (last.epoch, last.nonce) != (orphan.epoch, orphan.nonce) or last.kind is Kind.RELEASE:
            self.orphan = None
            return []
        return self._append(self._release_after(last))

    def engine_ahead(self, now: Instant, offset: int, end: int) -> list[Action]:
        """The engine has applied ``offset`` of this very log, which was found to end at offset ``end``."""
        if self.phase is Phase.FROZEN:
            return []
        return self._lacks(now.boot, f"the log ends at offset {end}, the engine had applied {offset}")

    def log_too_short(self, end: int) -> list[Action]:
        """Answer to ReadNext: the log ends below what this agent knows to be committed."""
        if self.phase is not Phase.DEPOSED:
            return []
        return self._lacks(
            self.asked_log_at,
            f"the log ends at record {end}, record {self.position.sequence} was acknowledged",
        )

    def log_space(self, used: int, limit: int) -> list[Action]:
        """The log's size and its limit, in bytes: data is refused in time, renewals and claims always fit."""
        self.space_used, self.space_limit = used, limit
        return self._judge_space()

    def log_full(self, reason: str) -> list[Action]:
        """The record in flight does not fit into the log; it is tried again."""
        self.space_used = max(self.space_used, self.space_limit)
        if self.space_refused:
            return []
        self.space_refused = reason
        return [Writes(False, reason)] if self._leads() else []

    # ------------------------------------------------------------------ the log, appended to

    def append_sent(self, now: Instant) -> None:
        """The record in flight is about to be handed to the log's client; only the first time counts."""
        if self.first_sent is None:
            self.first_sent = now

    def append_done(self, now: Instant, record: Record) -> list[Action]:
        """The record in flight is committed."""
        if self.in_flight is None or record.sequence != self.in_flight.sequence:
            return []
        self.in_flight, sent, self.first_sent = None, self.first_sent, None
        self.space_used += len(record.payload) + RECORD_COST
        if self.phase is Phase.INHERITING:
            if self.engine is not None and record.epoch < self.engine.epoch:
                return []  # The release of an orphan: its engine is not this one.
            return self._end_engine("leadership released", flush=True)
        if self.phase is Phase.CLAIMING and record.sequence <= self.position.sequence:
            if record.sequence == self.position.sequence:
                return self._claimed(now)
            return self._to_following()  # Read on since: somebody has claimed after us.
        if self.phase in (Phase.FOLLOWING, Phase.FROZEN):
            if record.kind is Kind.RELEASE:
                self.orphan = None
            return []  # An orphan's release, or given up while in flight; the reader will meet it.
        try:
            self.position = accept(self.position, record.sequence, record).position
        except LogCorrupt as error:
            return self._freeze(f"our own record does not follow: {error}")
        match self.phase:
            case Phase.CLAIMING:
                return self._claimed(now)
            case Phase.RELEASING if record.kind is Kind.RELEASE:
                return self._end_engine("leadership released", flush=True)
            case Phase.LEADING | Phase.DRAINING | Phase.RELEASING:
                return self._committed(now, sent)
        return []

    def append_refused(self, now: Instant) -> list[Action]:
        """The record in flight was refused for good: another one stands in its place."""
        self.in_flight = self.first_sent = None
        match self.phase:
            case Phase.CLAIMING:
                return self._to_following()
            case Phase.INHERITING:
                return [ReadLast()]
            case Phase.LEADING | Phase.DRAINING | Phase.RELEASING:
                # Stop serving first, then read why.
                self.phase = Phase.DEPOSED
                revoke: list[Action] = [] if self.silent else [Revoke(self.epoch)]
                return [*revoke, *self._read_next(now)]
        return []

    # ------------------------------------------------------------------ the engine

    def engine_up(self, now: Instant, state: EngineState) -> list[Action]:
        """An engine is connected."""
        self.engine, self.answered_at = state, now.boot
        self.tainted = state.leads
        self._not_caught_up()
        if self.phase is Phase.DEPOSED and not self.silent:
            return [Revoke(self.epoch)]  # The connection broke before it was acknowledged.
        if self.phase is Phase.FROZEN:  # The connection broke, or its agent ended, before it was told.
            return [Revoke(state.epoch) if state.leads else Reads(False, self.reason)]
        if self.phase is not Phase.FOLLOWING:
            return []
        if not state.leads:
            return self._follow(now)
        self.phase, self.silent = Phase.INHERITING, False
        return [Revoke(state.epoch)]

    def engine_answered(self, now: Instant, asked_at: int, state: EngineState) -> list[Action]:
        """A round trip through the engine's main thread, begun at ``asked_at``, has ended."""
        if self.engine is None:
            return []
        self.engine, self.answered_at = state, max(self.answered_at, asked_at)
        if self.phase is Phase.FOLLOWING:
            return self._follow(now)
        return self._next_append(now)

    def engine_promoted(self, now: Instant) -> list[Action]:
        """The engine is the primary, and its stream is attached at the claim's start."""
        if self.phase is not Phase.PROMOTING:
            return []
        self.phase = Phase.LEADING
        space: list[Action] = [Writes(False, self.space_refused)] if self.space_refused else []
        return [*space, *self._next_append(now)]

    def engine_failed(self, now: Instant, reason: str) -> list[Action]:
        """The engine could not be promoted. It was never given a lease in this epoch."""
        if self.phase is not Phase.PROMOTING:
            return []
        return [EndEngine(f"could not be promoted: {reason}"), *self._release(now)]

    def engine_revoked(self, now: Instant, epoch: int, offset: int) -> list[Action]:
        """The engine will not serve in ``epoch`` again, and its stream ends at ``offset``."""
        match self.phase:
            case Phase.INHERITING:
                self.silent = True
                return self._read_last(now)
            case Phase.DRAINING if epoch == self.epoch:
                self.silent = True
                self.drain_to = offset
                return self._next_append(now)
            case Phase.DEPOSED if epoch == self.epoch:
                self.silent = True
        return []

    def engine_lost(self, now: Instant) -> list[Action]:
        """The connection to the engine broke. That proves nothing: end the process to be sure."""
        self.engine = None
        if self.phase in (Phase.PROMOTING, Phase.LEADING, Phase.DRAINING):
            return [EndEngine("lost the connection to it")]
        if self.phase is Phase.INHERITING:
            return self._to_following()
        return []

    def engine_exited(self, now: Instant) -> list[Action]:
        """The engine's process has ended: it is silent for good."""
        self.engine, self.tainted = None, False
        if self.phase in (Phase.PROMOTING, Phase.LEADING, Phase.DRAINING):
            return self._release(now)
        if self.phase is Phase.DEPOSED:
            return self._to_following()
        if self.phase is Phase.INHERITING:
            return self._to_following()
        return []

    def orphaned(self, now: Instant, epoch: int, nonce: int) -> list[Action]:
        """The only engine that an earlier life promoted, in ``epoch``, is proved to have exited.

        :param nonce: of the records of that life.
        """
        self.orphan = Orphan(epoch, nonce)
        return self._read_last(now) if self.phase is Phase.FOLLOWING else []

    def refreeze(self, reason: str, epoch: int, position: Position) -> None:
        """Begin frozen, as the predecessor was (actions.Freeze): the engine with that memory lives."""
        self.phase, self.reason, self.epoch, self.position = Phase.FROZEN, reason, epoch, position

    def recovered(self) -> list[Action]:
        """A human has had the log put right, and it is proved to hold all that this node knows."""
        if self.phase is not Phase.FROZEN and not self.corrupt:
            return []
        # Its records may be others than those that were there: read them anew.
        self.position, self.read_on = Position(self.position.generation), None
        self.reason, self.corrupt, self.lacks_since, self.orphan = "", False, None, None
        self._not_caught_up()
        return self._end_engine("the log holds all of it again") if self.tainted else self._to_following()

    def stream(self, now: Instant, received: int, ends: list[int]) -> list[Action]:
        """The engine's stream has arrived up to ``received``; more unit ends are known."""
        self.received = max(self.received, received)
        self.ends.extend(ends)
        return [*self._judge_space(), *self._next_append(now)]

    # ------------------------------------------------------------------ time, and people

    def tick(self, now: Instant) -> list[Action]:
        """Time has passed."""
        if self.phase is Phase.FOLLOWING:
            asked = self._read_last(now) if self.orphan is not None and self.in_flight is None else []
            return [*asked, *self._follow(now)]
        if self._leads():
            lapsed = now.boot > self.deadline and self.in_flight is None
            asked = self._read_last(now) if lapsed else []
            return [*self._distrust(now), *self._next_append(now), *asked]
        if self.phase is Phase.DEPOSED:
            return self._read_next(now)
        if self.phase is Phase.INHERITING and self.silent and self.in_flight is None:
            return self._read_last(now)
        return self._next_append(now)

    def give_away(self, now: Instant, successor: str) -> list[Action]:
        """Planned failover: silence the engine, append all it did, release to ``successor`` (empty: any)."""
        if self.phase is not Phase.LEADING:
            return []
        self.phase, self.successor = Phase.DRAINING, successor
        return [Revoke(self.epoch)]

    def serving(self, now: Instant) -> bool:
        """Whether this machine's engine may answer as leader."""
        return self.phase is Phase.LEADING and now.boot < self.deadline

    # ------------------------------------------------------------------ following

    def _follow(self, now: Instant) -> list[Action]:
        """At the end of the log: let the engine serve reads, and claim if it is time to."""
        if self.engine is None or self.tainted or self.corrupt:
            return []
        at_end = self.end_at is not None and now.boot - self.end_at <= SECOND
        if not self.engine.linked:
            return [AskEngine()] if at_end else []  # Something is read for it, so it is about to be.
        actions: list[Action] = []
        if not self.caught_up and self.catch_up_to is not None:
            # The leader may write on and on: what counts is the end that was confirmed, not the newest one.
            if self.engine.offset < self.catch_up_to:
                return [AskEngine()]
            self.caught_up = True
            actions.append(Reads(True))
        if not at_end and not (self.caught_up and self.position.released):
            return actions  # Old; but what a reader at the end meets is new, and a claim has its condition.
        if self.in_flight is not None or not self._claimable(now):
            return actions
        if self.engine.offset < self.position.unit_end:
            return [*actions, AskEngine()]
        if self.engine.offset > self.position.unit_end:
            return actions  # Fed, and not yet told: never claim.
        self.phase = Phase.CLAIMING
        self.epoch = self.position.epoch + 1
        start = self.position.unit_end
        claim = Append(
            Kind.CLAIM,
            self.position.sequence + 1,
            self.epoch,
            start,
            start,
            text=self.node,
            crc=self.position.unit_crc,
        )
        return [*actions, *self._append(claim)]

    def _claimable(self, now: Instant) -> bool:
        """Whether leadership is free, as far as the log tells."""
        if self.quiet_since is None or self.position.sequence == 0:
            return False
        quiet = now.boot - self.quiet_since
        if self.position.epoch == 0:
            return True
        if self.position.released:
            return self.position.successor in ("", self.node) or quiet >= min(SECOND, self.lease // 5)
        return quiet * 5 >= self.lease * 6

    def _not_caught_up(self) -> None:
        self.caught_up, self.catch_up_to = False, None

    def _unsettle(self) -> None:
        self.quiet_since = self.end_at = self.heard_at = None

    def _clear_alarm(self) -> list[Action]:
        if self.corrupt:
            self.corrupt, self.reason = False, ""
        return []

    # ------------------------------------------------------------------ taking and giving leadership

    def _claimed(self, now: Instant) -> list[Action]:
        self.phase = Phase.PROMOTING
        self.silent, self.drain_to, self.successor = True, None, ""
        self.received = self.committed = self.position.unit_end
        self.ends.clear()  # Of an engine that is gone.
        if self.engine is None or self.engine.offset != self.position.unit_end:
            return self._release(now)
        self.tainted = True
        return [Promote(self.epoch, self.position.unit_end)]

    def _release(self, now: Instant) -> list[Action]:
        """Give leadership away; the engine is silent: exited, revoked, or never had a lease."""
        self.silent = True
        self.phase = Phase.RELEASING
        return self._next_append(now)

    def _end_engine(self, reason: str, *, flush: bool = False) -> list[Action]:
        actions: list[Action] = []
        if self.tainted:
            actions.append(EndEngine(reason, flush))
            self.engine = None
        return [*actions, *self._to_following()]

    def _to_following(self) -> list[Action]:
        self.phase = Phase.FOLLOWING
        self.epoch = 0
        self.renewed = None
        self.deadline = 0
        if self.read_on is not None and self.read_on.sequence > self.position.sequence:
            self.position = self.read_on
        self.read_on = None
        self._unsettle()
        return []

    def _lacks(self, at: int, reason: str) -> list[Action]:
        """The log was asked at ``at``, and does not show what is known to be in it."""
        if self.lacks_since is None:
            self.lacks_since = at
        return self._freeze(reason) if at - self.lacks_since >= INSIST else []

    def _freeze(self, reason: str) -> list[Action]:
        self.phase, self.reason = Phase.FROZEN, reason
        revoke: list[Action] = [Revoke(self.epoch)] if self.epoch and not self.silent else []
        return [
            *revoke,
            Reads(False, reason),
            Freeze(reason, self.epoch, self.position),
            Alarm(reason),
        ]

    # ------------------------------------------------------------------ appending

    def _append(self, append: Append) -> list[Action]:
        self.in_flight, self.first_sent = append, None
        return [append]

    def _leads(self) -> bool:
        return self.phase in (Phase.LEADING, Phase.DRAINING)

    def _next_append(self, now: Instant) -> list[Action]:
        """Append what comes next, if nothing is in flight."""
        if self.in_flight is not None:
            return []
        if self.phase is Phase.RELEASING:
            return self._append(self._record(Kind.RELEASE, text=self.successor))
        if not self._leads():
            return []
        if data := self._cut():
            if self.space_limit and self.space_used + data.end - data.start > self.space_limit * NO_ROOM:
                return [
                    EndEngine("the log has no room for what it has done; nobody was told that it is done")
                ]
            return self._append(data)
        if self.phase is Phase.DRAINING:
            if self.drain_to is not None and self.position.unit_end >= self.drain_to:
                return self._release(now)
            return []
        if self._renewal_due(now):
            return self._append(self._record(Kind.RENEW))
        return []

    def _renewal_due(self, now: Instant) -> bool:
        if self.engine is None:
            return False
        if self.renewed is None:
            return True  # The first record of the epoch.
        # A frozen engine loses its lease: renew only after it has answered since the last record.
        return now.boot - self.renewed.boot >= self.lease // 5 and self.answered_at > self.renewed.boot

    def _cut(self) -> Append | None:
        """Return the next piece: up to the last unit end that fits a record, else a full record."""
        start = self.position.open_end
        while self.ends and self.ends[0] <= start:
            self.ends.popleft()
        limit = min(self.received, start + MAX_PAYLOAD)
        cut = None
        while self.ends and self.ends[0] <= limit:
            cut = self.ends.popleft()
        if cut is not None:
            return self._record(Kind.DATA, end=cut)
        if self.received - start > MAX_PAYLOAD:  # If it is just that long, its end may only be told late.
            return self._record(Kind.DATA, end=start + MAX_PAYLOAD, flags=Flags.CONTINUES)
        return None

    def _record(
        self, kind: Kind, *, end: int | None = None, flags: Flags = Flags.NONE, text: str = ""
    ) -> Append:
        start = self.position.open_end
        end = start if end is None else end
        return Append(kind, self.position.sequence + 1, self.epoch, start, end, flags, text)

    def _release_after(self, last: Record) -> Append:
        """Return the release, in a predecessor's name, of the epoch of the log's last record."""
        return Append(Kind.RELEASE, last.sequence + 1, last.epoch, last.end, last.end, crc=last.running_crc)

    def _judge_space(self) -> list[Action]:
        """Refuse data while there still is space for what has been done, and for claims and renewals."""
        used, limit = self.space_used, self.space_limit
        if self._leads():
            used += max(self.received - self.position.open_end, 0)
        if used > limit * REFUSE_ABOVE and limit:
            # The same text for as long as it holds: whoever watches is told of news only.
            reason = (
                f"the log is above {REFUSE_ABOVE:.0%} of its limit of {limit} bytes: "
                "raise its limit or let a snapshot trim it"
            )
        elif used > limit * ALLOW_BELOW:
            reason = self.space_refused
        else:
            reason = ""
        changed = bool(reason) != bool(self.space_refused)
        self.space_refused = reason
        return [Writes(not reason, reason)] if changed and self._leads() else []

    def _committed(self, now: Instant, sent: Instant | None) -> list[Action]:
        """A record of our epoch is committed: replies leave, the lease runs from its first send."""
        actions: list[Action] = []
        if self.position.unit_end > self.committed:
            self.committed = self.position.unit_end
            actions.append(Commit(self.committed))
        if sent is not None:
            # Clocks that moved apart can't vouch for the time that has passed since.
            trusted = now.drift(sent) <= self.lease // 10
            self.renewed = sent if trusted else Instant(0, 0)
            if trusted and self.phase is Phase.LEADING:
                actions += self._extend_lease(now, sent.boot + self.lease)
        return [*actions, *self._next_append(now)]

    def _extend_lease(self, now: Instant, deadline: int) -> list[Action]:
        lapsed = now.boot >= self.deadline
        if deadline <= now.boot or (not lapsed and deadline - self.deadline < self.lease // 20):
            return []
        self.deadline, self.silent = deadline, False
        return [Lease(self.epoch, deadline)]

    def _distrust(self, now: Instant) -> list[Action]:
        """Take the lease back when the clocks have moved apart: a fresh record gives a fresh one."""
        if self.renewed is None or now.boot >= self.deadline or now.drift(self.renewed) <= self.lease // 10:
            return []
        self.renewed, self.deadline = Instant(0, 0), now.boot
        return [Lease(self.epoch, self.deadline)]

    def _read_next(self, now: Instant) -> list[Action]:
        if now.boot - self.asked_log_at < self.lease // 20:
            return []
        self.asked_log_at = now.boot
        return [ReadNext(self.position.sequence)]

    def _read_last(self, now: Instant) -> list[Action]:
        if now.boot - self.asked_log_at < self.lease // 20:
            return []
        self.asked_log_at = now.boot
        return [ReadLast()]
