"""The agent: carries out what the machine decides. All I/O of its decisions is here; no decision is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from memorycluster.agent import clock
from memorycluster.agent.actions import (
    Action,
    Alarm,
    Append,
    AskEngine,
    Commit,
    EndEngine,
    Lease,
    Promote,
    ReadLast,
    ReadNext,
    Reads,
    Revoke,
    Writes,
)
from memorycluster.agent.config import AgentConfig
from memorycluster.agent.engine import Control, EngineError, Process, Stream, decode_map, engine_state
from memorycluster.agent.follower import Follower
from memorycluster.agent.machine import Machine, Phase
from memorycluster.log.chain import Position, Read
from memorycluster.log.interface import Log, LogConflict, LogError, LogFull, LogHealth
from memorycluster.log.record import InvalidRecord, Kind, Record, extend_crc, replication_id

logger = logging.getLogger(__name__)

TICK = 0.05
"""Seconds between two looks at the clock."""

HEALTH_INTERVAL = 1.0
"""Seconds between two looks at the log's size and members."""

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
        self._nonce = secrets.randbits(64)
        self._replication_id = replication_id(config.generation)
        self._engine: Engine | None = None
        self._stream: Stream | None = None
        """Of the newest promoted engine. It keeps what has arrived, also when its connection has gone."""
        self._ending: asyncio.Task[None] | None = None
        self._ask = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._phase = self.machine.phase
        self._moved = asyncio.Event()
        self.follower = Follower(
            log,
            config.generation,
            self,
            port=config.follow_port,
            user=config.user,
            password=config.password.get_secret_value(),
        )

    async def run(self) -> None:
        """Run until cancelled. An unexpected error ends the agent: its successor starts from what is true."""
        async with self._tasks:
            self._spawn(self.follower.serve())
            self._spawn(self._connect_engines())
            self._spawn(self._tick())
            self._spawn(self._watch_log())

    async def give_away(self, successor: str) -> bool:
        """Give leadership away as planned; return whether there was any, once the release is in the log."""
        if self.machine.phase is not Phase.LEADING:
            return False
        logger.info("giving leadership away to %s", successor or "whoever is first")
        self._do(self.machine.give_away(clock.now(), successor))
        while self.machine.phase in (Phase.DRAINING, Phase.RELEASING, Phase.DEPOSED):
            self._moved.clear()
            await self._moved.wait()
        if self._ending:
            await asyncio.wait([self._ending])
        return True

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
                self._do(self.machine.append_refused(clock.now()))
                return
            except LogFull as error:
                self._do(self.machine.log_full(str(error)))
            except LogError as error:
                logger.error("record %d: %s", record.sequence, error)
            await asyncio.sleep(0.2)
        if self._stream and append.kind is Kind.DATA:
            self._stream.forget(append.end)
        self._do(self.machine.append_done(clock.now(), record))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
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
                async with asyncio.timeout(HEALTH_INTERVAL * 2):
                    self.health = health = await self.log.health()
                self._do(self.machine.log_space(health.bytes, health.max_bytes))
            except (LogError, TimeoutError):
                self.health = None
            await asyncio.sleep(HEALTH_INTERVAL)

    # What the follower's reading meets: see follower.Listener.

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
                logger.debug("no engine yet: %s", error)
                await asyncio.sleep(0.02)
                continue
            state = engine_state(status)
            self._engine = engine = Engine(control, process, state.version)
            logger.info("engine %d connected: %s at %d", process.pid, status["role"], state.offset)
            asking = self._spawn(self._keep_asking(control))
            try:
                self._do(self.machine.engine_up(clock.now(), state))
                await asyncio.wait([control.closed])
                await self._engine_gone(engine)
            finally:
                asking.cancel()
                control.close()

    async def _engine_gone(self, engine: Engine) -> None:
        """The control channel has closed: find out whether the process has ended, or make it so."""
        self._engine = None
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
        stream.closed.add_done_callback(lambda _: engine.control.close())
        self._do(self.machine.engine_promoted(clock.now()))
        self._do(self.machine.stream(clock.now(), stream.received, []))

    def _on_units(self, ends: list[int]) -> None:
        self._do(self.machine.stream(clock.now(), 0, ends))

    def _on_stream(self, received: int) -> None:
        self._do(self.machine.stream(clock.now(), received, []))

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
