"""The follower's side of the log: reads it, verifies it, and feeds the engine, whose primary it poses as.

The engine is a stock replica that asks for a PSYNC at ``follow_port``. It is fed whole units only, and only
what the log holds. For each engine that connects, the log is read from its start, or from a position that a
verified snapshot vouches for: an engine that has nothing gets the snapshot and all that follows it, one that
resumes gets what follows its offset once the reading has verified that it is of this log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol
from uuid import UUID

import hiredis

from memorycluster.log.chain import Position, Read
from memorycluster.log.interface import Log, LogError, LogTrimmed, LogUnavailable
from memorycluster.log.reader import follow
from memorycluster.log.record import replication_id
from memorycluster.log.units import Units
from memorycluster.snapshot.bootstrap import Bootstrap, Start
from memorycluster.valkey.primary import Link

RETRY = 0.2
"""Seconds between attempts to read on where the log is corrupt, or missing."""

START_RETRY = 2.0
"""Seconds between attempts to find something to start from."""

CHECKPOINT = 8 << 20
"""Bytes of the stream between two positions from which an engine whose link broke can go on."""

HANDSHAKE = 10.0
"""Seconds in which a connection must prove that it is the engine's."""

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Who wants to know what is read."""

    def on_start(self, position: Position) -> None:
        """Reading begins after ``position``, which a verified snapshot vouches for."""

    def on_read(self, read: Read) -> None:
        """A record was read, and fed if it ended a unit."""

    def on_end(self, sequence: int) -> None:
        """Nothing follows ``sequence``."""

    def on_corrupt(self, reason: str) -> None:
        """The log can't be read beyond a position; it is tried again."""

    def on_ahead(self, offset: int, end: int) -> None:
        """The engine has applied ``offset``, but the log ends at offset ``end``."""


