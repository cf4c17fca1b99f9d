"""A store in the log service itself: an object store of JetStream's, by its own client library.

An object is messages with its data, and one that says their subject, its size and its SHA-256. That one comes
last: what was interrupted is no object. The bucket has a limit of its own, beside those of the logs, so it is
full before they are. What is put goes slowly, as the appends of the logs wait for the same disks.
"""

from __future__ import annotations

import asyncio
import base64
import builtins
import contextlib
import hashlib
import io
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from memorycluster.log.interface import SNAPSHOTS_STREAM
from memorycluster.snapshot.store import (
    LogAccess,
    Object,
    ObjectBroken,
    ObjectMissing,
    Store,
    StoreError,
    StoreFull,
    brief,
    checked,
)

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import ObjectInfo
    from nats.js.object_store import ObjectStore

BUCKET = SNAPSHOTS_STREAM.removeprefix("OBJ_")

PIECE = 256 << 10
"""Bytes of a message: as many as the records of a log have at most, so that none waits long for it."""

ANSWER_WITHIN = 15.0
"""Seconds for an answer: the log service may elect meanwhile."""

DIAL_WITHIN = 2.0
"""Seconds for a server to greet us; then the next one is asked."""

SILENT_FOR, TRIES = 5.0, 4
"""Seconds from one piece of an object to the next one at most, and how often they are asked for."""

QUIET_FOR = timedelta(minutes=10)
"""A put that has sent nothing for that long is none any more: it has given up before."""

PLACEMENT_TRIES = 32
"""The log service has any member answer; so often it is asked for another one. (That all are one of the two
that were asked before happens twice in a million times.)"""

FULL = 10077
"""Error code of JetStream: the bucket has reached its limit."""

# The library logs what goes wrong with a connection; whoever waits for it is told anyway.
logging.getLogger("nats").setLevel(logging.CRITICAL)


