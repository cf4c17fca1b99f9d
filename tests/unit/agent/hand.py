"""A machine driven by hand: the test says what happens, in order, and looks at what the machine asks for."""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from memorycluster.agent.actions import Action, Append
from memorycluster.agent.clock import Instant
from memorycluster.agent.machine import EngineState, Machine, Phase
from memorycluster.log.chain import Position, Read, accept
from memorycluster.log.record import Flags, Kind, Record, extend_crc

MS = 1_000
SECOND = 1_000_000
LEASE = 5 * SECOND
GENERATION = UUID(int=7)
MINE, THEIRS = 1, 2
"""Nonces of this process, and of another one."""

A = TypeVar("A", bound=Action)


def unit(length: int) -> bytes:
    return bytes(i % 251 for i in range(length))


class Hand:
    """A machine of node ``a``, the log as it truly is, and a clock that the test moves."""

    def __init__(self, lease: int = LEASE) -> None:
        self.machine = Machine(node="a", lease=lease, position=Position(GENERATION))
        self.boot, self.skew = 100 * SECOND, 10**12
        self.log: list[Read] = []
        self.actions: list[Action] = []
        """All that the last event asked for."""
        self.write(Kind.GENESIS)

    @property
    def now(self) -> Instant:
        return Instant(self.boot, self.boot + self.skew)

    def phase(self) -> Phase:
        return self.machine.phase

    def wait(self, us: int) -> None:
        self.boot += us

    # The log

    @property
    def position(self) -> Position:
        return self.log[-1].position if self.log else Position(GENERATION)

    def write(
        self,
        kind: Kind,
        payload: bytes = b"",
        *,
        epoch: int | None = None,
        flags: Flags = Flags.NONE,
        nonce: int = THEIRS,
    ) -> Record:
        """Let somebody append a record; the machine has not read it."""
        at = self.position
        claim = kind is Kind.CLAIM
        start, crc = (at.unit_end, at.unit_crc) if claim else (at.open_end, at.open_crc)
        record = Record(
            kind,
            GENERATION,
            (at.epoch + claim) if epoch is None else epoch,
            at.sequence + 1,
            nonce,
            start,
            extend_crc(crc, payload) if kind is Kind.DATA else crc,
            payload,
            flags,
        )
        self.log.append(accept(at, record.sequence, record))
        return record

    def read(self) -> list[Action]:
        """Let the machine read what it has not read."""
        actions: list[Action] = []
        for step in self.log[self.machine.position.sequence :]:
            actions += self.machine.log_read(self.now, step)
        return self.did(actions)

    def end(self) -> list[Action]:
        """Let it read, and confirm the end."""
        actions = self.read()
        return self.did([*actions, *self.machine.log_end(self.now, self.position.sequence)])

    def quiet(self, us: int) -> list[Action]:
        """Let time pass in which the end is confirmed every 0.25 s, and nothing comes."""
        actions: list[Action] = []
        for _ in range(us // (250 * MS)):
            self.wait(250 * MS)
            actions += self.machine.log_end(self.now, self.position.sequence)
        return self.did(actions)

    # Appends of the machine

    def flight(self) -> Append:
        assert self.machine.in_flight is not None
        return self.machine.in_flight

    def record(self, append: Append) -> Record:
        """The record of an append, as the agent makes it."""
        crc = self.machine.position.open_crc if append.crc is None else append.crc
        payload = append.text.encode()
        if append.kind is Kind.DATA:
            payload = unit(append.end - append.start)
            crc = extend_crc(crc, payload)
        return Record(
            append.kind,
            GENERATION,
            append.epoch,
            append.sequence,
            MINE,
            append.start,
            crc,
            payload,
            append.flags,
        )

    def send(self) -> Record:
        """Send what is in flight; return its record."""
        record = self.record(self.flight())
        self.machine.append_sent(self.now)
        return record

    def land(self, record: Record) -> None:
        """Let a record of the machine stand in the log."""
        self.log.append(accept(self.position, record.sequence, record))

    def commit(self, *, after: int = MS) -> list[Action]:
        """Send what is in flight, let it land, and acknowledge it."""
        record = self.send()
        self.land(record)
        self.wait(after)
        return self.did(self.machine.append_done(self.now, record))

    # The engine

    def engine(self, offset: int | None = None, *, leads: int = 0, committed: int = 0) -> EngineState:
        """What an engine says; ``leads``: the epoch that it leads in."""
        at = self.position.unit_end if offset is None else offset
        return EngineState(bool(leads), leads, at, committed, 0x090102, not leads)

    def up(self, state: EngineState | None = None) -> list[Action]:
        return self.did(self.machine.engine_up(self.now, state or self.engine()))

    def answer(self, offset: int | None = None, *, leads: int = 0) -> list[Action]:
        """A round trip through the engine, begun now."""
        return self.did(self.machine.engine_answered(self.now, self.boot, self.engine(offset, leads=leads)))

    # The whole way

    def following(self) -> Hand:
        """Follow another leader, of epoch 1, at the log's end; the engine has applied all of it."""
        self.write(Kind.CLAIM, b"b")
        self.write(Kind.DATA, unit(100))
        self.up()
        self.end()
        assert self.phase() is Phase.FOLLOWING
        assert self.machine.caught_up
        return self

    def claiming(self) -> Hand:
        """The claim of the first epoch is in flight."""
        self.up()
        self.end()
        assert self.phase() is Phase.CLAIMING
        return self

    def promoting(self) -> Hand:
        self.claiming()
        self.commit()
        assert self.phase() is Phase.PROMOTING
        return self

    def leading(self) -> Hand:
        """Lead in epoch 1 with a lease; nothing in flight."""
        self.promoting()
        self.did(self.machine.engine_promoted(self.now))
        self.commit()
        assert self.machine.serving(self.now)
        assert self.machine.in_flight is None
        return self

    # What was asked for

    def did(self, actions: list[Action]) -> list[Action]:
        self.actions = actions
        return actions

    def tick(self) -> list[Action]:
        return self.did(self.machine.tick(self.now))

    def of(self, kind: type[A]) -> list[A]:
        """What the last event asked for of this kind."""
        return [action for action in self.actions if isinstance(action, kind)]