class Follower:
    """Serves the engine's replication link at a loopback port."""

    def __init__(
        self,
        log: Log,
        generation: UUID,
        listener: Listener,
        *,
        port: int,
        user: str,
        password: str,
        bootstrap: Bootstrap | None = None,
    ) -> None:
        """``bootstrap`` knows the shard's snapshots; None: there are none."""
        self._log = log
        self._generation = generation
        self._listener = listener
        self._port = port
        self._credentials = (user.encode(), password.encode())
        self._session: asyncio.Task[None] | None = None
        self._held = False
        self._known: Position | None = None
        """The newest position that has been read to and fed from: what the log held then, it must hold."""
        self._bootstrap = bootstrap or Bootstrap(log, generation, None)
        self._checkpoints: deque[Position] = deque(maxlen=2)
        """Positions that have been read to, by which a link that broke goes on without a snapshot."""
        self.reading: int | None = None
        """The last sequence read for the engine that is connected; the log is to keep what follows."""

    @property
    def trouble(self) -> str:
        """What is wrong with the snapshots, as far as they were looked at."""
        return self._bootstrap.trouble

    async def serve(self) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self.drop()

    def drop(self) -> None:
        """Close the engine's link; it will connect again if it still follows."""
        if self._session:
            self._session.cancel()
            self._session = None

    def hold(self) -> None:
        """Feed the engine nothing more: what it has may be the only copy. Until ``release``."""
        self._held = True
        self.drop()

    def release(self) -> None:
        """Feed it again, from a log that is proved to hold all that was known."""
        self._held, self._known = False, None
        self.drop()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer, self._credentials)
        try:
            async with asyncio.timeout(HANDSHAKE):
                replid, offset = await link.handshake()
            if self._held:
                return
            self.drop()  # It is the engine, and there is one: this connection replaces an older one.
            self._session = asyncio.current_task()
            resume = offset - 1 if replid == replication_id(self._generation) and offset > 0 else None
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.ignore_acks())
                tasks.create_task(self._feed(link, resume))
        except* (OSError, EOFError, TimeoutError, hiredis.ProtocolError, LogTrimmed) as group:
            logger.info("the engine's replication link closed: %s", group.exceptions[0])
        except* asyncio.CancelledError:
            pass  # Dropped, or the agent ends.
        finally:
            writer.close()

    async def _feed(self, link: Link, resume: int | None) -> None:
        """Read the log for ever; feed the engine what follows ``resume``, or a snapshot and the rest."""
        start = await self._start(resume)
        replid, position = replication_id(self._generation), start.position
        self.reading = position.sequence
        try:
            if position.sequence:
                self._listener.on_start(position)
            if start.rdb is not None:
                logger.info("full sync of the engine, from offset %d", position.unit_end)
                await link.full_sync(replid, position.unit_end, start.rdb, start.size)
            resume = None if start.rdb is not None else resume
            start.close()
            feed = Units(position.unit_end if resume is None else resume)
            known = None if resume is None else self._known
            answered = resume is None or self._resume(link, position, feed, known)
            ended_at: int | None = None  # where the log ended when the engine was found to be ahead of it
            unsent: list[bytes] = []
            async for item in self._read(position):
                if isinstance(item, Read):
                    position = item.position
                    self.reading = position.sequence
                    unsent.append(feed.add(item))
                    if ended_at is not None and known is None:
                        continue  # It has grown since, perhaps with other bytes than the engine's.
                    self._listener.on_read(item)
                    if known and position.sequence == known.sequence and position != known:
                        self._listener.on_corrupt(
                            f"log record {known.sequence} is not the one that was there"
                        )
                        raise EOFError("the log is not the one that it was fed from")
                    if self._held:
                        raise EOFError("frozen")
                    answered = answered or self._resume(link, position, feed, known)
                    if answered:
                        if data := b"".join(unsent):
                            await link.send(data)
                        unsent.clear()
                        self._passed(position)
                elif not answered:
                    # Never answered, so that the engine keeps what it has: the log may have lost it.
                    ended_at = position.unit_end if ended_at is None else ended_at
                    self._listener.on_ahead(max(feed.fed_from, known.unit_end if known else 0), ended_at)
                else:
                    self._listener.on_end(item)
        finally:
            start.close()
            self.reading = None

    def _resume(self, link: Link, position: Position, feed: Units, known: Position | None) -> bool:
        """Let the engine go on if the log has been read to where it is; return whether it has.

        ``known`` is what it was fed up to: the log must have been read to there, which proves all before it.
        """
        if position.unit_end < feed.fed_from or (known is not None and position.sequence < known.sequence):
            return False
        logger.info("the engine resumes at offset %d", feed.fed_from)
        link.resume(replication_id(self._generation))
        return True

    def _passed(self, position: Position) -> None:
        """Note that the engine has been fed up to ``position``."""
        self._known = position
        last = self._checkpoints[-1].unit_end if self._checkpoints else -CHECKPOINT
        if position.open_end == position.unit_end and position.unit_end - last >= CHECKPOINT:
            self._checkpoints.append(position)

    async def _start(self, resume: int | None) -> Start:
        """Return where to start, once that is known; until then the engine serves nothing."""
        while True:
            pause = RETRY
            try:
                return await self._bootstrap.start(resume, known=self._checkpoints)
            except LogUnavailable:
                pass
            except LogError as error:
                self._listener.on_corrupt(str(error))
                pause = START_RETRY
            await asyncio.sleep(pause)

    async def _read(self, position: Position) -> AsyncIterator[Read | int]:
        """Yield what is read after ``position``, and the last sequence at each arrival at the end."""
        while True:
            try:
                async with contextlib.aclosing(follow(self._log, position)) as reads:
                    async for step in reads:
                        if step is None:
                            yield position.sequence
                        else:
                            position = step.position
                            yield step
            except LogTrimmed:
                raise  # The engine connects again: there is a snapshot to start from.
            except LogError as error:
                self._listener.on_corrupt(str(error))
            await asyncio.sleep(RETRY)
