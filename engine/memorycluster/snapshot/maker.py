"""Making a snapshot beside the cluster: no engine that serves forks, saves or waits for it.

A short-lived engine starts from the newest snapshot, or from nothing, and is fed the log up to the end that
it had when this began, or up to a moment. Reading verifies the running CRC of every record, so no byte is
missing. What the engine then saves is stored; the *stored* file, given to another engine just as a follower
would get it, must come to the same digest. Only then the manifest is stored, and there is a snapshot.
Interrupted anywhere before, nothing has happened but that some bytes lie in the store, to be swept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from memorycluster.log.chain import Position, Read
from memorycluster.log.interface import Log
from memorycluster.log.reader import follow
from memorycluster.log.units import Units
from memorycluster.snapshot.bootstrap import Bootstrap, NoStart, Start
from memorycluster.snapshot.catalogue import Catalogue, Snapshot
from memorycluster.snapshot.confirm import log_end
from memorycluster.snapshot.engine import Contents, Engine
from memorycluster.snapshot.manifest import Manifest, Reason, default_name, position_fields
from memorycluster.snapshot.policy import FIRST, End

logger = logging.getLogger(__name__)


class NotVerified(Exception):
    """What was made is not what was read, so it is no snapshot. Says what differs."""


class NothingNew(Exception):
    """The newest snapshot holds all that the log does."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(f"snapshot {snapshot.manifest.name} holds all that is in the log")
        self.snapshot = snapshot


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a making is."""

    step: str
    """``load``, ``replay``, ``save``, ``upload`` or ``verify``; for other shards ``split``, ``join``."""
    done: int
    """Bytes."""
    total: int
    """Bytes; 0: not known."""


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A state that was made and saved, and what is known of it."""

    position: Position
    time: datetime | None
    file: Path
    contents: Contents
    version: str


class Maker:
    """Makes snapshots of one shard."""

    def __init__(
        self,
        log: Log,
        catalogue: Catalogue,
        generation: UUID,
        slots: Sequence[tuple[int, int]],
        *,
        programs: Path,
        work: Path,
        report: Report = lambda _: None,
    ) -> None:
        """``programs``: directory of the engine's programs. ``work``: one with room for the data, twice."""
        self._log = log
        self._catalogue = catalogue
        self._generation = generation
        self._slots = tuple(slots)
        self._programs = programs
        self._work = work
        self._report = report
        self.trouble = ""
        """What was wrong with older snapshots that had to be passed over; empty: nothing."""
        self.broken: list[str] = []
        """Places of snapshots that were found broken."""

    async def make(self, name: str = "", reason: Reason = "user", *, anew: bool = False) -> Snapshot:
        """Make a snapshot of the log as it is now, and return it.

        :param anew: also if there is one already, so that there is one of this name.
        :raises NothingNew: there is one already.
        :raises NotVerified, EngineFailed, StoreError, BrokenSnapshot, LogError, OSError: there is none.
        """
        with tempfile.TemporaryDirectory(dir=self._work, prefix="make-") as directory:
            made = await self.build(Path(directory), anew=anew)
            name = name or default_name(self._catalogue.cluster, datetime.now(UTC))
            return await store(
                made,
                name,
                reason,
                self._catalogue,
                self._slots,
                programs=self._programs,
                directory=Path(directory),
                report=self._report,
            )

    async def build(self, directory: Path, *, until: datetime | None = None, anew: bool = False) -> Made:
        """Make the state as of the log's end, or of the moment ``until``, in the empty ``directory``.

        :raises NoStart: what is kept does not reach back to that moment.
        """
        bootstrap = Bootstrap(self._log, self._generation, lambda: self._catalogue, directory)
        end = await log_end(self._log)
        try:
            start = await bootstrap.start(
                until=until, got=lambda done, total: self._report(Progress("load", done, total))
            )
        finally:
            self.broken += bootstrap.broken
        self.trouble = bootstrap.trouble
        try:
            if until is None and not anew and start.snapshot and start.position.sequence >= end.sequence:
                raise NothingNew(start.snapshot)
            home = directory / "a"
            home.mkdir(mode=0o700)
            async with Engine(self._programs, home) as engine:
                position, time = await self._feed(engine, start, end, until)
                if start.snapshot and position == start.position and until is None and not anew:
                    raise NothingNew(start.snapshot)
                self._report(Progress("save", 0, 0))
                file = await engine.save(lambda size: self._report(Progress("save", size, 0)))
                contents = await engine.contents()
                version = await engine.version()
            return Made(position, time, file, contents, version)
        finally:
            start.close()

    async def _feed(
        self, engine: Engine, start: Start, end: End, until: datetime | None
    ) -> tuple[Position, datetime | None]:
        """Feed the engine up to ``end`` or ``until``; return the last whole unit's position, and its time."""
        link = await engine.start(start)
        position = start.position
        units = Units(position.unit_end)
        whole, time = position, start.snapshot.manifest.log_time if start.snapshot else None
        total = max(end.offset - position.unit_end, 0)
        self._report(Progress("replay", 0, total))
        if position.sequence < end.sequence:
            async with contextlib.aclosing(follow(self._log, position)) as reads:
                async for read in reads:
                    if read is None:
                        continue
                    if until and _after(read, until, first=position.sequence <= FIRST):
                        break
                    data = units.add(read)
                    if data:
                        await link.send(data)
                    position = read.position
                    if position.open_end == position.unit_end:
                        whole, time = position, read.time
                    self._report(Progress("replay", position.unit_end - start.position.unit_end, total))
                    if position.sequence >= end.sequence:
                        break
        await engine.reached(whole.unit_end)
        if refused := await engine.refused():
            raise NotVerified(f"up to record {whole.sequence}, {refused}")
        return whole, time


