"""A log that a test writes, without engines that lead: real records of real commands, in a real log."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import hiredis
from tests.log.records import Writer
from tests.log.servers import Service

from memorycluster.log.nats import NatsLog
from memorycluster.log.record import Flags
from memorycluster.snapshot.bootstrap import Bootstrap, Start
from memorycluster.snapshot.catalogue import Catalogue, Snapshot
from memorycluster.snapshot.engine import Contents, Engine
from memorycluster.snapshot.maker import Maker, Report
from memorycluster.snapshot.store import Directory

SLOTS = ((0, 16383),)
MAX_BYTES = 256 << 20


def command(*words: str | bytes | int) -> bytes:
    return hiredis.pack_command(words)  # type: ignore[arg-type]


class World:
    """A shard's log, its snapshots, and a place to make them in."""

    def __init__(self, service: Service, root: Path, programs: Path) -> None:
        self.service = service
        self.root = root
        self.programs = programs
        self.stream = f"t{uuid4().hex[:12]}"
        self.generation: UUID = uuid4()
        self.writer = Writer(self.generation)
        self.work = root / "w"
        self.work.mkdir()
        self.catalogue = Catalogue(Directory(root / "store"), "orders", 0)
        self.log: NatsLog = service.log(self.stream)

    async def append(self, data: bytes) -> None:
        await self.log.append(self.writer.accept(data), sequence=self.writer.position.sequence)

    async def lead(self) -> None:
        """Claim the log, and say which database the commands are for, as a primary does."""
        await self.append(self.writer.claim())
        await self.write(command("SELECT", 0))

    async def write(self, *commands: bytes, flags: Flags = Flags.NONE) -> None:
        await self.append(self.writer.data(b"".join(commands), flags))

    def maker(self, report: Report = lambda _: None) -> Maker:
        return Maker(
            self.log,
            self.catalogue,
            self.generation,
            SLOTS,
            programs=self.programs,
            work=self.work,
            report=report,
        )

    async def make(self, name: str = "") -> Snapshot:
        return await self.maker().make(name)

    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.log, self.generation, lambda: self.catalogue, self.work)

    async def start(self) -> Start:
        return await self.bootstrap().start()

    async def replayed(self) -> Contents:
        """Return what the whole log, from its first record, comes to: no snapshot is used."""
        maker = Maker(
            self.log,
            Catalogue(Directory(self.root / "none"), "orders", 0),
            self.generation,
            SLOTS,
            programs=self.programs,
            work=self.work,
        )
        with tempfile.TemporaryDirectory(dir=self.work) as directory:
            return (await maker.build(Path(directory))).contents

    async def loaded(self, start: Start) -> Contents:
        """Return what an engine has that was given ``start``."""
        with tempfile.TemporaryDirectory(dir=self.work) as directory:
            async with Engine(self.programs, Path(directory)) as engine:
                await engine.start(start)
                await engine.reached(start.position.unit_end)
                return await engine.contents()

    def file(self, snapshot: Snapshot, name: str) -> Path:
        return self.root / "store" / snapshot.place / name

    def leftovers(self) -> list[str]:
        """What makings have left in the working directory."""
        return [path.name for path in self.work.iterdir()]


@asynccontextmanager
async def world_of(service: Service, programs: Path) -> AsyncIterator[World]:
    root = Path(tempfile.mkdtemp(prefix="mcs"))
    world = World(service, root, programs)
    async with service.service() as admin:
        await admin.create(world.stream, world.generation, max_bytes=MAX_BYTES)
    try:
        yield world
    finally:
        await world.log.close()
        await service.delete(world.stream)
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
