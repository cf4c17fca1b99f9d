"""Where a follower starts: at the beginning of the log, or at what a verified snapshot vouches for."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO
from uuid import UUID

from memorycluster.log.chain import Position
from memorycluster.log.interface import Log, LogCorrupt, LogError, LogTrimmed
from memorycluster.snapshot.catalogue import BrokenSnapshot, Catalogue, Snapshot
from memorycluster.snapshot.confirm import begins_with_snapshot, contradiction
from memorycluster.snapshot.policy import FIRST
from memorycluster.snapshot.store import StoreError

EMPTY_RDB = b"REDIS0011\xff" + bytes(8)
"""A snapshot of nothing: version, end of file, no checksum."""

logger = logging.getLogger(__name__)


class NoStart(LogError):
    """Nothing to start from: the log's beginning is gone, and no good snapshot reaches what is left."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to start reading the log, and with what an engine that has nothing is to begin."""

    position: Position
    rdb: IO[bytes] | None
    """The state at ``position``, verified; None: the engine goes on from what it has."""
    size: int = 0
    snapshot: Snapshot | None = None
    """That the position is taken from; None: the log's beginning."""

    def close(self) -> None:
        """Let go of the file."""
        if self.rdb is not None:
            self.rdb.close()


class Bootstrap:
    """Finds where to start."""

    def __init__(
        self, log: Log, generation: UUID, catalogue: Callable[[], Catalogue] | None, spool: Path | None = None
    ) -> None:
        """``catalogue`` opens the shard's snapshots, None: there are none. ``spool`` is where copies go."""
        self._log = log
        self._generation = generation
        self._open = catalogue
        self._spool = spool
        self.trouble = ""
        """What was wrong with snapshots that had to be passed over; empty: nothing."""
        self.broken: list[str] = []
        """Places of snapshots that were found broken."""

    async def start(
        self,
        resume: int | None = None,
        *,
        known: Collection[Position] = (),
        until: datetime | None = None,
        got: Callable[[int, int], None] | None = None,
    ) -> Start:
        """Return where to start for an engine that has applied offset ``resume`` of this log, or has nothing.

        An engine that resumes needs a position at or below its offset; if none is left, it starts anew.

        :param known: positions at units' ends that the caller has read to itself.
        :param until: use no snapshot that holds what came later.
        :param got: is told bytes of a snapshot that have come, and how many there are.
        :raises NoStart: says why. :raises LogUnavailable, LogMissing:
        """
        first = (await self._log.health()).first_sequence
        if resume is not None:
            near = [each for each in known if each.unit_end <= resume and each.sequence + 1 >= first]
            if near:
                return Start(max(near, key=lambda each: each.sequence), None)
        whole = await self._whole(first)
        passed: list[str] = []
        try:
            found = await self._start(resume, first, whole, until, got, passed)
        except StoreError as error:
            passed.append(str(error))
            found = None
        if found is None and whole:
            position = Position(self._generation)
            found = Start(position, None if resume is not None else io.BytesIO(EMPTY_RDB), len(EMPTY_RDB))
        self.trouble = "; ".join(passed)
        if found is None:
            raise _nowhere(first, "no good snapshot leads on from there", passed)
        if passed:
            logger.error("ALARM: passed over: %s", self.trouble)
        return found

    async def position(self, offset: int) -> Position:
        """Return from where to read the log to learn what it holds at ``offset``, and where it ends.

        That is its beginning, or where the newest snapshot ends that the log leads on from. (It may have lost
        its end: what a snapshot has of that is none of its own.)

        :raises NoStart: says why. :raises LogError:
        """
        health = await self._log.health()
        first, passed = health.first_sequence, list[str]()
        if await self._whole(first):
            return Position(self._generation)
        try:
            if self._open is not None:
                async for snapshot in self._leading_on(self._open(), first, passed):
                    manifest = snapshot.manifest
                    if manifest.sequence <= health.last_sequence and manifest.offset <= offset:
                        return manifest.position
        except StoreError as error:
            passed.append(str(error))
        raise _nowhere(first, f"no good snapshot leads up to offset {offset}", passed)

    async def _start(
        self,
        resume: int | None,
        first: int,
        whole: bool,
        until: datetime | None,
        got: Callable[[int, int], None] | None,
        passed: list[str],
    ) -> Start | None:
        if self._open is None:
            return None
        catalogue = self._open()
        usable: list[Snapshot] = []
        async for snapshot in self._leading_on(catalogue, first, passed):
            if until and (snapshot.manifest.log_time is None or snapshot.manifest.log_time > until):
                continue
            if resume is not None and snapshot.manifest.offset <= resume:
                return Start(snapshot.manifest.position, None, snapshot=snapshot)
            if resume is None and (start := await self._load(catalogue, snapshot, got, passed)):
                return start
            usable.append(snapshot)
        if resume is None or whole:
            return None
        for snapshot in usable:
            if start := await self._load(catalogue, snapshot, got, passed):
                return start
        return None

    async def _leading_on(
        self, catalogue: Catalogue, first: int, passed: list[str]
    ) -> AsyncIterator[Snapshot]:
        """Yield the snapshots from which the log leads on, newest first; ``passed`` is told of others."""
        for place in await catalogue.places(self._generation):
            try:
                snapshot = await catalogue.read(place)
            except BrokenSnapshot as error:
                passed.append(str(error))
                continue
            if snapshot.manifest.sequence + 1 < first:
                return  # so are all that are older
            if not await self._contradicted(snapshot, passed):
                yield snapshot

    async def _contradicted(self, snapshot: Snapshot, passed: list[str]) -> bool:
        """Say whether the log has another record than the one that the snapshot ends with."""
        try:
            reason = await contradiction(self._log, snapshot.manifest)
        except LogCorrupt:
            return False  # that copy is; whoever starts here does not read that record
        if reason:
            passed.append(reason)
        return bool(reason)

    async def _load(
        self,
        catalogue: Catalogue,
        snapshot: Snapshot,
        got: Callable[[int, int], None] | None,
        passed: list[str],
    ) -> Start | None:
        """Copy the snapshot's data to a file of our own, and verify it: an engine only gets what is whole."""
        size, come = snapshot.manifest.size, 0

        def count(length: int) -> None:
            nonlocal come
            come += length
            if got:
                got(come, size)

        file = tempfile.TemporaryFile(dir=self._spool)  # noqa: SIM115 (the caller closes it)
        try:
            await catalogue.fetch(
                snapshot.place, size=size, sha256=snapshot.manifest.sha256, file=file, got=count
            )
            file.seek(0)
            return Start(snapshot.manifest.position, file, size, snapshot)
        except BrokenSnapshot as error:
            passed.append(str(error))
            self.broken.append(snapshot.place)
        except StoreError as error:
            passed.append(str(error))
        except OSError as error:
            passed.append(f"snapshot {snapshot.place}: can't be copied to {self._spool}: {error.strerror}")
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    async def _whole(self, first: int) -> bool:
        """Say whether the log, which begins at ``first``, has had nothing before what it still holds."""
        if first > FIRST:
            return False
        try:
            return not await begins_with_snapshot(self._log)
        except LogCorrupt:
            return True  # its reader will find out
        except LogTrimmed:
            return False  # just now


def _nowhere(first: int, why: str, passed: Collection[str]) -> NoStart:
    held = "begins with a snapshot" if first <= FIRST else f"was trimmed up to record {first - 1}"
    return NoStart(f"the log {held}, and {why}: {'; '.join(passed) or 'none found'}")
