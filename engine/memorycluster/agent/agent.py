"""The agent: carries out what the machine decides. All I/O of its decisions is here; no decision is."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from memorycluster.agent import clock, freeze, recovery
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
from memorycluster.agent.config import AgentConfig
from memorycluster.agent.engine import (
    Control,
    EngineError,
    Process,
    Stream,
    decode_map,
    engine_state,
)
from memorycluster.agent.follower import Follower
from memorycluster.agent.gathering import Gathering
from memorycluster.agent.machine import Machine, Phase
from memorycluster.agent.parameters import Parameters
from memorycluster.agent.promotion import Promotion
from memorycluster.log.chain import Position, Read
from memorycluster.log.interface import Log, LogConflict, LogError, LogFull, LogHealth
from memorycluster.log.record import InvalidRecord, Kind, Record, extend_crc, replication_id
from memorycluster.snapshot.bootstrap import Bootstrap
from memorycluster.snapshot.catalogue import open_catalogue

logger = logging.getLogger(__name__)

TICK = 0.05
"""Seconds between two looks at the clock."""

HEALTH_INTERVAL = 1.0
"""Seconds between two looks at the log's size and members."""

HEALTH_WITHIN = 5.0
"""Seconds for one look; the log's client gives up earlier, and knows why."""

FETCH_WITHIN = 30.0
"""Seconds for an engine to send what is in its backlog."""

EXIT_PATIENCE = 1.0
"""Seconds that an engine gets to send what has been released, and again to shut down, before SIGKILL."""


@dataclass(slots=True)
class Engine:
    """A connected engine."""

    control: Control
    process: Process
    version: int


