"""A store whose objects are partly still in the one that was used before."""

from __future__ import annotations

import builtins
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

from memorycluster.snapshot.store import Object, ObjectMissing, Store, StoreError

logger = logging.getLogger(__name__)


class WithFormer:
    """A store that takes what is put; what only the former one has is found as well."""

    def __init__(self, store: Store, former: Store, *, lenient: bool = False) -> None:
        """``lenient``: for who only reads, and had better start from an older snapshot than from none."""
        self._lenient = lenient
        self.name = store.name
        self._store = store
        self._former = former

    @property
    def copies(self) -> Sequence[Store]:
        """Both, with the copies of either."""
        stores = [(each, self._former) for each in self._store.copies]
        formers = [(self._store, each) for each in self._former.copies]
        return [WithFormer(*both, lenient=self._lenient) for both in stores + formers]

    async def put(self, key: str, data: bytes | Path, sent: Callable[[int], None] | None = None) -> None:
        """Store ``data`` under ``key``, in the new store."""
        await self._store.put(key, data, sent)

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes."""
        async with aclosing((await self._having(key)).get(key)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def head(self, key: str) -> Object:
        """Return what is known of an object."""
        return await (await self._having(key)).head(key)

    async def list(self, prefix: str) -> builtins.list[Object]:
        """Return the objects below ``prefix``."""
        found = {each.key: each for each in await self._former.list(prefix)}
        try:
            found |= {each.key: each for each in await self._store.list(prefix)}
        except StoreError as error:
            if not self._lenient or not found:
                raise
            logger.error("ALARM: only what the former store has is used: %s", error)
        return sorted(found.values())

    async def known(self, prefix: str) -> set[str]:
        """Return the keys below ``prefix`` that either has."""
        return await self._former.known(prefix) | await self._store.known(prefix)

    async def delete(self, key: str) -> None:
        """Delete an object, wherever it is."""
        await self._former.delete(key)
        await self._store.delete(key)

    async def sweep(self, prefix: str, before: datetime) -> None:
        """Delete what interrupted puts have left, in both."""
        await self._former.sweep(prefix, before)
        await self._store.sweep(prefix, before)

    async def _having(self, key: str) -> Store:
        """Return the store that has an object, or may have it.

        One that can't be asked is passed over only by who is lenient.
        """
        try:
            await self._store.head(key)
        except ObjectMissing:
            return self._former
        except StoreError:
            if not self._lenient:
                raise
            return self._former
        return self._store
