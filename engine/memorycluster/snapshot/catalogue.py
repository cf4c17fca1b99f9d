"""The snapshots of one shard in a store.

Each is ``data.rdb`` and ``manifest.json`` in ``<cluster>/<shard>/<generation>/<sequence>-<nonce>``. Within a
generation these names sort as the snapshots do: the newest is found without reading the others' manifests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TypeVar
from uuid import UUID

from memorycluster.api.snapshots import SnapshotStore
from memorycluster.snapshot.manifest import InvalidManifest, Manifest
from memorycluster.snapshot.store import LogAccess, ObjectBroken, ObjectMissing, Store, StoreError, open_store

ASKED_WITHIN = 10.0
"""Seconds for a list, or a manifest: whoever starts must not wait long for a store that may not be needed."""

DATA, MANIFEST = "data.rdb", "manifest.json"


T = TypeVar("T")

logger = logging.getLogger(__name__)


class BrokenSnapshot(Exception):
    """A snapshot is not what it was when it was verified: says which, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified snapshot: one with a manifest."""

    place: str
    """Key of its directory."""
    manifest: Manifest


class Catalogue:
    """The snapshots of one shard."""

    def __init__(self, store: Store, cluster: str, shard: int) -> None:
        self.store = store
        self.cluster = cluster
        self.shard = shard

    @property
    def root(self) -> str:
        """Key of the directory of all of them."""
        return f"{self.cluster}/{self.shard}"

    def new_place(self, generation: UUID, sequence: int) -> str:
        """Return the key of a new directory for a snapshot that ends with record ``sequence``."""
        return f"{self.root}/{generation}/{sequence:020}-{secrets.token_hex(4)}"

    async def places(self, generation: UUID | None = None) -> list[str]:
        """Return where there are manifests, of one generation newest first. Raises StoreError."""
        root = self.root if generation is None else f"{self.root}/{generation}"
        async with self._in_time():
            keys = [each.key for each in await self.store.list(root)]
        return sorted(
            (key.removesuffix(f"/{MANIFEST}") for key in keys if key.endswith(f"/{MANIFEST}")), reverse=True
        )

    async def known_places(self) -> set[str]:
        """Return where any copy of the store has a manifest. Raises StoreError: also if one is not known."""
        keys = await self.store.known(self.root)
        return {key.removesuffix(f"/{MANIFEST}") for key in keys if key.endswith(f"/{MANIFEST}")}

    async def read(self, place: str) -> Snapshot:
        """Return the snapshot at ``place``.

        :raises BrokenSnapshot: its manifest is not one, not this shard's, or not there any more.
        :raises StoreError:
        """

        async def take(chunks: AsyncIterator[bytes]) -> Manifest:
            try:
                return Manifest.decode(b"".join([chunk async for chunk in chunks]))
            except InvalidManifest as error:
                raise ObjectBroken(str(error)) from error

        try:
            async with self._in_time():
                manifest = await self._read(f"{place}/{MANIFEST}", take)
        except ObjectMissing as error:
            raise BrokenSnapshot(f"snapshot {place}: its manifest is gone") from error
        except ObjectBroken as error:
            raise BrokenSnapshot(f"snapshot {place}: broken manifest: {error}") from error
        where = f"{manifest.cluster}/{manifest.shard}/{manifest.generation}/{manifest.sequence:020}-"
        if not place.startswith(where):
            raise BrokenSnapshot(f"snapshot {place}: its manifest is that of another one ({where})")
        return Snapshot(place, manifest)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(ASKED_WITHIN):
                yield
        except TimeoutError:
            raise StoreError(f"{self.store.name}: no answer within {ASKED_WITHIN:g} s") from None

    async def all(
        self, generation: UUID | None = None, *, broken: Callable[[str], None] | None = None
    ) -> list[Snapshot]:
        """Return all snapshots, newest first within each generation; ``broken`` is told of those that are.

        :raises StoreError:
        """
        found = []
        for place in await self.places(generation):
            try:
                found.append(await self.read(place))
            except BrokenSnapshot as error:
                if broken:
                    broken(str(error))
        return found

    async def check_data(self, snapshot: Snapshot) -> None:
        """Check that the data is there, and as long as it was.

        :raises BrokenSnapshot, StoreError:
        """
        try:
            size = (await self.store.head(f"{snapshot.place}/{DATA}")).size
        except ObjectMissing as error:
            raise BrokenSnapshot(f"snapshot {snapshot.place}: its data is gone") from error
        if size != snapshot.manifest.size:
            raise BrokenSnapshot(
                f"snapshot {snapshot.place}: {size} bytes of data, its manifest says {snapshot.manifest.size}"
            )

    async def fetch(
        self,
        place: str,
        *,
        size: int,
        sha256: str,
        file: IO[bytes] | None,
        got: Callable[[int], None] | None = None,
    ) -> None:
        """Copy the data at ``place`` to ``file`` (None: nowhere), and check that it is what it was.

        :raises BrokenSnapshot, StoreError: nothing in the file may be used.
        :raises OSError: it can't be written to.
        """
        told = 0

        async def take(chunks: AsyncIterator[bytes]) -> None:
            nonlocal told
            if file:
                file.seek(0)
                file.truncate()
            digest, length = hashlib.sha256(), 0
            async for chunk in chunks:
                digest.update(chunk)
                length += len(chunk)
                if length > size:
                    break
                if file:
                    file.write(chunk)
                if got and length > told:
                    got(length - told)
                    told = length
            if length != size:
                raise ObjectBroken(f"{length} bytes of data, its manifest says {size}")
            if digest.hexdigest() != sha256:
                raise ObjectBroken("the SHA-256 of its data does not match its manifest")

        try:
            await self._read(f"{place}/{DATA}", take)
        except ObjectMissing as error:
            raise BrokenSnapshot(f"snapshot {place}: its data is gone") from error
        except ObjectBroken as error:
            raise BrokenSnapshot(f"snapshot {place}: {error}") from error
        if file:
            file.flush()

    async def _read(self, key: str, take: Callable[[AsyncIterator[bytes]], Awaitable[T]]) -> T:
        """Return what ``take`` makes of an object: of the first copy that is not broken.

        :param take: raises ObjectBroken, if that is what it is.
        :raises StoreError: ObjectBroken only if all copies are.
        """
        troubles: list[StoreError] = []
        for store in (self.store, *self.store.copies):
            try:
                async with aclosing(store.get(key)) as chunks:
                    taken = await take(chunks)
            except StoreError as error:
                if not troubles and isinstance(error, ObjectMissing):
                    raise
                troubles.append(error)
            else:
                if troubles:
                    logger.error("ALARM: %s is read from another copy: %s", key, troubles[0])
                return taken
        # One that could not be asked may be whole. (The first may not know why it can't be read.)
        raise min(troubles[1:] or troubles, key=lambda each: isinstance(each, ObjectBroken | ObjectMissing))

    async def put_data(self, place: str, file: Path, sent: Callable[[int], None] | None = None) -> None:
        """Store the data of a snapshot that is being made. Raises StoreError."""
        await self.store.put(f"{place}/{DATA}", file, sent)

    async def put_manifest(self, place: str, manifest: Manifest) -> Snapshot:
        """Make a snapshot of the data at ``place``, which has been verified.

        :raises BrokenSnapshot: the data is not there. :raises StoreError:
        """
        snapshot = Snapshot(place, manifest)
        await self.check_data(snapshot)
        await self.store.put(f"{place}/{MANIFEST}", manifest.encode())
        return snapshot

    async def delete(self, place: str) -> None:
        """Delete a snapshot, its manifest first: data alone is none. Raises StoreError."""
        await self.store.delete(f"{place}/{MANIFEST}")
        await self.store.delete(f"{place}/{DATA}")

    async def sweep(self, before: datetime) -> None:
        """Delete what interrupted makings have left before then.

        That is data of which no copy of the store has a manifest: who answers may only not see it.

        :raises StoreError:
        """
        objects = await self.store.list(self.root)
        keys = {each.key for each in objects}
        left = [
            each.key
            for each in objects
            if each.key.endswith(f"/{DATA}") and _beside(each.key) not in keys and each.modified < before
        ]
        known = await self.store.known(self.root) if left else set()
        for key in left:
            if key in known and _beside(key) not in known:
                await self.store.delete(key)
        await self.store.sweep(self.root, before)


def _beside(data: str) -> str:
    """Return the key of the manifest that belongs to the object ``data``."""
    return f"{data.removesuffix(DATA)}{MANIFEST}"


def sequence_of(place: str) -> int:
    """Return the last record of the log that the snapshot at ``place`` holds."""
    return int(place.rpartition("/")[2].partition("-")[0])


def open_catalogue(
    config: SnapshotStore, cluster: str, shard: int, log: LogAccess | None = None, *, lenient: bool = False
) -> Catalogue:
    """Return the snapshots of a shard in the store that ``config`` names; see ``open_store``.

    :raises StoreError:
    """
    return Catalogue(open_store(config, log, lenient=lenient), cluster, shard)
