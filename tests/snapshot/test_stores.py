"""The contract of stores: for a directory, for a real S3 server, for a log service of three servers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from tests.log.servers import PASSWORD, USER, Service, free_ports
from tests.snapshot import s3
from tests.snapshot.world import World, command

from memorycluster.api.snapshots import DirectoryStore, S3Store, SnapshotStore
from memorycluster.snapshot import store as store_module
from memorycluster.snapshot.catalogue import BrokenSnapshot, Catalogue
from memorycluster.snapshot.log_bucket import LogBucket
from memorycluster.snapshot.store import CREDENTIALS, LogAccess, ObjectMissing, Store, StoreError, open_store


@pytest.fixture(scope="module")
def server() -> Iterator[s3.S3]:
    with s3.running() as server:
        yield server


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mounted Secret."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "AWS_ACCESS_KEY_ID").write_text(s3.ACCESS)
    (directory / "AWS_SECRET_ACCESS_KEY").write_text(f"{s3.SECRET}\n")
    monkeypatch.setenv(CREDENTIALS, str(directory))
    return directory


def bucket(server: s3.S3, prefix: str) -> SnapshotStore:
    return SnapshotStore(
        s3=S3Store(bucket="snapshots", prefix=prefix, region="us-east-1", endpoint=server.endpoint)
    )


def in_log(service: Service, max_bytes: int = 1 << 30) -> Store:
    access = LogAccess(tuple(service.urls), USER, PASSWORD)
    return LogBucket(access, max_bytes)


@pytest.fixture(params=["directory", "s3", "log"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "log":
        return in_log(request.getfixturevalue("three"))
    if request.param == "directory":
        return open_store(SnapshotStore(directory=DirectoryStore(path=str(tmp_path / "store"))))
    request.getfixturevalue("credentials")
    return open_store(bucket(request.getfixturevalue("server"), f"t{tmp_path.name}"))


async def content(store: Store, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.get(key)])


async def test_what_is_put_is_got(store: Store) -> None:
    await store.put("a/b/c.json", b"{}")
    assert await content(store, "a/b/c.json") == b"{}"
    assert (await store.head("a/b/c.json")).size == 2
    await store.put("a/b/c.json", b"[1]")
    assert await content(store, "a/b/c.json") == b"[1]"


async def test_a_large_file_comes_whole_and_its_progress_is_told(store: Store, tmp_path: Path) -> None:
    data = b"".join(b"%07d\n" % number for number in range(3_000_000))
    file = tmp_path / "large"
    file.write_bytes(data)
    sent: list[int] = []
    await store.put("large.rdb", file, sent.append)
    assert sum(sent) == len(data)
    assert await content(store, "large.rdb") == data


async def test_a_list_has_what_is_below_and_nothing_else(store: Store) -> None:
    for key in ("x/1/m", "x/1/d", "x/10/m", "y/m"):
        await store.put(key, b"1")
    assert [each.key for each in await store.list("x/1")] == ["x/1/d", "x/1/m"]
    assert [each.key for each in await store.list("")] == ["x/1/d", "x/1/m", "x/10/m", "y/m"]
    assert await store.list("z") == []
    assert all(datetime.now(UTC) - each.modified < timedelta(hours=1) for each in await store.list("x"))


async def test_what_is_deleted_is_missing_and_may_be_deleted_again(store: Store) -> None:
    await store.put("a/b", b"1")
    await store.delete("a/b")
    await store.delete("a/b")
    assert await store.list("") == []
    with pytest.raises(ObjectMissing):
        await content(store, "a/b")
    with pytest.raises(ObjectMissing):
        await store.head("a/b")


@pytest.mark.parametrize("key", ["../a", "/a", "a//b", ".a", "a/../b", "", "a b"])
async def test_a_key_can_not_lead_elsewhere(store: Store, key: str) -> None:
    with pytest.raises(StoreError):
        await store.put(key, b"1")


async def test_a_put_that_fails_leaves_what_was_there(store: Store, tmp_path: Path) -> None:
    await store.put("a", b"old")
    with pytest.raises(StoreError):
        await store.put("a", tmp_path / "not-there")
    assert await content(store, "a") == b"old"


async def test_all_directories_last_also_those_that_a_killed_put_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "new" / "store"
    (root / "a" / "b").mkdir(parents=True)  # and nobody has synced any of them
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    await open_store(SnapshotStore(directory=DirectoryStore(path=str(root)))).put("a/b/c", b"1")
    assert set(synced[1:]) == {str(root / "a" / "b"), str(root / "a"), str(root), str(root.parent)}


async def test_a_file_system_that_syncs_no_directories_is_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    store = open_store(SnapshotStore(directory=DirectoryStore(path=str(tmp_path))))
    with pytest.raises(StoreError, match=r"a directory can't be synced \(Invalid argument\)"):
        await store.put("a", b"1")


async def test_what_is_no_longer_read_is_let_go_of(tmp_path: Path) -> None:
    """A snapshot that is longer than it should be is left where it is, and its file closed."""
    store = open_store(SnapshotStore(directory=DirectoryStore(path=str(tmp_path))))
    await store.put("orders/0/x/data.rdb", b"12345")
    catalogue = Catalogue(store, "orders", 0)
    closed: list[bool] = []
    get = store.get

    async def watched(key: str) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in get(key):
                yield chunk
                yield chunk
        finally:
            closed.append(True)

    store.get = watched  # type: ignore[method-assign]
    with (tmp_path / "copy").open("wb") as file, pytest.raises(BrokenSnapshot):
        await catalogue.fetch("orders/0/x", size=1, sha256="", file=file)
    assert closed


async def test_a_sweep_deletes_what_our_own_puts_have_left_and_no_file_of_others(tmp_path: Path) -> None:
    root, old = tmp_path / "home", 1_000_000_000
    place = "0/25c1c2f2-3f5a-4c4a-9d5e-3f6b7c8d9e0f/00000000000000000007-0a1b2c3d"
    ours = [f"orders/{place}/.data.rdb.0a1b2c3d", f"orders/{place}/.manifest.json.ffffffff"]
    foreign = [
        ".bashrc",
        "proj/.env",
        ".data.rdb.0a1b2c3d",
        f"payments/{place}/.data.rdb.0a1b2c3d",
        "orders/1/.data.rdb.0a1b2c3d",
        "orders/0/.keep",
        f"orders/{place}/.data.rdb.swp",
        f"orders/{place}/manifest.json",
    ]
    young = f"orders/{place}/.data.rdb.00000000"
    for name in (*ours, *foreign, young):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
        if name != young:
            os.utime(path, (old, old))
    store = open_store(SnapshotStore(directory=DirectoryStore(path=str(root))))
    await Catalogue(store, "orders", 0).sweep(datetime.now(UTC) - timedelta(days=1))
    left = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert left == {*foreign, young}


async def test_no_message_holds_a_credential(server: s3.S3, credentials: Path) -> None:
    (credentials / "AWS_SECRET_ACCESS_KEY").write_text("wrong-and-secret")
    store = open_store(bucket(server, "p"))
    with pytest.raises(StoreError) as error:
        await store.put("a", b"1")
    assert "wrong-and-secret" not in str(error.value)
    assert s3.ACCESS not in str(error.value)


async def test_rotated_credentials_are_read_when_a_store_is_opened(server: s3.S3, credentials: Path) -> None:
    (credentials / "AWS_SECRET_ACCESS_KEY").write_text("old")
    with pytest.raises(StoreError):
        await open_store(bucket(server, "p")).put("a", b"1")
    (credentials / "AWS_SECRET_ACCESS_KEY").write_text(s3.SECRET)
    await open_store(bucket(server, "p")).put("a", b"1")


async def test_a_snapshot_goes_to_a_bucket_and_comes_back(
    world: World, server: s3.S3, credentials: Path
) -> None:
    world.catalogue = Catalogue(open_store(bucket(server, world.stream)), "orders", 0)
    await world.lead()
    await world.write(*(command("SET", f"k{number}", "x" * 1000) for number in range(200)))
    snapshot = await world.make()
    await world.write(command("SET", "after", "1"))
    await world.log.trim(snapshot.manifest.sequence + 1)
    start = await world.start()
    assert start.position == snapshot.manifest.position
    assert (await world.loaded(start)).digest == snapshot.manifest.digest
    second = await world.make()
    assert second.manifest.keys == 201


async def test_a_store_that_is_away_makes_no_snapshot_and_loses_none(
    world: World, server: s3.S3, credentials: Path
) -> None:
    world.catalogue = Catalogue(open_store(bucket(server, world.stream)), "orders", 0)
    await world.lead()
    await world.write(command("SET", "a", "1"))
    first = await world.make()
    await world.write(command("SET", "b", "1"))
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await world.make()
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert [each.place for each in await world.catalogue.all()] == [first.place]
    assert (await world.make()).manifest.keys == 2


class Dribbling:
    """An S3 server with one object: it sends it slowly, and breaks off, or goes silent, as it is told to."""

    DATA = bytes(range(256)) * 256

    def __init__(self) -> None:
        self.breaks, self.silent = 0, False
        self.began: list[int] = []
        """Where the answers began."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        first = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.began.append(first)
        rest = self.DATA[first:]
        headers = {
            "ETag": '"1"',
            "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT",
            "Content-Length": str(len(rest)),
            "Content-Range": f"bytes {first}-{len(self.DATA) - 1}/{len(self.DATA)}",
        }
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200, headers=headers)
        await response.prepare(request)
        for at in range(0, len(rest), 8192):
            await response.write(rest[at : at + 8192])
            await asyncio.sleep(0.2)
            if self.breaks and at:
                self.breaks -= 1
                assert request.transport
                request.transport.abort()
                break
            if self.silent:
                await asyncio.sleep(5)
        return response


