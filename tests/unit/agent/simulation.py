"""A small deterministic world around the agent's machine: one log, a few nodes, and all that can go wrong.

A node is a machine with its I/O (as ``memorycluster.agent.agent`` does it), a model of the engine, and a
clock. Whatever happens in between takes a delay from a seeded generator; faults are injected by the caller.
What must always hold is checked as it happens, in what is true and not in what a node believes: each check is
a method ``check_*`` of ``World``, and raises ``Violation``.

Not modelled: a clock that stands still while time goes on (a stopped virtual machine): no lease is safe then.

Times are µs; ``World.now`` is true time, everything else asks its node's clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from uuid import UUID

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
from memorycluster.agent.machine import EngineState, Machine, Phase
from memorycluster.log.chain import Position, read
from memorycluster.log.interface import LogCorrupt
from memorycluster.log.record import Kind, Record, extend_crc

MS = 1_000
SECOND = 1_000_000
GENERATION = UUID(int=7)
MAX_PAYLOAD = 64
"""Bytes in a record of this world, so that many units are larger than one: set it in the machine, too."""
MARK_EVERY = 16
UNCOMMITTED_LIMIT = 600
RATES = (915, 915, 1000, 1095, 1095)
"""Thousandths of true time at which a node's clock may run. 1095 / 915 < 1.2, which leases rely on."""

Call = Callable[[], None]


class Violation(AssertionError):
    """Something that must hold does not."""


class Process:
    """What can be stopped, go on and die: calls made to it wait, run or are lost."""

    def __init__(self) -> None:
        self.alive = True
        self.paused = False
        self.backlog: deque[Call] = deque()

    def run(self, call: Call) -> None:
        if not self.alive:
            return
        if self.paused:
            self.backlog.append(call)
        else:
            call()

    def resume(self) -> None:
        self.paused = False
        while self.backlog and self.alive and not self.paused:
            self.backlog.popleft()()


class Channel:
    """Messages to a process in order, each after a delay. Those under way survive the sender."""

    def __init__(self, node: Node, receiver: Process, slowest: int) -> None:
        self.node, self.world, self.receiver, self.slowest = node, node.world, receiver, slowest
        self.open = True
        self.last = 0

    def send(self, call: Call) -> None:
        slowest = self.slowest + self.node.sluggish
        self.last = max(self.last, self.world.now + self.world.rng.randint(20, slowest))
        self.world.at(self.last, lambda: self.receiver.run(lambda: call() if self.open else None))