class LogBucket:
    """A store in the log service."""

    rest: ClassVar[float] = 3.0
    """How long to rest after a piece of a file, in proportion to the time that it took. Without a rest,
    writes took five times as long meanwhile; with as much, half as long again; with this, hardly longer."""

    def __init__(self, access: LogAccess, max_bytes: int) -> None:
        """``max_bytes`` is how much it may hold; 0: it is only read."""
        self.name = f"the object store of {access.servers[0]}"
        self._access = access
        self._max_bytes = max_bytes

    @property
    def copies(self) -> Sequence[Store]:
        """What each member has: one of them may be rotten, and have been chosen."""
        tried: set[str] = set()
        return [_Copy(self._access, tried) for _ in self._access.servers]

    async def put(self, key: str, data: bytes | Path, sent: Callable[[int], None] | None = None) -> None:
        """Store ``data`` under ``key``: a majority of the log's members has synced it when that returns."""
        from nats.js.api import ObjectMeta, ObjectMetaOptions

        async with self._connected(checked(key)) as js:
            store = await self._made(js)
            if isinstance(data, bytes):
                await self._check_room(js, key, len(data))
                await self._put(js, key, data)
                return
            meta = ObjectMeta(name=key, options=ObjectMetaOptions(max_chunk_size=PIECE))
            with data.open("rb") as file:
                await self._check_room(js, key, file.seek(0, io.SEEK_END))
                file.seek(0)
                await store.put(key, _Slow(file, sent), meta)

    async def _put(self, js: JetStreamContext, key: str, data: bytes) -> None:
        """Store what may be there already: a manifest that is rewritten. Raises StoreError.

        At any time the object is whole, as it was or as it is to be. The library would purge the new data if
        what is said of it got no answer, though that may be there; here it is left, for a sweep.
        """
        from nats.js.api import Header, ObjectInfo, ObjectMetaOptions
        from nats.js.errors import ObjectNotFoundError
        from nats.js.kv import MSG_ROLLUP_SUBJECT

        former = None
        with contextlib.suppress(ObjectNotFoundError, StoreError):  # not there, or rotten: it is replaced
            former = await self._info(js, key)
        chunks = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
        info = ObjectInfo(
            name=key,
            bucket=BUCKET,
            nuid=secrets.token_hex(11),
            size=len(data),
            chunks=len(chunks),
            digest=_digest(hashlib.sha256(data).digest()),
            mtime=datetime.now(UTC).isoformat(),
            options=ObjectMetaOptions(max_chunk_size=PIECE),
        )
        for chunk in chunks:
            await js.publish(_pieces(info), chunk)
        said = json.dumps(info.as_dict()).encode()
        await js.publish(_mark(key), said, headers={Header.ROLLUP: MSG_ROLLUP_SUBJECT})
        if former is not None:
            await js.purge_stream(SNAPSHOTS_STREAM, subject=_pieces(former))

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes; raise ObjectBroken at their end if they are not what was put."""
        async with self._connected(checked(key), SILENT_FOR) as js:
            info = await self._info(js, key)
            subject = _pieces(info)
            digest, left = hashlib.sha256(), info.chunks or 0
            pieces, silent = None, 0
            while left:
                try:
                    pieces = pieces or await js.subscribe(
                        subject, stream=SNAPSHOTS_STREAM, ordered_consumer=True
                    )
                    message = await pieces.next_msg(timeout=SILENT_FOR)
                except TimeoutError:
                    if (await _subjects(js, subject)).get(subject, 0) < (info.chunks or 0):
                        break  # some are gone
                    silent += 1
                    if silent == TRIES or left != info.chunks:
                        raise
                    pieces = None  # who was chosen to send them is gone, or has not got them yet
                    continue
                digest.update(message.data)
                yield message.data
                left -= 1
        self._check(key, info, digest.digest())

    async def head(self, key: str) -> Object:
        """Return what is known of an object."""
        async with self._connected(checked(key)) as js:
            return _object(await self._info(js, key))

    async def list(self, prefix: str) -> builtins.list[Object]:
        """Return the objects below ``prefix``, as the bucket's leader knows them."""
        from nats.js.errors import NotFoundError

        async with self._connected(prefix) as js:
            below = _below(prefix)
            try:
                infos = await self._infos(js)
            except NotFoundError:
                return []  # there is no bucket yet
            return sorted(_object(each) for each in infos if each.name.startswith(below))

    async def known(self, prefix: str) -> set[str]:
        """Return the keys below ``prefix`` of all objects that any member knows; all must answer.

        A member that has lost what is said of an object takes that for deleted, and may lead the others.
        """
        from nats.js.errors import NotFoundError

        async with self._connected(prefix) as js:
            below = _below(prefix)
            try:
                infos = await self._infos_of_all(js)
            except NotFoundError:
                return set()
            return {each.name for each in infos if each.name.startswith(below)}

    async def delete(self, key: str) -> None:
        """Delete an object, and the mark that the library leaves in its place."""
        from nats.js.errors import ObjectNotFoundError

        with contextlib.suppress(ObjectMissing):
            async with self._connected(checked(key)) as js:
                store = await self._opened(js)
                with contextlib.suppress(ObjectNotFoundError):
                    await store.delete(key)
                subject = _mark(key)
                mark = await js.get_last_msg(SNAPSHOTS_STREAM, subject)
                if (await store.get_info(key, show_deleted=True)).deleted and mark.seq:
                    await js.purge_stream(SNAPSHOTS_STREAM, seq=mark.seq + 1, subject=subject)

    async def sweep(self, prefix: str, before: datetime) -> None:
        """Delete what interrupted puts have left, of whatever object, and long before that moment, too.

        There is little room, and a put that goes on is never quiet for so long. (One that was, and goes on,
        has put what is broken.) What it deletes is gone from all members, so all must agree that no object
        is made of it: while one does not answer, nothing goes.
        """
        from nats.js.errors import NotFoundError

        async with self._connected(prefix) as js:
            try:
                found = await _subjects(js, f"$O.{BUCKET}.C.>")
            except NotFoundError:
                return  # there is no bucket yet
            # In this order: what is completed meanwhile is one of the latter.
            suspects = sorted(found.keys() - {_pieces(each) for each in await self._infos(js)})
            left = [each for each in suspects if await _quiet(js, each)]
            used = {_pieces(each) for each in await self._infos_of_all(js)} if left else set()
            for subject in left:
                if subject not in used:
                    await js.purge_stream(SNAPSHOTS_STREAM, subject=subject)

    @contextlib.asynccontextmanager
    async def _connected(self, key: str, within: float = ANSWER_WITHIN) -> AsyncIterator[JetStreamContext]:
        """Connect; what goes wrong is told of ``key``; ``within`` is for how many seconds to wait for it."""
        from nats.aio.client import Client
        from nats.errors import Error
        from nats.js.errors import APIError, NotFoundError

        client = Client()
        try:
            await client.connect(
                servers=builtins.list(self._access.servers),
                user=self._access.user,
                password=self._access.password,
                name="snapshots",
                connect_timeout=int(DIAL_WITHIN),
                reconnect_time_wait=1,
                max_reconnect_attempts=2,
                dont_randomize=True,
                error_cb=_told_anyway,
            )
            yield client.jetstream(timeout=within)
        except NotFoundError as error:
            raise ObjectMissing(f"{self.name}: {key}: no such object") from error
        except APIError as error:
            text = error.description or type(error).__name__
            if error.err_code == FULL:
                raise self._full(key, text) from error
            raise StoreError(f"{self.name}: {key}: {text}") from error
        except (Error, TimeoutError, OSError) as error:
            raise StoreError(f"{self.name}: {key}: {brief(error)}") from error
        finally:
            await client.close()

    async def _check_room(self, js: JetStreamContext, key: str, size: int) -> None:
        """Raise StoreFull if there is no room for so many bytes: what can't fit is not even begun."""
        info = await js.stream_info(SNAPSHOTS_STREAM)
        limit = info.config.max_bytes or 0
        if 0 < limit < info.state.bytes + size:
            raise self._full(key, f"{info.state.bytes} of {limit} bytes are taken, {size} more are needed")

    def _full(self, key: str, why: str) -> StoreFull:
        return StoreFull(
            f"{self.name}: {key}: full ({why}): raise spec.snapshots.store.log.maxBytes, keep fewer "
            "snapshots, or name another store"
        )

    def _check(self, key: str, info: ObjectInfo, sha256: bytes) -> None:
        if _digest(sha256) != info.digest:
            raise ObjectBroken(f"{self.name}: {key}: what is stored is not what was put")

    async def _info(self, js: JetStreamContext, key: str) -> ObjectInfo:
        """Return what is said of an object. Raises StoreError, and the library's NotFoundError."""
        from nats.js.errors import ObjectNotFoundError

        found = await self._said(js, await self._opened(js), _mark(key))
        if found is None or found.deleted:
            raise ObjectNotFoundError
        return found

    async def _infos(self, js: JetStreamContext) -> builtins.list[ObjectInfo]:
        """Return what is said of each object, as the bucket's leader knows it.

        :raises StoreError: it can't be read. :raises NotFoundError: there is no bucket.
        """
        store = await self._opened(js)
        subjects = await _subjects(js, f"$O.{BUCKET}.M.>")
        found = await asyncio.gather(*(self._said(js, store, subject) for subject in subjects))
        return [each for each in found if each and not each.deleted]

    async def _infos_of_all(self, js: JetStreamContext) -> builtins.list[ObjectInfo]:
        """Return what each member has that is said of objects.

        :raises StoreError: one does not answer. :raises NotFoundError: there is no bucket.
        """
        tried: set[str] = set()
        return [info for _ in self._access.servers for info in await self._infos_of_another(js, tried)]

    async def _infos_of_another(self, js: JetStreamContext, tried: set[str]) -> builtins.list[ObjectInfo]:
        """Return what a member has that is said of objects: one that was not ``tried``."""
        messages = await self._another(js, f"$O.{BUCKET}.M.>", tried)
        name = (await messages.consumer_info()).name
        found, more = [], True
        while more:
            try:
                message = await messages.next_msg(timeout=SILENT_FOR)
            except TimeoutError:
                if (await messages.consumer_info()).num_pending:
                    raise  # it is slow
                break  # it has sent what it has
            found.append(_info_in(message.data))
            more = message.metadata.num_pending > 0
        if (await messages.consumer_info()).name != name:
            raise StoreError(f"{self.name}: what one of its members has was read from several")
        await messages.unsubscribe()
        return [each for each in found if not each.deleted]

    async def _another(
        self, js: JetStreamContext, subject: str, tried: set[str]
    ) -> JetStreamContext.PushSubscription:
        """Have a member that was not ``tried`` send all of a subject; it is chosen by chance."""
        for _ in range(PLACEMENT_TRIES):
            pieces = await js.subscribe(subject, stream=SNAPSHOTS_STREAM, ordered_consumer=True)
            cluster = (await pieces.consumer_info()).cluster
            member = (cluster and cluster.leader) or ""
            if member not in tried and (member or len(self._access.servers) == 1):
                tried.add(member)
                return pieces
            await pieces.unsubscribe()
        raise StoreError(f"{self.name}: no other member than {', '.join(sorted(tried))} answers")

    async def _said(self, js: JetStreamContext, store: ObjectStore, subject: str) -> ObjectInfo | None:
        """Return what is said of an object, as the bucket's leader knows it; None: nothing, it was deleted.

        (The library would ask any member, which may not have got the newest yet.)

        :raises StoreError: it can't be read.
        """
        from nats.js.errors import NotFoundError, ObjectNotFoundError

        name = base64.urlsafe_b64decode(subject.rpartition(".")[2]).decode()
        try:
            return await store.get_info(name, show_deleted=True)
        except ObjectNotFoundError:
            if subject not in await _subjects(js, subject):
                return None
        # A server says the same of what it can't read: that is no reason to take it for deleted.
        for _ in range(PLACEMENT_TRIES):  # any member may answer this
            with contextlib.suppress(NotFoundError):
                return _info_in((await js.get_last_msg(SNAPSHOTS_STREAM, subject, direct=True)).data or b"")
        raise StoreError(f"the log service can't read what it has of {name}; is a copy rotten?")

    async def _opened(self, js: JetStreamContext) -> ObjectStore:
        return await js.object_store(BUCKET)

    async def _made(self, js: JetStreamContext) -> ObjectStore:
        """Return the bucket, made now if there is none, or grown if it is smaller than it may be."""
        from nats.js.api import StorageType
        from nats.js.errors import NotFoundError

        try:
            info = await js.stream_info(SNAPSHOTS_STREAM)
        except NotFoundError:
            return await js.create_object_store(
                BUCKET,
                max_bytes=self._max_bytes,
                replicas=len(self._access.servers),
                storage=StorageType.FILE,
            )
        if (info.config.max_bytes or 0) < self._max_bytes:
            await js.update_stream(info.config, max_bytes=self._max_bytes)
        return await self._opened(js)