def _after(read: Read, until: datetime, *, first: bool) -> bool:
    """Say whether a record, perhaps the first that was written, is later than the moment that is wanted.

    It is the first also after the log's own beginning: a restored log has a snapshot there, and its cluster
    was not there before.

    :raises NoStart: that can't be known, or there was no log yet.
    """
    if read.time is None:
        raise NoStart(f"the time of record {read.position.sequence} is not known: {until} can't be found")
    if first and read.time > until:
        raise NoStart(f"at {until} there was no data yet: the log begins at {read.time}")
    return read.time > until


async def store(
    made: Made,
    name: str,
    reason: Reason,
    catalogue: Catalogue,
    slots: Sequence[tuple[int, int]],
    *,
    programs: Path,
    directory: Path,
    report: Report = lambda _: None,
    position: Position | None = None,
    origin: str | None = None,
) -> Snapshot:
    """Store what was made as a snapshot at its position, or at ``position`` of another log; verify it there.

    :param origin: what that other log's cluster is made of.
    :raises NotVerified, EngineFailed, StoreError, BrokenSnapshot, OSError: there is none.
    """
    at = position or made.position
    size = made.file.stat().st_size
    sha256 = await asyncio.to_thread(_sha256, made.file)
    place = catalogue.new_place(at.generation, at.sequence)
    sent = 0

    def count(length: int) -> None:
        nonlocal sent
        sent += length
        report(Progress("upload", sent, size))

    report(Progress("upload", 0, size))
    await catalogue.put_data(place, made.file, count)
    made.file.unlink()
    await _verify(catalogue, place, size, sha256, at, made.contents, programs, directory, report)
    manifest = Manifest(
        name=name,
        reason=reason,
        cluster=catalogue.cluster,
        shard=catalogue.shard,
        slots=tuple(slots),
        **position_fields(at),
        log_time=made.time,
        engine_version=made.version,
        size=size,
        sha256=sha256,
        **made.contents._asdict(),
        created_at=datetime.now(UTC),
        origin=origin,
    )
    return await catalogue.put_manifest(place, manifest)


async def _verify(
    catalogue: Catalogue,
    place: str,
    size: int,
    sha256: str,
    at: Position,
    contents: Contents,
    programs: Path,
    directory: Path,
    report: Report,
) -> None:
    """Check that what is stored gives another engine the same data."""
    got = 0

    def count(length: int) -> None:
        nonlocal got
        got += length
        report(Progress("verify", got, size))

    report(Progress("verify", 0, size))
    home = directory / "b"
    home.mkdir(mode=0o700)
    with tempfile.TemporaryFile(dir=directory) as file:
        await catalogue.fetch(place, size=size, sha256=sha256, file=file, got=count)
        file.seek(0)
        async with Engine(programs, home) as engine:
            await engine.start(Start(at, file, size))
            await engine.reached(at.unit_end)
            found = await engine.contents()
    if found != contents:
        raise NotVerified(
            f"snapshot {place}: loaded from the store it is {found}, what was saved was {contents}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