class LogModel:
    """The log: conditional appends, and reads that may be answered by a member that is behind."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.entries: list[bytes] = []
        self.available = True
        self.waiting: list[Call] = []
        """Requests that came while the log had no quorum and will be done when it has."""
        self.rotten: set[int] = set()
        self.full = False
        self.stale: tuple[int, int] | None = None
        """Reads are answered from this many entries, until this time: by a member that woke as a leader."""

    def append(self, data: bytes, sequence: int) -> bool:
        """Return whether the message stands at ``sequence`` now."""
        if len(self.entries) >= sequence:
            return self.entries[sequence - 1] == data
        if len(self.entries) < sequence - 1:
            return False
        self.entries.append(data)
        self.world.landed(sequence, Record.decode(data))
        return True

    def visible(self) -> list[bytes]:
        if self.stale and self.world.now < self.stale[1]:
            return self.entries[: self.stale[0]]
        return self.entries

    def request(self, call: Call) -> None:
        """Do what a request asks for: now; or once there is a quorum, or never."""
        if self.available:
            call()
        elif self.world.rng.random() < 0.5:
            self.waiting.append(call)

    def recover(self) -> None:
        self.available = True
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


@dataclass(slots=True)
class Held:
    """A reply that waits for an offset."""

    end: int
    write: bool


class Engine(Process):
    """The engine, by docs/engine-protocol.md."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node, self.world = node, node.world
        self.data = bytearray()
        self.leads = False
        self.epoch = self.revoked = self.committed = self.deadline = 0
        self.reads, self.writes = False, True
        self.held: deque[Held] = deque()
        self.control: Control | None = None
        self.stream: Channel | None = None
        self.link: Link | None = None
        self.last_link: Link | None = None
        self.world.after(20 * MS, 300 * MS, lambda: self.run(self.follow))
        self.world.after(1, SECOND, lambda: self.run(self.ping))

    @property
    def offset(self) -> int:
        return len(self.data)

    def state(self) -> EngineState:
        silent = not self.leads or self.revoked >= self.epoch
        linked = self.leads or self.link is not None
        return EngineState(self.leads, self.epoch, self.offset, self.committed, 0x090102, silent, linked)

    def may_serve(self) -> bool:
        """Whether it would answer a data command as leader if one came now, or as soon as it goes on."""
        return (
            self.alive and self.leads and self.revoked < self.epoch and self.node.clock().boot < self.deadline
        )

    # From the agent

    def promote(self, epoch: int, offset: int) -> bool:
        if self.leads or offset != self.offset or epoch <= self.revoked:
            return False
        self.leads, self.epoch, self.committed, self.deadline = True, epoch, offset, 0
        if self.link:
            self.link.drop()
        return True

    def lease(self, epoch: int, deadline: int) -> None:
        if self.leads and epoch == self.epoch and epoch > self.revoked:
            self.world.check_lease_bound(self, epoch, deadline)
            self.deadline = deadline

    def revoke(self, epoch: int) -> None:
        self.revoked = max(self.revoked, epoch)

    def commit(self, offset: int) -> None:
        if not self.leads or offset <= self.committed:
            return
        self.world.check_commit(self, offset)
        self.committed = offset
        while self.held and self.held[0].end <= offset:
            self.world.released(self, self.held.popleft())

    # From clients

    def client_write(self, sizes: list[int]) -> bool:
        """One iteration of the event loop in which units of these sizes are written."""
        if not self.may_serve() or not self.writes or self.offset - self.committed > UNCOMMITTED_LIMIT:
            return False
        self.world.check_reads(self)
        marks: list[int] = []
        for size in sizes:
            before = self.offset
            self.data += self.world.rng.randbytes(size)
            self.held.append(Held(self.offset, write=True))
            if before // MARK_EVERY != self.offset // MARK_EVERY:
                marks.append(self.offset)
        if not marks or marks[-1] != self.offset:
            marks.append(self.offset)
        self.flush(marks)
        return True

    def flush(self, marks: list[int]) -> None:
        if self.stream:
            end, agent = self.offset, self.node.agent
            self.stream.send(lambda: agent.stream(self, end))
        if self.control:
            self.control.push(marks)

    def client_read(self) -> bool:
        if not self.may_serve():
            return False
        self.world.check_reads(self)
        if self.offset > self.committed:
            self.held.append(Held(self.offset, write=False))
        else:
            self.world.check_bytes(self, self.offset)
        return True

    def ping(self) -> None:
        """A primary pings its replicas in the stream, with or without a lease."""
        if self.leads:
            self.data += b"PING" + self.world.rng.randbytes(2)
            self.flush([self.offset])
        self.world.after(400 * MS, 600 * MS, lambda: self.run(self.ping))

    # Following

    def follow(self) -> None:
        """Ask the agent for a link, again and again, as a replica does."""
        if not self.leads and self.link is None:
            self.node.accept_link(self)
        self.world.after(20 * MS, 300 * MS, lambda: self.run(self.follow))

    def feed(self, data: bytes) -> None:
        if not self.leads:
            self.data += data
            self.world.check_follower(self)


@dataclass(frozen=True, slots=True)
class Promotion:
    """What an agent notes before it promotes an engine."""

    engine: Engine
    epoch: int
    nonce: int


@dataclass(frozen=True, slots=True)
class Froze:
    """What an agent notes when it freezes."""

    engine: Engine
    note: Freeze


class Control:
    """The control channel of one agent to one engine, and the stream with it."""

    def __init__(self, agent: Agent, engine: Engine) -> None:
        world = agent.world
        self.agent, self.engine, self.world = agent, engine, world
        self.to_engine = Channel(agent.node, engine, 2 * MS)
        self.to_agent = Channel(agent.node, agent, 2 * MS)
        self.acks = Channel(agent.node, engine, 2 * MS)
        self.open = True

    def ask(self, command: Callable[[], object], answer: Callable[[object], None] | None = None) -> None:
        """Run ``command`` in the engine, and ``answer`` with what it returns in the agent."""

        def run() -> None:
            result = command()
            if answer:
                self.to_agent.send(lambda: answer(result))

        self.to_engine.send(run)

    def push(self, marks: list[int]) -> None:
        self.to_agent.send(lambda: self.agent.units(marks))

    def close(self, *, drop: bool = True) -> None:
        """Close it; ``drop``: also what is under way to the engine is lost."""
        if not self.open:
            return
        self.open = self.to_agent.open = False
        if drop:
            self.to_engine.open = self.acks.open = False
        if self.engine.control is self:
            self.engine.control = self.engine.stream = None
        agent = self.agent
        self.world.after(50, 3 * MS, lambda: agent.run(lambda: agent.control_closed(self)))