@pytest.fixture
async def dribbling(
    monkeypatch: pytest.MonkeyPatch, credentials: Path
) -> AsyncIterator[tuple[Dribbling, Store]]:
    """Such a server, and a client for which a request takes a second at most, and a silence, too."""
    monkeypatch.setattr(store_module, "ANSWER_WITHIN", timedelta(seconds=1))
    monkeypatch.setattr(store_module, "SILENT_FOR", timedelta(seconds=1))
    monkeypatch.setattr(store_module, "READ_RETRIES", 2)
    server = Dribbling()
    app = web.Application()
    app.router.add_get("/{tail:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield server, open_store(bucket(s3.S3(f"http://127.0.0.1:{port}", Path(), None), "p"))  # type: ignore[arg-type]
    await runner.cleanup()


async def test_what_takes_longer_than_any_other_request_is_read_whole(
    dribbling: tuple[Dribbling, Store],
) -> None:
    server, store = dribbling
    assert await content(store, "a") == server.DATA
    assert server.began == [0]


async def test_a_read_that_breaks_off_goes_on_from_there(dribbling: tuple[Dribbling, Store]) -> None:
    server, store = dribbling
    server.breaks = 2
    assert await content(store, "a") == server.DATA
    assert len(server.began) == 3
    assert server.began[0] == 0 < server.began[1] < server.began[2]


async def test_a_store_that_falls_silent_is_noticed(dribbling: tuple[Dribbling, Store]) -> None:
    server, store = dribbling
    server.silent = True
    async with asyncio.timeout(30):
        with pytest.raises(StoreError):
            await content(store, "a")


@pytest.mark.parametrize("size", [0, 1, 8 << 20, 78 << 30, 79 << 30, 1 << 40, 5 << 40])
def test_an_upload_has_no_more_parts_than_a_store_takes(size: int) -> None:
    part = store_module.part_size(size)
    assert -(-size // part) <= 10_000
    assert 5 << 20 <= part <= 5 << 30
    assert part == store_module.PART or -(-size // part) > 5_000, "nor are they larger than they must be"
