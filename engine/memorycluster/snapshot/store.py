"""Where snapshots are kept: objects by key, put whole or not at all.

A directory is our own code, as what is put must be on disk when that returns: the log is trimmed on the
strength of it. Everything else is obstore's. Credentials come from the environment, or from a directory with
a file for each (a mounted Secret), read anew whenever a store is opened; no message here holds one.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import re
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from memorycluster.api.snapshots import AzureStore, DirectoryStore, GoogleStore, S3Store, SnapshotStore
from memorycluster.durable import sync_directory

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CHUNK = 1 << 20
"""Bytes that are read and written at a time."""

PART, PARTS = 8 << 20, 9_000
"""Bytes of a part of a large upload, at least, and how many parts it has at most: S3 takes 10,000."""

UNDER_WAY = 96 << 20
"""Bytes of an upload that are sent, and held in memory, at a time, if its parts are not larger."""

CONNECT_WITHIN, ANSWER_WITHIN = timedelta(seconds=5), timedelta(seconds=300)
"""For a connection; for a whole request but for reading: a part must be sent in that time."""

SILENT_FOR = timedelta(seconds=60)
"""From one piece of an object that is read to the next at most: then the store is taken to hang."""

READ_WITHIN = timedelta(hours=12)
"""For a whole object, however large: as long as pieces come, it is read."""

RETRIES, READ_RETRIES = 3, 5
"""How often a request is made again, and how often a read goes on where it broke off. What can't be had then
is tried again later, by who needs it."""

CREDENTIALS = "MEMORYCLUSTER_STORE_CREDENTIALS"
"""Environment variable: directory of the credentials' files, each named like AWS_SECRET_ACCESS_KEY, or of one
such directory for each Secret, by its name."""

_KEY = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]*(?:/[A-Za-z0-9][-A-Za-z0-9._]*)*")

_PARTIAL = re.compile(r"\.[a-z]+\.(?:rdb|json)\.[0-9a-f]{8}")
"""Name of a file that a put has not completed. The directory may hold others' files, too."""


class StoreError(Exception):
    """The store does not do what it was asked for; says which, and why. Try again."""


class StoreFull(StoreError):
    """There is no room, and it was not put."""


class ObjectMissing(StoreError):
    """There is no such object."""


class ObjectBroken(StoreError):
    """An object is not what was put, as the store itself has found."""


class Object(NamedTuple):
    """An object of a store."""

    key: str
    size: int
    modified: datetime


class LogAccess(NamedTuple):
    """How to reach a log service, which may be a store too."""

    servers: tuple[str, ...]
    """Addresses of its members: ``nats://host:port``."""
    user: str
    password: str