class Link:
    """The engine's replication link to its agent, and the agent's reading of the log for it."""

    def __init__(self, agent: Agent, engine: Engine) -> None:
        self.agent, self.engine, self.world = agent, engine, agent.world
        self.open = True
        self.feed = Channel(agent.node, engine, 3 * MS)
        self.position = Position(GENERATION)
        self.resume = engine.offset
        self.answered = self.resume == 0
        self.fed = self.resume
        self.known = agent.known if self.resume else None
        """What the engine was fed up to, by this life of its agent: the log must hold it still."""
        self.unsent = bytearray()
        self.unit = bytearray()
        self.asking = False
        if engine.last_link:
            engine.last_link.feed.open = False  # The engine has read it to its end, or lost the rest.
        engine.link = engine.last_link = self

    def drop(self) -> None:
        self.open = False
        if self.engine.link is self:
            self.engine.link = None
        if self.agent.link is self:
            self.agent.link = None

    def ask(self) -> None:
        """Ask the log for what comes next."""
        if not self.open or self.asking:
            return
        self.asking = True
        asked, after = self.world.now, self.position.sequence
        log, node = self.world.log, self.agent.node

        def serve() -> None:
            entries = log.visible()[after : after + 8]
            rotten = {after + 1 + i for i in range(len(entries))} & log.rotten
            end = len(log.visible())
            node.network(
                lambda: self.agent.run(lambda: self.answered_by_log(asked, after, entries, rotten, end))
            )

        def retry() -> None:
            if self.open and self.asking and self.position.sequence == after:
                self.asking = False
                if self.world.rng.random() < 0.2:
                    self.agent.do(self.agent.machine.log_unreadable())
                self.ask()

        node.network(lambda: log.request(serve))
        self.world.after(900 * MS, 1100 * MS, lambda: self.agent.run(retry))

    def answered_by_log(
        self, asked: int, after: int, entries: list[bytes], rotten: set[int], end: int
    ) -> None:
        if not self.open or not self.agent.alive or after != self.position.sequence or not self.asking:
            return
        self.asking = False
        machine, known = self.agent.machine, self.known
        for data in entries:
            sequence = self.position.sequence + 1
            try:
                if sequence in rotten:
                    raise LogCorrupt(f"record {sequence} is rotten")
                step = read(self.position, sequence, data)
            except LogCorrupt as error:
                self.agent.do(machine.log_corrupt(str(error)))
                self.world.after(200 * MS, 250 * MS, lambda: self.agent.run(self.ask))
                return
            self.position = step.position
            self.agent.do(machine.log_read(self.agent.clock(), step))
            if not self.open:
                return
            if step.voided:
                self.unit.clear()
            self.unit += step.record.stream
            if self.position.open_end == self.position.unit_end and self.unit:
                whole, self.unit = bytes(self.unit), bytearray()
                new = whole[max(0, self.fed - (self.position.unit_end - len(whole))) :]
                self.fed = max(self.fed, self.position.unit_end)
                self.unsent += new
            if known and step.position.sequence == known.sequence and step.position != known:
                self.agent.do(machine.log_corrupt(f"record {sequence} is not the one that was there"))
                self.drop()
                return
            if self.position.unit_end >= self.resume and (not known or sequence >= known.sequence):
                self.answered = True
            if self.answered:
                self.agent.known = self.position
                if self.unsent:
                    self.feed.send(partial(self.engine.feed, bytes(self.unsent)))
                    self.unsent.clear()
        if self.position.sequence >= end and self.world.now - asked < 500 * MS:
            if self.answered:
                self.agent.do(machine.log_end(self.agent.clock(), end))
            else:
                self.agent.do(machine.engine_ahead(self.agent.clock(), self.resume, self.position.unit_end))
                self.drop()
                return
        if entries:
            self.ask()
        else:
            self.world.after(100 * MS, 250 * MS, lambda: self.agent.run(self.ask))


