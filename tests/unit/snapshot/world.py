"""A shard's log in memory and its snapshots in a directory, for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.log.records import Writer
from tests.unit.snapshot.manifests import GENERATION, manifest

from memorycluster.log.chain import Position
from memorycluster.log.interface import Log, LogHealth, LogTrimmed
from memorycluster.log.service import genesis
from memorycluster.snapshot.bootstrap import Bootstrap
from memorycluster.snapshot.catalogue import Catalogue, Snapshot
from memorycluster.snapshot.manifest import position_fields
from memorycluster.snapshot.store import Directory

PAYLOAD = b"x" * 100


class Written(Log):
    """A log in memory, trimmed below ``first``."""

    def __init__(self, first_record: bytes = genesis(GENERATION)) -> None:
        self.first = 1
        self.bytes = 0
        self.messages = [first_record]

    async def health(self) -> LogHealth:
        return LogHealth(self.first, len(self.messages), self.bytes, 1 << 30)

    async def end(self) -> int:
        return len(self.messages)

    async def get(self, sequence: int) -> bytes | None:
        if sequence < self.first:
            raise LogTrimmed(f"log record {sequence}: trimmed")
        return self.messages[sequence - 1] if sequence <= len(self.messages) else None

    async def trim(self, before: int) -> None:
        self.first = max(self.first, before)


class World:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = Written()
        self.writer = Writer(GENERATION)
        self.catalogue = Catalogue(Directory(root / "store"), "orders", 0)
        self.positions = [Position(GENERATION), self.writer.position]
        self.write(self.writer.claim())
        for _ in range(8):
            self.write(self.writer.data(PAYLOAD))

    def write(self, data: bytes) -> None:
        self.log.messages.append(self.writer.accept(data))
        self.positions.append(self.writer.position)

    def fork(self, after: int) -> None:
        """Lose what follows record ``after``, and write on from there."""
        del self.log.messages[after:]
        self.writer.position = self.positions[after]

    async def snapshot(self, sequence: int, data: bytes = b"rdb", **changes: Any) -> Snapshot:
        at = self.positions[sequence]
        sha256 = hashlib.sha256(data).hexdigest()
        made = manifest(**(position_fields(at) | {"size": len(data), "sha256": sha256} | changes))
        place = self.catalogue.new_place(GENERATION, sequence)
        file = self.root / "made"
        file.write_bytes(data)
        await self.catalogue.put_data(place, file)
        return await self.catalogue.put_manifest(place, made)

    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.log, GENERATION, lambda: self.catalogue, self.root)

    def file(self, snapshot: Snapshot, name: str) -> Path:
        return self.root / "store" / snapshot.place / name