class Store(Protocol):
    """Objects by key. Keys are parts like ``a-1.b`` joined by ``/``."""

    name: str
    """For messages."""

    @property
    def copies(self) -> Sequence[Store]:
        """The same objects, read where the store may not have read them: for what turns out to be broken."""

    async def put(self, key: str, data: bytes | Path, sent: Callable[[int], None] | None = None) -> None:
        """Store ``data``, or the file of that name, under ``key``, whole or not at all; return once it lasts.

        ``sent`` is told the bytes that are under way. Raises StoreError.
        """

    def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes. Raises ObjectMissing, StoreError, and ObjectBroken after the last."""

    async def head(self, key: str) -> Object:
        """Return what is known of an object. Raises ObjectMissing, StoreError."""

    async def list(self, prefix: str) -> list[Object]:
        """Return the objects below ``prefix`` (whole parts of a key), by key. Raises StoreError."""

    async def known(self, prefix: str) -> set[str]:
        """Return the keys below ``prefix`` of all objects that any copy has; ``list`` may ask only one.

        For who deletes what something else does not name. Raises StoreError: also if a copy does not answer.
        """

    async def delete(self, key: str) -> None:
        """Delete an object, if it is there. Raises StoreError."""

    async def sweep(self, prefix: str, before: datetime) -> None:
        """Delete what interrupted puts below ``prefix`` have left before then, where that is ours to do.

        Raises StoreError.
        """


def open_store(config: SnapshotStore, log: LogAccess | None = None, *, lenient: bool = False) -> Store:
    """Return the store that ``config`` names.

    :param log: the log service, which may be the store, or have been it.
    :param lenient: what the former store has is found also while the one that is named can't be asked.
    :raises StoreError: it can't be opened, or none is named.
    """
    chosen, kept = config.chosen, None
    if config.log is not None and log is not None:
        from memorycluster.snapshot.log_bucket import LogBucket

        kept = LogBucket(log, config.log.max_bytes or 0)
    if chosen is None:
        if kept is None:
            raise StoreError("no store for snapshots is named")
        return kept
    named: Store
    if isinstance(chosen, DirectoryStore):
        named = Directory(Path(chosen.path))
    else:
        named = Bucket(chosen, secret=config.credentials.secret_name if config.credentials else "")
    if kept is None:
        return named
    from memorycluster.snapshot.former import WithFormer

    return WithFormer(named, kept, lenient=lenient)


class Directory:
    """A store in a directory."""

    copies: Sequence[Store] = ()

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root

    async def put(self, key: str, data: bytes | Path, sent: Callable[[int], None] | None = None) -> None:
        """Store ``data`` under ``key``, on disk when it returns."""
        await self._do(self._put, self._path(key), data, sent)

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes."""
        file = await self._do(self._path(key).open, "rb")
        try:
            while chunk := await self._do(file.read, CHUNK):
                yield chunk
        finally:
            file.close()

    async def head(self, key: str) -> Object:
        """Return what is known of an object."""
        return _object(key, await self._do(self._path(key).stat))

    async def list(self, prefix: str) -> list[Object]:
        """Return the objects below ``prefix``."""
        found: list[Object] = await self._do(self._list, self._path(prefix) if prefix else self._root)
        return found

    async def known(self, prefix: str) -> set[str]:
        """Return the keys of the objects below ``prefix``."""
        return {each.key for each in await self.list(prefix)}

    async def delete(self, key: str) -> None:
        """Delete an object, and the directories that are empty then."""
        await self._do(self._delete, self._path(key))

    async def sweep(self, prefix: str, before: datetime) -> None:
        """Delete what interrupted puts below ``prefix`` have left before then, and nothing else."""
        await self._do(self._sweep, self._path(prefix), before)

    async def _do(self, what: Callable[..., Any], *args: Any) -> Any:
        try:
            return await asyncio.to_thread(what, *args)
        except FileNotFoundError as error:
            raise ObjectMissing(f"{error.filename or self.name}: no such object") from error
        except OSError as error:
            raise StoreError(f"{error.filename or self.name}: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    def _put(self, path: Path, data: bytes | Path, sent: Callable[[int], None] | None) -> None:
        made = [each for each in (path.parent, *path.parent.parents) if not each.exists()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # as _PARTIAL has it
        try:
            with partial.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                for chunk in _chunks(data, sent):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        # Those that were there, too: who made them may have been killed before they lasted.
        ours = [each for each in path.parents if each.is_relative_to(self._root)]
        for directory in dict.fromkeys([*ours, self._root.parent, *(each.parent for each in made)]):
            sync_directory(directory)

    def _list(self, root: Path) -> builtins.list[Object]:
        found = []
        for path in sorted(root.rglob("*")):
            if path.name.startswith("."):
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found.append(_object(path.relative_to(self._root).as_posix(), path.stat()))
        return sorted(found)

    def _sweep(self, below: Path, before: datetime) -> None:
        for path in [each for each in below.rglob(".*") if _PARTIAL.fullmatch(each.name)]:
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime < before.timestamp():
                    self._delete(path)

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        for directory in path.parents:
            if directory == self._root:
                break
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                break  # not empty


class Bucket:
    """A store in a bucket or container of an object storage service, by obstore."""

    copies: Sequence[Store] = ()

    def __init__(self, config: S3Store | AzureStore | GoogleStore, secret: str = "") -> None:
        """Open it, with the credentials of the Secret of that name, if there is a directory for it.

        :raises StoreError: it can't be as it is configured.
        """
        from obstore.exceptions import BaseError

        try:
            credentials = _credentials(secret)
            self.name, self._store = _open(config, credentials)
            _, self._reading = _open(config, credentials, reading=True)
        except (BaseError, ValueError, OSError) as error:
            raise StoreError(f"can't open the store: {brief(error)}") from error

    async def put(self, key: str, data: bytes | Path, sent: Callable[[int], None] | None = None) -> None:
        """Store ``data`` under ``key``."""
        import obstore

        checked(key)
        # A stream is uploaded in parts, which appear as one object once the last of them is there.
        source = data if isinstance(data, bytes) else _chunks(data, sent)
        with self._errors(key):
            part = part_size(len(data) if isinstance(data, bytes) else _size(data))
            at_once = max(UNDER_WAY // part, 1)
            await obstore.put_async(self._store, key, source, chunk_size=part, max_concurrency=at_once)

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes."""
        import obstore

        with self._errors(key):
            answer = await obstore.get_async(self._reading, checked(key))
            async for chunk in answer.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    async def head(self, key: str) -> Object:
        """Return what is known of an object."""
        import obstore

        with self._errors(key):
            meta = await obstore.head_async(self._store, checked(key))
        return Object(key, meta["size"], meta["last_modified"])

    async def list(self, prefix: str) -> list[Object]:
        """Return the objects below ``prefix``."""
        import obstore

        found = []
        with self._errors(prefix):
            async for page in obstore.list(self._store, prefix or None):
                found += [Object(meta["path"], meta["size"], meta["last_modified"]) for meta in page]
        return sorted(found)

    async def known(self, prefix: str) -> set[str]:
        """Return the keys of the objects below ``prefix``: the service answers for all its copies."""
        return {each.key for each in await self.list(prefix)}

    async def delete(self, key: str) -> None:
        """Delete an object."""
        import obstore

        with contextlib.suppress(ObjectMissing), self._errors(key):
            await obstore.delete_async(self._store, checked(key))

    async def sweep(self, prefix: str, before: datetime) -> None:
        """Do nothing: parts of interrupted uploads are for the bucket's own lifecycle rule."""

    @contextlib.contextmanager
    def _errors(self, key: str) -> Any:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self.name}/{key}: no such object") from error
        except (BaseError, OSError, ValueError) as error:
            raise StoreError(f"{self.name}/{key}: {brief(error)}") from error


def part_size(size: int) -> int:
    """Return how many bytes a part of an upload of ``size`` bytes has: so that there are not too many."""
    return max(PART, -(-size // (PARTS << 20)) << 20)


def _size(path: Path) -> int:
    return path.stat().st_size


def _client(*, reading: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how long a client waits, and how often it tries again.

    A request's timeout ends with the last byte of its answer. So for reading there is one for each piece of
    that; elsewhere that would end what is being sent.
    """
    if reading:
        timeouts = {"timeout": READ_WITHIN, "read_timeout": SILENT_FOR}
        retries = {"max_retries": READ_RETRIES, "retry_timeout": READ_WITHIN}
    else:
        timeouts = {"timeout": ANSWER_WITHIN}
        retries = {"max_retries": RETRIES}
    return timeouts | {"connect_timeout": CONNECT_WITHIN}, retries


def _open(
    config: S3Store | AzureStore | GoogleStore, credentials: dict[str, str], *, reading: bool = False
) -> tuple[str, ObjectStore]:
    from obstore.store import AzureStore as Azure
    from obstore.store import GCSStore as Google
    from obstore.store import S3Store as Amazon

    options: Any = dict(credentials)
    client, retries = _client(reading=reading)
    common: dict[str, Any] = {"prefix": config.prefix, "client_options": client, "retry_config": retries}
    if isinstance(config, GoogleStore):
        return _name("gs", config.bucket, config.prefix), Google(config.bucket, config=options, **common)
    if config.endpoint:
        options["endpoint"] = config.endpoint
        common["client_options"]["allow_http"] = config.endpoint.startswith("http://")
    if isinstance(config, AzureStore):
        options["account_name"] = config.account
        name = _name("az", config.account, config.container, config.prefix)
        return name, Azure(config.container, config=options, **common)
    if config.region:
        options["region"] = config.region
    return _name("s3", config.bucket, config.prefix), Amazon(config.bucket, config=options, **common)


def _name(scheme: str, *parts: str | None) -> str:
    return f"{scheme}://{'/'.join(part for part in parts if part)}"


def _credentials(secret: str) -> dict[str, str]:
    """Return the credentials in files, if there is a directory; obstore finds those in the environment."""
    named = os.environ.get(CREDENTIALS)
    if not named:
        return {}
    directory = Path(named)
    if secret and (directory / secret).is_dir():
        directory /= secret
    files = [path for path in sorted(directory.iterdir()) if not path.name.startswith(".") and path.is_file()]
    return {path.name.lower(): path.read_text().strip() for path in files}


def brief(error: BaseException) -> str:
    """Return the first line of what went wrong: the rest shows requests."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _chunks(data: bytes | Path, sent: Callable[[int], None] | None) -> Any:
    if isinstance(data, bytes):
        yield data
        return
    with data.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
            if sent:
                sent(len(chunk))


def checked(key: str) -> str:
    """Return ``key``. Raises StoreError: it is none."""
    if not _KEY.fullmatch(key):
        raise StoreError(f"{key!r} can't be a key of a store")
    return key


def _object(key: str, stat: os.stat_result) -> Object:
    return Object(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))