class _Copy(LogBucket):
    """What one member has: whichever none of its kind has read from."""

    copies: Sequence[Store] = ()

    def __init__(self, access: LogAccess, tried: set[str]) -> None:
        super().__init__(access, 0)
        self._tried = tried

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes; raise ObjectBroken at their end if they are not what was put."""
        async with self._connected(checked(key), SILENT_FOR) as js:
            info = await self._info(js, key)
            digest, pieces = hashlib.sha256(), await self._another(js, _pieces(info), self._tried)
            for _ in range(info.chunks or 0):
                try:
                    data = (await pieces.next_msg(timeout=SILENT_FOR)).data
                except TimeoutError:
                    if (await pieces.consumer_info()).num_pending:
                        raise  # it is slow
                    break  # it has sent what it has
                digest.update(data)
                yield data
        self._check(key, info, digest.digest())


def _mark(key: str) -> str:
    """Return the subject of what is said of an object."""
    return f"$O.{BUCKET}.M.{base64.urlsafe_b64encode(key.encode()).decode()}"


def _pieces(info: ObjectInfo) -> str:
    """Return the subject of an object's data."""
    return f"$O.{BUCKET}.C.{info.nuid}"


def _digest(sha256: bytes) -> str:
    """Return what is said of an object's data."""
    return f"SHA-256={base64.urlsafe_b64encode(sha256).decode()}"