class Agent(Process):
    """The I/O around a machine, as agent.py and follower.py do it."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node, self.world = node, node.world
        self.nonce = self.world.rng.getrandbits(64)
        self.machine = Machine(node.name, self.world.lease, Position(GENERATION))
        self.control: Control | None = None
        self.ending: Engine | None = None
        self.link: Link | None = None
        self.known: Position | None = None
        """What its engine has been fed up to."""
        self.owner: Engine | None = None
        """The newest engine that was connected."""
        self.source: Engine | None = None
        """The engine whose stream is attached."""
        self.received = 0
        """Offset up to which that stream has arrived."""
        if (froze := node.froze) and froze.engine.alive:
            self.machine.refreeze(froze.note.reason, froze.note.epoch, froze.note.position)
        self.reconnect()
        self.tick()
        self.watch_space()
        if note := node.promotion:
            self.watch_promoted(note)

    def clock(self) -> Instant:
        return self.node.clock()

    def do(self, actions: list[Action]) -> None:
        if not self.alive:
            return
        for action in actions:
            self.carry_out(action)
        self.world.observe(self)

    def carry_out(self, action: Action) -> None:
        control = self.control
        match action:
            case Append():
                self.append(action)
            case Commit(offset):
                if control:
                    engine = control.engine
                    control.acks.send(lambda: engine.commit(offset))
            case Lease(epoch, deadline):
                if control:
                    engine = control.engine
                    control.ask(lambda: engine.lease(epoch, deadline))
            case Revoke(epoch):
                if control:
                    self.revoke(control, epoch)
            case Promote(epoch, offset):
                if control:
                    self.promote(control, epoch, offset)
            case Writes(allowed):
                if control:
                    engine = control.engine
                    control.ask(lambda: setattr(engine, "writes", allowed))
            case Reads(allowed):
                if control:
                    engine = control.engine
                    control.ask(lambda: setattr(engine, "reads", allowed))
            case AskEngine():
                self.ask_engine()
            case EndEngine():
                if control and self.ending is None:
                    self.ending = control.engine
                    self.end(control.engine, 30 * MS)
            case ReadLast():
                self.read_log(self.read_last)
            case ReadNext(sequence):
                self.read_log(lambda entries: self.read_next(sequence, entries))
            case Freeze():
                if self.link:
                    self.link.drop()
                if self.owner:
                    self.node.froze = Froze(self.owner, action)
            case Alarm(reason):
                self.node.alarms.append(reason)

    # The log

    def append(self, append: Append) -> None:
        position = self.machine.position
        if append.kind is Kind.DATA:
            engine = self.source
            if engine is None:
                raise Violation("appends data without a stream")
            if append.end > self.received:
                raise Violation(f"appends up to {append.end}, only {self.received} have arrived")
            payload = bytes(engine.data[append.start : append.end])
        else:
            payload = append.text.encode()
        crc = position.open_crc if append.crc is None else append.crc
        record = Record(
            append.kind,
            GENERATION,
            append.epoch,
            append.sequence,
            self.nonce,
            append.start,
            extend_crc(crc, payload) if append.kind is Kind.DATA else crc,
            payload,
            append.flags,
        )
        data = record.encode()
        self.machine.append_sent(self.clock())
        self.world.first_sent.setdefault(data, self.clock().boot)
        decided = False

        def attempt() -> None:
            if decided:
                return
            self.node.network(lambda: self.world.log.request(serve))
            self.world.after(300 * MS, 900 * MS, lambda: self.run(attempt))

        def serve() -> None:
            if self.world.log.full and len(self.world.log.entries) < append.sequence:
                self.node.network(lambda: self.run(lambda: self.do(self.machine.log_full("full"))))
                return
            landed = self.world.log.append(data, append.sequence)
            if self.world.rng.random() >= self.world.answers_lost:
                self.node.network(lambda: self.run(lambda: answered(landed)))

        def answered(landed: bool) -> None:
            nonlocal decided
            if decided:
                return
            decided = True
            if landed:
                self.do(self.machine.append_done(self.clock(), record))
            else:
                self.do(self.machine.append_refused(self.clock()))

        attempt()

    def read_log(self, use: Callable[[list[bytes]], None]) -> None:
        def serve() -> None:
            entries = list(self.world.log.visible())
            self.node.network(lambda: self.run(lambda: use(entries)))

        self.node.network(lambda: self.world.log.request(serve))

    def read_last(self, entries: list[bytes]) -> None:
        self.do(self.machine.log_last(Record.decode(entries[-1]) if entries else None))

    def read_next(self, sequence: int, entries: list[bytes]) -> None:
        if len(entries) < sequence:
            self.do(self.machine.log_too_short(len(entries)))
            return
        record = Record.decode(entries[sequence]) if len(entries) > sequence else None
        self.do(self.machine.log_next(self.clock(), sequence, record))

    def tick(self) -> None:
        self.do(self.machine.tick(self.clock()))
        self.world.after(40 * MS, 60 * MS, lambda: self.run(self.tick))

    def watch_space(self) -> None:
        if self.world.log.available:
            self.do(self.machine.log_space(self.world.space_used << 20, 100 << 20))
        self.world.after(900 * MS, 1100 * MS, lambda: self.run(self.watch_space))

    # The engine

    def reconnect(self) -> None:
        """Stay connected to whichever engine is there."""
        engine = self.node.engine
        if self.control is None and self.ending is None and engine.alive:
            self.control = control = Control(self, engine)

            def attach() -> EngineState:
                if engine.control:
                    engine.control.close()
                engine.control = control
                return engine.state()

            def up(state: object) -> None:
                assert isinstance(state, EngineState)
                if self.control is control:
                    self.owner = engine
                    self.do(self.machine.engine_up(self.clock(), state))
                    self.keep_asking(control)

            control.ask(attach, up)
            control.ask(lambda: control.push([engine.offset]) if engine.leads else None)
            return
        self.world.after(10 * MS, 30 * MS, lambda: self.run(self.reconnect))

    def keep_asking(self, control: Control) -> None:
        if self.control is control and control.open:
            self.ask_engine()
            wait = min(self.world.lease // 10, 500 * MS)
            self.world.after(wait, wait + 1, lambda: self.run(lambda: self.keep_asking(control)))

    def ask_engine(self) -> None:
        control = self.control
        if control is None:
            return
        asked = self.clock().boot
        engine = control.engine

        def answer(state: object) -> None:
            assert isinstance(state, EngineState)
            if self.control is control:
                self.do(self.machine.engine_answered(self.clock(), asked, state))

        control.ask(engine.state, answer)

    def revoke(self, control: Control, epoch: int) -> None:
        engine = control.engine

        def answer(offset: object) -> None:
            assert isinstance(offset, int)
            self.do(self.machine.engine_revoked(self.clock(), epoch, offset))

        def command() -> int:
            engine.revoke(epoch)
            return engine.offset

        control.ask(command, answer)

    def promote(self, control: Control, epoch: int, offset: int) -> None:
        engine = control.engine

        def answer(done: object) -> None:
            if done:
                control.ask(attach, attached)
            else:
                self.do(self.machine.engine_failed(self.clock(), "refused"))

        def attach() -> None:
            engine.stream = Channel(self.node, self, 3 * MS)
            self.source, self.received = engine, offset
            if engine.offset > offset:
                end = engine.offset
                engine.stream.send(lambda: self.stream(engine, end))

        if self.node.takes_notes:
            self.node.promotion = Promotion(engine, epoch, self.nonce)

        def attached(_: object) -> None:
            self.do(self.machine.engine_promoted(self.clock()))
            self.do(self.machine.stream(self.clock(), self.received, []))

        control.ask(lambda: engine.promote(epoch, offset), answer)

    def watch_promoted(self, note: Promotion) -> None:
        """As ``_release_after``: once the engine of a predecessor has exited, say so."""
        if note.engine.alive:
            self.world.after(1 * MS, 5 * MS, lambda: self.run(lambda: self.watch_promoted(note)))
        else:
            self.do(self.machine.orphaned(self.clock(), note.epoch, note.nonce))

    def stream(self, engine: Engine, received: int) -> None:
        if self.source is engine:
            self.received = received
            self.do(self.machine.stream(self.clock(), received, []))

    def units(self, marks: list[int]) -> None:
        self.do(self.machine.stream(self.clock(), 0, marks))

    def end(self, engine: Engine, patience: int) -> None:
        self.world.after(1 * MS, patience, lambda: self.run(lambda: self.node.kill_engine(engine)))

    def control_closed(self, control: Control) -> None:
        """As ``_engine_gone``: has the process ended? If not, the machine says what to do."""
        if self.control is not control:
            return
        if control.engine.alive:
            self.do(self.machine.engine_lost(self.clock()))
        self.control = None
        self.wait_for_end(control)

    def wait_for_end(self, control: Control) -> None:
        if self.ending and self.ending.alive:
            self.world.after(2 * MS, 4 * MS, lambda: self.run(lambda: self.wait_for_end(control)))
            return
        self.ending = None
        if not control.engine.alive:
            self.do(self.machine.engine_exited(self.clock()))
        self.reconnect()


class Node:
    """One node: its clock, its engine, its agent, and the supervisor that starts them again."""

    def __init__(self, world: World, index: int, rate: int) -> None:
        self.world, self.index, self.rate = world, index, rate
        self.name = f"n{index}"
        self.boot = world.rng.randrange(10**9)
        self.skew = world.rng.randrange(10**12)
        self.slow = self.sluggish = 0
        """Further delay, of the network and between agent and engine, at most."""
        self.alarms: list[str] = []
        self.promotion: Promotion | None = None
        self.froze: Froze | None = None
        self.takes_notes = True
        """A promotion is noted; else the note of an older one stays."""
        self.powered = True
        """What has died is started again."""
        self.engine = Engine(self)
        self.agent = Agent(self)

    def clock(self) -> Instant:
        boot = self.boot + self.world.now * self.rate // 1000
        return Instant(boot, boot + self.skew)

    def network(self, call: Call) -> None:
        """Carry a message between this node and the log."""
        rng = self.world.rng
        delay = rng.randint(100, 3 * MS)
        if rng.random() < self.world.spikes:
            delay += rng.randrange(self.world.lease)
        if self.slow:
            delay += rng.randrange(self.slow)
        self.world.at(self.world.now + delay, call)

    def accept_link(self, engine: Engine) -> None:
        if self.agent.alive and not self.agent.paused and self.agent.machine.phase is not Phase.FROZEN:
            if self.agent.link:
                self.agent.link.drop()
            self.agent.link = link = Link(self.agent, engine)
            link.ask()

    def kill_engine(self, engine: Engine | None = None) -> None:
        engine = engine or self.engine
        if not engine.alive:
            return
        engine.alive = False
        self.world.check_memory_kept(engine)
        if engine.control:
            engine.control.close()
        if self.agent.control and self.agent.control.engine is engine:
            self.agent.control.close()
        if engine.link:
            engine.link.drop()
        self.world.after(20 * MS, 300 * MS, self.start_engine)

    def start_engine(self) -> None:
        if not self.engine.alive and self.powered:
            self.engine = Engine(self)

    def kill_agent(self) -> None:
        agent = self.agent
        if not agent.alive:
            return
        agent.alive = False
        if agent.control:
            agent.control.close(drop=False)  # What is in the socket still arrives.
        if agent.link:
            agent.link.drop()
        self.world.after(20 * MS, 200 * MS, self.start_agent)

    def start_agent(self) -> None:
        if not self.agent.alive and self.powered:
            self.agent = Agent(self)

    def lose(self) -> None:
        """Lose the machine, with all that runs on it, until ``restore``."""
        self.powered = False
        self.kill_engine()
        self.kill_agent()

    def restore(self) -> None:
        """Start a lost machine again: on another boot, so that its note proves nothing."""
        if not self.powered:
            self.powered, self.promotion, self.froze = True, None, None
            self.start_engine()
            self.start_agent()


class World:
    """Everything there is."""

    def __init__(self, seed: int, *, nodes: int = 3, lease: int = 2 * SECOND) -> None:
        self.rng = Random(seed)
        self.now = 0
        self.lease = lease
        self.queue: list[tuple[int, int, Call]] = []
        self.count = 0
        self.answers_lost = 0.0
        self.spikes = 0.02
        """Share of the messages between nodes and log that take up to a lease."""
        self.space_used = 10
        self.lost = False
        """The log has lost a tail: what was promised can't be kept, but it must be noticed."""
        self.log = LogModel(self)
        self.position = Position(GENERATION)
        """Where every reader stands that has read all of the log."""
        self.content = bytearray()
        """The stream that they have read."""
        self.acked = 0
        """Highest offset that any client, or any engine, was told is committed."""
        self.acks = self.reads = 0
        self.landings: dict[Kind, int] = dict.fromkeys(Kind, 0)
        self.claims: dict[int, int] = {}
        """Nonce of each epoch's claimant."""
        self.first_sent: dict[bytes, int] = {}
        self.renewed: dict[int, int] = {}
        """When the newest record of each epoch was first sent, on its writer's clock."""
        self.frozen: set[str] = set()
        self.log.append(Record(Kind.GENESIS, GENERATION, 0, 1, 0, 0, 0).encode(), 1)
        self.nodes = [Node(self, index, self.rng.choice(RATES)) for index in range(nodes)]
        self.clients()

    # Time

    def at(self, time: int, call: Call) -> None:
        self.count += 1
        heapq.heappush(self.queue, (time, self.count, call))

    def after(self, least: int, most: int, call: Call) -> None:
        self.at(self.now + self.rng.randint(least, most), call)

    def run(self, duration: int) -> None:
        """Let everything happen that happens in ``duration``."""
        until = self.now + duration
        while self.queue and self.queue[0][0] <= until:
            self.now, _, call = heapq.heappop(self.queue)
            call()
            self.check_one_serves()
        self.now = until

    def run_to(self, kind: Kind, limit: int) -> None:
        """Run until the very moment at which the next record of ``kind`` lands: nobody knows of it yet."""
        before, until = self.landings[kind], self.now + limit
        while self.landings[kind] == before and self.queue and self.queue[0][0] <= until:
            self.now, _, call = heapq.heappop(self.queue)
            call()
            self.check_one_serves()

    def run_until(self, condition: Callable[[], bool], limit: int) -> bool:
        """Run until ``condition`` holds; return whether it came to hold within ``limit``."""
        until = self.now + limit
        while not condition():
            if self.now >= until:
                return False
            self.run(20 * MS)
        return True

    def clients(self) -> None:
        """Clients that write and read at every engine."""
        if hasattr(self, "nodes"):
            for node in self.nodes:
                if node.engine.alive and not node.engine.paused:
                    if self.rng.random() < 0.6:
                        node.engine.client_write(self.sizes())
                    node.engine.client_read()
        self.after(5 * MS, 60 * MS, self.clients)

    def sizes(self) -> list[int]:
        """Sizes of the units of one iteration: small ones, and some that need several records."""
        sizes = [self.rng.choice((1, 5, 16, 40)) for _ in range(self.rng.choice((1, 1, 2, 6)))]
        if self.rng.random() < 0.2:
            sizes.append(
                self.rng.choice((MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 2 * MAX_PAYLOAD, 300))
            )
        self.rng.shuffle(sizes)
        return sizes

    # What happened

    def landed(self, sequence: int, record: Record) -> None:
        """A record stands in the log."""
        before = self.position
        try:
            step = read(before, sequence, record.encode())
        except LogCorrupt as error:
            if self.lost:
                return  # Whoever reads it stops there.
            raise Violation(f"a correct writer corrupted the log: {error}") from error
        if record.kind is Kind.CLAIM:
            self.check_claim(record)
            self.claims[record.epoch] = record.nonce
        if record.kind is Kind.DATA:
            self.check_own_epoch(record)
        if record.kind is Kind.RELEASE:
            self.check_release_is_silent(record)
        if step.voided:
            del self.content[step.position.open_end :]
        self.content += record.stream
        self.position = step.position
        self.landings[record.kind] += 1
        sent = self.first_sent.get(record.encode())
        if sent is not None:
            self.renewed[record.epoch] = max(self.renewed.get(record.epoch, 0), sent)

    def released(self, engine: Engine, held: Held) -> None:
        """A reply left."""
        self.check_bytes(engine, held.end)
        if held.write:
            self.acks += 1
        else:
            self.reads += 1

    def observe(self, agent: Agent) -> None:
        if agent.machine.phase is Phase.FROZEN:
            self.frozen.add(agent.node.name)
            if not self.lost:
                raise Violation(f"{agent.node.name} froze, and nothing was lost: {agent.machine.reason}")

    # What must hold

    def check_one_serves(self) -> None:
        """No two engines can answer data commands at the same moment."""
        serving = [node.engine for node in self.nodes if node.engine.may_serve()]
        if len(serving) > 1 and not self.lost:
            raise Violation(f"{[engine.node.name for engine in serving]} can serve at once")

    def check_lease_bound(self, engine: Engine, epoch: int, deadline: int) -> None:
        """A lease ends at most ``lease`` after the first send of its epoch's newest committed record."""
        if deadline > self.renewed.get(epoch, 0) + self.lease and not self.lost:
            raise Violation(f"lease of epoch {epoch} until {deadline}: its record lets it serve less")

    def check_commit(self, engine: Engine, offset: int) -> None:
        """An engine is told of a commit only once every reader of the log reads these bytes, for ever."""
        self.check_bytes(engine, offset)
        self.acked = max(self.acked, offset)

    def check_bytes(self, engine: Engine, end: int) -> None:
        """What a client is told up to ``end`` is what all readers of the log read."""
        if self.lost:
            return
        if end > self.position.unit_end:
            raise Violation(f"{engine.node.name} told of {end}, the log ends at {self.position.unit_end}")
        start = max(0, end - 512)
        if engine.data[start:end] != self.content[start:end]:
            raise Violation(f"{engine.node.name} told of bytes up to {end} that the log does not hold")

    def check_reads(self, engine: Engine) -> None:
        """Whoever serves has all that was acknowledged by anybody before."""
        if engine.offset < self.acked and not self.lost:
            raise Violation(f"{engine.node.name} serves at {engine.offset}, {self.acked} was acknowledged")

    def check_follower(self, engine: Engine) -> None:
        """A follower applies whole, committed units only."""
        self.check_bytes(engine, engine.offset)

    def check_claim(self, record: Record) -> None:
        """A claim cuts no byte that was acknowledged."""
        if record.start < self.acked and not self.lost:
            raise Violation(
                f"claim of epoch {record.epoch} starts at {record.start}, {self.acked} was acknowledged"
            )

    def check_own_epoch(self, record: Record) -> None:
        """Data is appended only by the very process that claimed its epoch."""
        if self.claims.get(record.epoch) != record.nonce:
            raise Violation(f"data in epoch {record.epoch} by a process that did not claim it")

    def check_release_is_silent(self, record: Record) -> None:
        """When a release stands in the log, no engine of that epoch can answer any more."""
        for node in self.nodes:
            if node.engine.epoch <= record.epoch and node.engine.may_serve():
                raise Violation(f"{node.name} can still serve in epoch {record.epoch}, which is released")

    def check_memory_kept(self, engine: Engine) -> None:
        """A frozen node's agent does not end the engine."""
        if engine.node.agent.ending is engine and engine.node.agent.machine.phase is Phase.FROZEN:
            raise Violation(f"{engine.node.name} is frozen, and its engine's memory was thrown away")

    # Faults

    def heal(self) -> None:
        """End all faults."""
        self.answers_lost, self.spikes, self.space_used = 0.0, 0.0, 10
        self.log.stale, self.log.full = None, False
        self.log.rotten.clear()
        self.log.recover()
        for node in self.nodes:
            node.slow = node.sluggish = 0
            node.takes_notes = True
            node.restore()
            node.engine.resume()
            node.agent.resume()
            self.check_one_serves()

    def lose_tail(self, records: int) -> None:
        """Let the log lose what it had made durable: the one thing that it must not do."""
        self.lost = True
        self.log.entries = self.log.entries[: max(1, len(self.log.entries) - records)]
        self.position, self.content = Position(GENERATION), bytearray()
        for sequence, data in enumerate(self.log.entries, 1):
            step = read(self.position, sequence, data)
            self.position = step.position
            if step.voided:
                del self.content[step.position.open_end :]
            self.content += step.record.stream

    def leader(self) -> Node | None:
        """The node that serves, if one does."""
        return next((node for node in self.nodes if node.engine.may_serve()), None)

    def settled(self) -> bool:
        """One node leads, all others follow and have what it has."""
        if self.leader() is None:
            return False
        phases = sorted(node.agent.machine.phase for node in self.nodes)
        if phases != sorted([Phase.LEADING] + [Phase.FOLLOWING] * (len(self.nodes) - 1)):
            return False
        return all(
            node.engine.alive
            and (
                node.agent.machine.phase is Phase.LEADING
                or (node.engine.reads and node.engine.offset >= self.position.unit_end - 2000)
            )
            for node in self.nodes
        )

    def check_recovers(self) -> None:
        """Once faults have ended, one node soon serves, the others follow, and writes are acknowledged."""
        self.heal()
        if not self.run_until(self.settled, 5 * self.lease + 8 * SECOND):
            raise Violation("no recovery: " + self.describe())
        before = self.acks
        if not self.run_until(lambda: self.acks > before + 3, 5 * SECOND):
            raise Violation("writes are not acknowledged: " + self.describe())

    def describe(self) -> str:
        """Where everybody stands."""
        lines = [
            f"the log ends at {len(self.log.entries)}, {self.position.unit_end}/{self.position.open_end}"
        ]
        for node in self.nodes:
            machine, engine = node.agent.machine, node.engine
            lines.append(
                f"{node.name} {machine.phase} at {machine.position.sequence}, in flight {machine.in_flight}, "
                f"engine {'leads' if engine.leads else 'follows'} at {engine.offset}, reads {engine.reads}, "
                f"alive {engine.alive}, held {len(engine.held)}, {machine.reason}"
            )
        return "\n".join(lines)