class Agent:
    """Connects one engine to its shard's log."""

    def __init__(self, config: AgentConfig, log: Log) -> None:
        self.config = config
        self.machine = Machine(
            node=config.node, lease=round(config.lease * 1_000_000), position=Position(config.generation)
        )
        self.log = log
        self.health: LogHealth | None = None
        self.parameters = (
            None if config.parameters is None else Parameters(config.parameters_revision, config.parameters)
        )
        self._refusal = ""
        """Why the log does not take the record in flight, or had no answer to the question for its health."""
        self._engine_refusal = ""
        """Why an engine that is there can't be connected."""
        self._nonce = secrets.randbits(64)
        self._replication_id = replication_id(config.generation)
        self._engine: Engine | None = None
        self._stream: Stream | None = None
        """Of the newest promoted engine. It keeps what has arrived, also when its connection has gone."""
        self._gathering = Gathering()
        self._ending: asyncio.Task[None] | None = None
        self._ask = asyncio.Event()
        self._owner: freeze.Owner | None = None
        """The newest engine that was connected."""
        self._tasks = asyncio.TaskGroup()
        self._phase = self.machine.phase
        self._moved = asyncio.Event()
        snapshots = None
        if config.snapshots:
            snapshots = partial(
                open_catalogue, config.snapshots, config.cluster, config.shard, config.access, lenient=True
            )
        self._bootstrap = Bootstrap(log, config.generation, snapshots, config.spool)
        self.follower = Follower(
            log,
            config.generation,
            self,
            port=config.follow_port,
            user=config.user,
            password=config.password.get_secret_value(),
            bootstrap=self._bootstrap,
        )
        if note := freeze.Freeze.load(freeze.note_of(config.engine_socket), config.generation):
            logger.error("ALARM: frozen since before this agent was started: %s", note.reason)
            self.machine.refreeze(note.reason, note.epoch, note.position)
            self.follower.hold()

    async def run(self) -> None:
        """Run until cancelled. An unexpected error ends the agent: its successor starts from what is true."""
        async with self._tasks:
            self._spawn(self.follower.serve())
            self._spawn(self._connect_engines())
            self._spawn(self._tick())
            self._spawn(self._watch_log())
            if promotion := Promotion.load(self.config.promotion):
                self._spawn(self._release_after(promotion))

    async def give_away(self, successor: str) -> bool:
        """Give leadership away as planned; return whether there was any, once the release is in the log."""
        if self.machine.phase is not Phase.LEADING:
            return False
        logger.info("giving leadership away to %s", successor or "whoever is first")
        self._gathering.end()
        self._do(self.machine.give_away(clock.now(), successor))
        while self.machine.phase in (Phase.DRAINING, Phase.RELEASING, Phase.DEPOSED):
            self._moved.clear()
            await self._moved.wait()
        if self._ending:
            await asyncio.wait([self._ending])
        return True

    async def thawed(self) -> None:
        """Return once this node is not frozen."""
        while self.machine.phase is Phase.FROZEN:
            self._moved.clear()
            await self._moved.wait()
        if self._ending:
            await asyncio.wait([self._ending])

    async def set_parameters(self, revision: str, wanted: Mapping[str, str]) -> None:
        """Give the engine these parameters, now and whenever one connects. Not if they are its own affair."""
        assert self.parameters
        self.parameters.want(revision, wanted)
        if self._engine:
            await self.parameters.apply(self._engine.control)

    @property
    def trouble(self) -> str:
        """What is wrong with the log or the engine, as far as this agent can tell; empty if nothing is."""
        return self._engine_refusal or self._refusal or self.log.trouble or self.follower.trouble

    async def examine(self) -> recovery.Plan:
        """Return what can be done about this node, should it be frozen. Raises LogError."""
        return await recovery.examine(self.log, self.machine, self._bootstrap.position, self._fetch)

    async def recover(self) -> recovery.Plan:
        """Put back what the log lacks, if that is proved to be right, and follow again.

        :raises recovery.Refused: the log has gone on. :raises LogError:
        """
        plan = await self.examine()
        if plan.verdict is recovery.Verdict.APPEND:
            config = self.config
            await recovery.put_back(self.log, plan, node=config.node, nonce=self._nonce, lease=config.lease)
        if plan.verdict in (recovery.Verdict.APPEND, recovery.Verdict.RESUME):
            self._do(self.machine.recovered())
            freeze.Freeze.forget(freeze.note_of(self.config.engine_socket))
            self.follower.release()
        return plan

    # ------------------------------------------------------------------ carrying out

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(coroutine)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            self._carry_out(action)
        if self._phase is not self.machine.phase:
            logger.info(
                "%s -> %s at %d", self._phase.value, self.machine.phase.value, self.machine.position.unit_end
            )
            self._phase = self.machine.phase
            self._moved.set()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Append():
                self._spawn(self._append(self._record(action), action))
            case Commit(offset):
                if self._stream:
                    self._stream.commit(offset)
            case Lease(epoch, deadline):
                self._tell("TXLOG", "LEASE", epoch, deadline)
            case Revoke(epoch):
                self._spawn(self._revoke(epoch))
            case Promote(epoch, offset):
                self._spawn(self._promote(epoch, offset))
            case Writes(allowed, reason):
                self._tell("TXLOG", "WRITES", "yes" if allowed else "no", reason)
            case Reads(allowed, reason):
                self._tell("TXLOG", "READS", "yes" if allowed else "no", reason)
            case AskEngine():
                self._ask.set()
            case EndEngine(reason, flush):
                self._end_engine(reason, flush)
            case ReadLast():
                self._spawn(self._read_last())
            case ReadNext(sequence):
                self._spawn(self._read_next(sequence))
            case Freeze(reason, epoch, position):
                self.follower.hold()
                if self._owner:
                    freeze.Freeze(self._owner, reason, epoch, position).save(
                        freeze.note_of(self.config.engine_socket)
                    )
            case Alarm(reason):
                logger.error("ALARM: %s", reason)

    # ------------------------------------------------------------------ the log

    def _record(self, append: Append) -> Record:
        if append.kind is Kind.DATA:
            assert self._stream
            payload = self._stream.read(append.start, append.end)
        else:
            payload = append.text.encode()
        crc = self.machine.position.open_crc if append.crc is None else append.crc
        return Record(
            kind=append.kind,
            generation=self.config.generation,
            epoch=append.epoch,
            sequence=append.sequence,
            nonce=self._nonce,
            start=append.start,
            running_crc=extend_crc(crc, payload) if append.kind is Kind.DATA else crc,
            payload=payload,
            flags=append.flags,
            engine_version=self._engine.version if self._engine else 0,
        )

    async def _append(self, record: Record, append: Append) -> None:
        data = record.encode()
        self.machine.append_sent(clock.now())
        while True:
            try:
                await self.log.append(data, sequence=record.sequence)
                break
            except LogConflict as error:
                logger.warning("record %d was refused: %s", record.sequence, error)
                self._gathering.end()
                self._do(self.machine.append_refused(clock.now()))
                return
            except LogFull as error:
                self._do(self.machine.log_full(str(error)))
            except LogError as error:
                logger.error("record %d: %s", record.sequence, error)
                self._refusal = str(error)
            await asyncio.sleep(0.2)
        if self._stream and append.kind is Kind.DATA:
            self._stream.forget(append.end)
        self._gathering.take()  # So that all that has been done meanwhile goes into the next record.
        self._do(self.machine.append_done(clock.now(), record))
        if self.machine.in_flight is None or self.machine.phase is not Phase.LEADING:
            self._gathering.end()

    def _gather(self) -> None:
        """While a record is in flight nothing can be done with what the engine says."""
        leads = self.machine.in_flight is not None and self.machine.phase is Phase.LEADING
        if leads and self._stream and self._engine:
            self._gathering.begin(self._engine.control, self._stream)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._gathering.end_after(TICK)  # The log is slow: the engine's answers matter, and its end.
            self._do(self.machine.tick(clock.now()))

    async def _read_last(self) -> None:
        try:
            end = await self.log.end()
            data = await self.log.get(end) if end else None
            last = Record.decode(data) if data else None
        except (LogError, InvalidRecord) as error:
            logger.warning("can't read the log's end: %s", error)
            return
        self._do(self.machine.log_last(last))

    async def _read_next(self, sequence: int) -> None:
        try:
            end = await self.log.end()
            if end < sequence:
                self._do(self.machine.log_too_short(end))
                return
            data = await self.log.get(sequence + 1) if end > sequence else None
            following = Record.decode(data) if data else None
        except (LogError, InvalidRecord) as error:
            logger.warning("can't read the log after %d: %s", sequence, error)
            return
        self._do(self.machine.log_next(clock.now(), sequence, following))

    async def _watch_log(self) -> None:
        """Keep an eye on the log's size and members."""
        while True:
            try:
                async with asyncio.timeout(HEALTH_WITHIN):
                    self.health = health = await self.log.health()
                self._refusal = ""
                self._do(self.machine.log_space(health.bytes, health.max_bytes))
            except (LogError, TimeoutError) as error:
                self.health, self._refusal = None, str(error) or "the log does not answer"
            await asyncio.sleep(HEALTH_INTERVAL)

    # What the follower's reading meets: see follower.Listener.

    def on_start(self, position: Position) -> None:  # noqa: D102
        self._do(self.machine.log_vouched(clock.now(), position))

    def on_read(self, read: Read) -> None:  # noqa: D102
        self._do(self.machine.log_read(clock.now(), read))

    def on_end(self, sequence: int) -> None:  # noqa: D102
        self._do(self.machine.log_end(clock.now(), sequence))

    def on_corrupt(self, reason: str) -> None:  # noqa: D102
        self._do(self.machine.log_corrupt(reason))

    def on_ahead(self, offset: int, end: int) -> None:  # noqa: D102
        self._do(self.machine.engine_ahead(clock.now(), offset, end))

    # ------------------------------------------------------------------ the engine

    async def _connect_engines(self) -> None:
        """Stay connected to whichever engine listens on the socket."""
        while True:
            try:
                control, process, status = await Control.connect(
                    self.config.engine_socket,
                    self.config.user,
                    self.config.password.get_secret_value(),
                    self._on_units,
                )
            except (OSError, EngineError) as error:
                self._no_engine(error)
                await asyncio.sleep(0.02)
                continue
            self._engine_refusal = ""
            state = engine_state(status)
            with contextlib.suppress(OSError):  # It has exited, then: there is no memory to keep.
                self._owner = freeze.Owner.of(process.pid)
            self._engine = engine = Engine(control, process, state.version)
            logger.info("engine %d connected: %s at %d", process.pid, status["role"], state.offset)
            asking = self._spawn(self._keep_asking(control))
            if self.parameters:
                self.parameters.forget()
                self._spawn(self.parameters.apply(control))
            try:
                self._do(self.machine.engine_up(clock.now(), state))
                await asyncio.wait([control.closed])
                await self._engine_gone(engine)
            finally:
                asking.cancel()
                control.close()

    def _no_engine(self, error: OSError | EngineError) -> None:
        """Note why no engine can be connected, if it is not just that there is none yet."""
        trouble = ""
        if isinstance(error, EngineError) and "WRONGPASS" in str(error):
            trouble = "the engine has another password than this agent: one of them must be started again"
        elif (
            isinstance(error, OSError) and error.errno == errno.EINVAL
        ):  # Its pid is 0: of another namespace.
            trouble = "the engine's process is not to be seen: the pod must share its process namespace"
        if trouble != self._engine_refusal:
            self._engine_refusal = trouble
            logger.log(logging.ERROR if trouble else logging.INFO, "no engine: %s", trouble or error)

    async def _engine_gone(self, engine: Engine) -> None:
        """The control channel has closed: find out whether the process has ended, or make it so."""
        self._engine = None
        if self.parameters:
            self.parameters.forget()
        if self._stream:
            self._stream.close()
        if not await engine.process.wait(0.02):
            self._engine = engine  # So that it can be ended.
            self._do(self.machine.engine_lost(clock.now()))
            if self._ending:
                await asyncio.wait([self._ending])
            self._engine = None
        self._ending = None
        if engine.process.exited:
            logger.info("engine %d has exited", engine.process.pid)
            self._do(self.machine.engine_exited(clock.now()))

    async def _keep_asking(self, control: Control) -> None:
        """Make round trips through the engine's main thread: regularly, and when the machine asks."""
        interval = min(self.config.lease / 10, 0.5)
        while True:
            self._ask.clear()
            asked = clock.now()
            try:
                state = engine_state(decode_map(await control.command("TXLOG", "STATUS")))
            except EngineError:
                return
            if self._engine and self._engine.control is control:
                if self._stream:
                    self._stream.commit(self.machine.committed)
                self._do(self.machine.engine_answered(clock.now(), asked.boot, state))
            if self._ask.is_set():
                await asyncio.sleep(0.002)  # It still applies what it was fed.
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._ask.wait()

    def _tell(self, *args: str | int) -> None:
        """Send a command whose refusal would be a bug, or a race with the engine's end."""
        if self._engine:

            def answered(reply: asyncio.Future[Any]) -> None:
                if error := reply.exception():
                    logger.warning("engine: %s: %s", " ".join(map(str, args)), error)

            self._engine.control.send(*args).add_done_callback(answered)

    async def _revoke(self, epoch: int) -> None:
        if self._engine is None:
            return
        control = self._engine.control
        try:
            _, status = await asyncio.gather(
                control.send("TXLOG", "REVOKE", epoch), control.send("TXLOG", "STATUS")
            )
        except EngineError as error:
            logger.warning("the engine did not acknowledge a revoke: %s", error)
            return
        self._do(self.machine.engine_revoked(clock.now(), epoch, engine_state(decode_map(status)).offset))

    async def _promote(self, epoch: int, offset: int) -> None:
        engine = self._engine
        if engine is None:
            return
        slots = [slot for bounds in self.config.slots for slot in bounds]
        # Noted before it is promoted, so that what was promoted is what the note names, or is not noted.
        Promotion.save(
            self.config.promotion,
            pid=engine.process.pid,
            generation=self.config.generation,
            epoch=epoch,
            nonce=self._nonce,
        )
        try:
            await engine.control.command(
                "TXLOG", "PROMOTE", epoch, offset, self.config.config_epoch(epoch), *slots
            )
            self._stream = stream = await Stream.attach(
                self.config.engine_socket,
                self.config.user,
                self.config.password.get_secret_value(),
                epoch=epoch,
                replication_id=self._replication_id,
                offset=offset,
                on_data=self._on_stream,
            )
        except (OSError, EngineError) as error:
            self._do(self.machine.engine_failed(clock.now(), str(error)))
            return
        stream.closed.add_done_callback(lambda _: self._stream_closed(stream, engine))
        self._do(self.machine.engine_promoted(clock.now()))
        self._do(self.machine.stream(clock.now(), stream.received, []))

    def _stream_closed(self, stream: Stream, engine: Engine) -> None:
        if self._stream is stream:
            engine.control.close()

    async def _fetch(self, start: int, end: int) -> bytes:
        """Return the stream between two offsets, from the backlog of the engine, which led and is silent."""
        if self.machine.engine is None or self._engine is None:
            raise EngineError("it is not connected")
        status = decode_map(await self._engine.control.command("TXLOG", "STATUS"))
        arrived = asyncio.Event()
        self._stream = None  # It ends with this: the engine has one.
        stream = await Stream.attach(
            self.config.engine_socket,
            self.config.user,
            self.config.password.get_secret_value(),
            epoch=self.machine.engine.epoch,
            replication_id=status["replid"],  # Its own: it has gone on beyond where it was promoted.
            offset=start,
            on_data=lambda _: arrived.set(),
        )
        try:
            async with asyncio.timeout(FETCH_WITHIN):
                while stream.received < end:
                    await arrived.wait()
                    arrived.clear()
            return stream.read(start, end)
        finally:
            stream.close()

    async def _release_after(self, promotion: Promotion) -> None:
        """Wait for the end of the engine that an earlier life promoted, and tell the machine."""
        if promotion.generation == self.config.generation and await promotion.exited():
            logger.info("engine %d, promoted in epoch %d, has exited", promotion.pid, promotion.epoch)
            self._do(self.machine.orphaned(clock.now(), promotion.epoch, promotion.nonce))

    def _on_units(self, ends: list[int]) -> None:
        self._do(self.machine.stream(clock.now(), 0, ends))
        self._gather()

    def _on_stream(self, received: int) -> None:
        self._do(self.machine.stream(clock.now(), received, []))
        self._gather()

    def _end_engine(self, reason: str, flush: bool) -> None:
        if self._engine and self._ending is None:
            logger.info("ending engine %d: %s", self._engine.process.pid, reason)
            self._ending = self._spawn(self._end(self._engine, flush))

    async def _end(self, engine: Engine, flush: bool) -> None:
        """End the process, at the latest by SIGKILL; ``_engine_gone`` then tells the machine."""
        if flush:
            with contextlib.suppress(EngineError, TimeoutError):
                async with asyncio.timeout(EXIT_PATIENCE):
                    while decode_map(await engine.control.command("TXLOG", "STATUS"))["held-clients"]:
                        await asyncio.sleep(0.01)
            engine.control.send("SHUTDOWN", "NOSAVE", "NOW", "FORCE").cancel()
            await engine.process.wait(EXIT_PATIENCE)
        engine.process.kill()
        await engine.process.wait()