def _below(prefix: str) -> str:
    """Return what the keys below ``prefix`` begin with. Raises StoreError: it is none."""
    return f"{checked(prefix)}/" if prefix else ""


def _info_in(data: bytes) -> ObjectInfo:
    """Return what a message says of an object. Raises StoreError."""
    from nats.js.api import ObjectInfo

    try:
        info: ObjectInfo = ObjectInfo.from_response(json.loads(data))
    except (ValueError, TypeError) as error:
        raise StoreError(f"the log service has what is no object's description: {error}") from error
    return info


async def _quiet(js: JetStreamContext, subject: str) -> bool:
    """Say whether nothing has come to the data of an object for long; the leader's clock has stamped it."""
    from nats.js.errors import NotFoundError

    try:
        last = await js.get_last_msg(SNAPSHOTS_STREAM, subject)
    except NotFoundError:
        return False  # another sweep was quicker, or it can't be read
    return last.time is not None and datetime.now(UTC) - last.time > QUIET_FOR


async def _subjects(js: JetStreamContext, pattern: str) -> dict[str, int]:
    """Return how many messages subjects like ``pattern`` have, as the bucket's leader knows it."""
    info = await js.stream_info(SNAPSHOTS_STREAM, subjects_filter=pattern)
    return info.state.subjects or {}


async def _told_anyway(_: Exception) -> None:
    """Say nothing of a connection's trouble."""


def _object(info: ObjectInfo) -> Object:
    return Object(info.name, info.size or 0, datetime.fromisoformat(info.mtime or ""))


class _Slow(io.BufferedIOBase):
    """A file that is read in pieces, with a rest after each in proportion to what became of it meanwhile."""

    def __init__(self, file: io.BufferedIOBase, sent: Callable[[int], None] | None) -> None:
        self._file = file
        self._sent = sent
        self._read = 0.0
        """When the last piece was read; 0: none was."""
        self._size = 0

    def readinto(self, buffer: Any) -> int:
        """Read the next piece; called in a thread, once the last one is stored."""
        if self._read:
            if self._sent:
                self._sent(self._size)
            time.sleep((time.monotonic() - self._read) * LogBucket.rest)
        self._size = self._file.readinto(buffer)
        self._read = time.monotonic()
        return self._size
