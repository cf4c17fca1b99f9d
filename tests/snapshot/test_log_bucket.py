"""Snapshots in the log service's own object store: what breaks there is found, and the logs never suffer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore
from tests.log.servers import PASSWORD, USER, Service, until
from tests.snapshot.test_stores import content, in_log
from tests.snapshot.world import World, command, world_of

from memorycluster.log.healing import Kind, decide
from memorycluster.log.interface import SNAPSHOTS_STREAM, LogError, LogUnavailable
from memorycluster.snapshot import log_bucket
from memorycluster.snapshot.catalogue import Catalogue
from memorycluster.snapshot.former import WithFormer
from memorycluster.snapshot.store import Directory, Object, ObjectBroken, ObjectMissing, StoreError

T = TypeVar("T")

CHUNKS = f"$O.{log_bucket.BUCKET}.C.>"


@pytest.fixture
async def world(three: Service, programs: Path) -> AsyncIterator[World]:
    """A log in a service of three servers, whose snapshots are to be there too."""
    async with world_of(three, programs) as made:
        made.catalogue = Catalogue(in_log(three), "orders", 0)
        yield made


async def patiently(what: Callable[[], Awaitable[T]]) -> T:
    """Try again until a leader is elected, and known."""
    async with asyncio.timeout(200):
        while True:
            try:
                return await what()
            except (StoreError, LogUnavailable):
                await asyncio.sleep(1)


@asynccontextmanager
async def jetstream(service: Service) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(servers=service.urls, user=USER, password=PASSWORD)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def pieces(service: Service) -> dict[str, int]:
    """How many messages there are of each object's data, also of one that is none."""
    async with jetstream(service) as js:
        info = await js.stream_info(SNAPSHOTS_STREAM, subjects_filter=CHUNKS)
        return info.state.subjects or {}


async def everywhere(service: Service) -> None:
    """Wait until all members have everything, and not only two."""
    async with jetstream(service) as js:

        async def current() -> bool:
            cluster = (await js.stream_info(SNAPSHOTS_STREAM)).cluster
            copies = (cluster and cluster.replicas) or []
            return len(copies) == 2 and all(copy.current and not copy.lag for copy in copies)

        await until(current, 60)


async def test_a_snapshot_goes_there_and_comes_back(world: World) -> None:
    await world.lead()
    await world.write(*(command("SET", f"k{number}", "x" * 1000) for number in range(200)))
    snapshot = await world.make()
    await world.write(command("SET", "after", "1"))
    await world.log.trim(snapshot.manifest.sequence + 1)
    start = await world.start()
    assert start.position == snapshot.manifest.position
    assert (await world.loaded(start)).digest == snapshot.manifest.digest
    assert (await world.make()).manifest.keys == 201


async def test_it_is_on_each_member_and_survives_that_all_are_killed(three: Service) -> None:
    store = in_log(three)
    await store.put("a/b", b"1" * (3 << 20))
    async with jetstream(three) as js:
        info = await js.stream_info(SNAPSHOTS_STREAM)
    assert info.config.num_replicas == 3
    assert info.config.max_bytes == 1 << 30
    await three.kill()
    three.start()
    await three.ready()
    assert await patiently(lambda: content(store, "a/b")) == b"1" * (3 << 20)


async def test_without_a_bucket_there_is_nothing_and_nothing_is_made(three: Service) -> None:
    store = in_log(three)
    assert await store.list("") == []
    await store.delete("a")
    await store.sweep("", datetime.now(UTC))
    with pytest.raises(ObjectMissing):
        await content(store, "a")
    async with jetstream(three) as js:
        assert SNAPSHOTS_STREAM not in [each.config.name for each in await js.streams_info()]


@pytest.mark.parametrize("all_of_it", [True, False])
async def test_pieces_that_are_gone_are_noticed(
    three: Service, all_of_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_bucket, "SILENT_FOR", 2.0)
    store = in_log(three)
    await store.put("a", bytes(10 * log_bucket.PIECE))
    [(subject, count)] = (await pieces(three)).items()
    assert count == 10
    async with jetstream(three) as js:
        if all_of_it:
            await js.purge_stream(SNAPSHOTS_STREAM, subject=subject)
        else:
            await js.delete_msg(SNAPSHOTS_STREAM, (await js.get_last_msg(SNAPSHOTS_STREAM, subject)).seq - 4)
    with pytest.raises(ObjectBroken):
        await content(store, "a")


def flip(root: Path, marked: bytes) -> int:
    """Flip a bit of what is stored, wherever it is below ``root``; return in how many files."""
    flipped = 0
    for file in root.rglob("*.blk"):
        data = bytearray(file.read_bytes())
        if SNAPSHOTS_STREAM in str(file) and (at := data.find(marked)) >= 0:
            data[at] ^= 1
            file.write_bytes(data)
            flipped += 1
    return flipped


@pytest.mark.parametrize("what", ["data", "mark"])
async def test_a_rotten_copy_is_passed_over(three: Service, what: str) -> None:
    """Whichever member has it."""
    catalogue = Catalogue(in_log(three), "orders", 0)
    for name in three.names:
        marked = secrets.token_bytes(200)
        data = marked + bytes(3 * log_bucket.PIECE)
        key = f"orders/0/{name}/data.rdb"
        await catalogue.store.put(key, data)
        await everywhere(three)
        await three.stop()
        subject = log_bucket._mark(key).encode()
        assert flip(three.data_dir(name), marked if what == "data" else subject) == 1
        three.start()
        await three.ready()
        fetch = partial(
            catalogue.fetch,
            f"orders/0/{name}",
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            file=None,
        )
        await patiently(fetch)
        assert key in [each.key for each in await patiently(lambda: catalogue.store.list(""))]
        if what == "data":
            whole = 0
            for copy in catalogue.store.copies:
                with contextlib.suppress(ObjectBroken):
                    whole += await content(copy, key) == data
            assert whole == 2, "each member is asked, and one of them has not got it"


async def test_a_flipped_bit_on_all_disks_leads_to_the_snapshot_before(world: World, three: Service) -> None:
    await world.lead()
    await world.write(command("SET", "a", "1"))
    first = await world.make()
    marked = secrets.token_bytes(200)  # which an RDB file does not compress
    await world.write(command("SET", "b", marked))
    await world.make()
    await everywhere(three)
    await three.stop()
    assert flip(three.root, marked) == 3
    three.start()
    await three.ready()
    await patiently(lambda: world.catalogue.store.list(""))
    start = await patiently(world.start)
    assert start.snapshot
    assert start.snapshot.place == first.place
    assert (await world.loaded(start)).digest == first.manifest.digest


async def test_what_a_killed_put_has_left_is_swept_and_what_goes_on_is_not(
    three: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = in_log(three)
    await store.put("kept/data", bytes(3 * log_bucket.PIECE))
    async with jetstream(three) as js:
        await js.publish(f"$O.{log_bucket.BUCKET}.C.interrupted", b"1")
    await store.sweep("kept", datetime.now(UTC) - timedelta(days=1))
    assert len(await pieces(three)) == 2
    monkeypatch.setattr(log_bucket, "QUIET_FOR", timedelta(seconds=-60))
    await store.sweep("kept", datetime.now(UTC) - timedelta(days=1))
    assert list((await pieces(three)).values()) == [3]
    assert [each.key for each in await store.list("")] == ["kept/data"]


async def test_what_is_deleted_leaves_nothing(three: Service) -> None:
    store = in_log(three)
    await store.put("a/b", bytes(log_bucket.PIECE))
    await store.delete("a/b")
    async with jetstream(three) as js:
        assert (await js.stream_info(SNAPSHOTS_STREAM)).state.messages == 0


async def test_a_full_one_says_so_and_takes_more_once_it_may_hold_more(three: Service) -> None:
    store = in_log(three, 4 << 20)
    await store.put("a", bytes(3 << 20))
    with pytest.raises(StoreError, match=r"full .*maxBytes"):
        await store.put("b", bytes(3 << 20))
    assert [each.key for each in await store.list("")] == ["a"]
    assert len(await pieces(three)) == 1  # nothing is left of the other
    await in_log(three, 16 << 20).put("b", bytes(3 << 20))
    assert await content(store, "b") == bytes(3 << 20)


async def test_a_full_bucket_takes_nothing_from_the_logs(world: World, three: Service) -> None:
    store = in_log(three, 1 << 20)
    with pytest.raises(StoreError, match="full"):
        await store.put("a", bytes(2 << 20))
    await world.lead()
    for number in range(20):
        await world.write(command("SET", f"k{number}", "x" * 200_000))


async def test_deletions_make_no_member_rotten(world: World, three: Service) -> None:
    """They leave holes, as a rotten copy of a log has them."""
    store = in_log(three)
    for key in ("a", "b", "c"):
        await store.put(key, bytes(2 * log_bucket.PIECE))
    await store.delete("b")
    async with jetstream(three) as js:
        state = (await js.stream_info(SNAPSHOTS_STREAM)).state
    assert state.last_seq - state.first_seq + 1 > state.messages
    async with three.service() as admin:
        copies = await admin.copies()
    assert SNAPSHOTS_STREAM in {each.log for each in copies}
    assert decide(three.names, copies).kind is Kind.NOTHING


async def test_a_log_service_that_is_away_is_told_in_time(three: Service) -> None:
    store = in_log(three)
    await three.kill()
    async with asyncio.timeout(120):
        with pytest.raises(StoreError):
            await store.list("")


async def test_one_member_less_does_no_harm(three: Service) -> None:
    store = in_log(three)
    await store.put("a", b"1")
    await three.kill("log-0")  # the one that is asked first
    await patiently(lambda: store.put("b", b"1"))
    assert await patiently(lambda: content(store, "a")) == b"1"
    assert [each.key for each in await patiently(lambda: store.list(""))] == ["a", "b"]


async def test_progress_is_told_up_to_the_last_byte(three: Service, tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(5 * log_bucket.PIECE + 7))
    sent: list[int] = []
    await in_log(three).put("a", file, sent.append)
    assert sent == [log_bucket.PIECE] * 5 + [7]


async def test_beside_a_new_store_the_former_one_is_read_and_gets_empty(tmp_path: Path) -> None:
    former, new = Directory(tmp_path / "former"), Directory(tmp_path / "new")
    for key in ("a/1", "a/2"):
        await former.put(key, b"old")
    both = WithFormer(new, former)
    await both.put("a/2", b"new")
    await both.put("a/3", b"new")
    assert [each.key for each in await both.list("a")] == ["a/1", "a/2", "a/3"]
    assert [await content(both, f"a/{each}") for each in (1, 2, 3)] == [b"old", b"new", b"new"]
    assert (await both.head("a/1")).size == 3
    await both.delete("a/1")
    await both.delete("a/2")
    assert [each.key for each in await both.list("a")] == ["a/3"]
    assert await former.list("a") == []
    with pytest.raises(ObjectMissing):
        await content(both, "a/1")


async def test_who_only_reads_is_content_with_what_the_former_one_has(tmp_path: Path) -> None:
    former, new = Directory(tmp_path / "former"), Away(tmp_path / "new")
    await former.put("a/1", b"old")
    with pytest.raises(StoreError, match="away"):
        await WithFormer(new, former).list("a")
    both = WithFormer(new, former, lenient=True)
    assert [each.key for each in await both.list("a")] == ["a/1"]
    assert await content(both, "a/1") == b"old"
    await former.delete("a/1")
    with pytest.raises(StoreError, match="away"):
        await both.list("a")


class Away(Directory):
    async def list(self, prefix: str) -> list[Object]:
        raise StoreError("away")

    async def head(self, key: str) -> Object:
        raise StoreError("away")


async def test_what_can_not_be_read_is_not_taken_for_deleted(
    three: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server says of what it can't read that it is not there."""
    store = in_log(three)
    await patiently(lambda: store.put("a", bytes(1 << 20)))
    monkeypatch.setattr(log_bucket, "QUIET_FOR", timedelta(0))

    async def unreadable(*_: object, **__: object) -> None:
        raise ObjectNotFoundError

    with monkeypatch.context() as rotten:
        rotten.setattr(ObjectStore, "get_info", unreadable)
        rotten.setattr(JetStreamContext, "get_last_msg", unreadable)
        for what in (store.list(""), store.sweep("", datetime.now(UTC))):
            with pytest.raises(StoreError, match="can't read what it has of a"):
                await what
    await store.sweep("", datetime.now(UTC))
    assert await content(store, "a") == bytes(1 << 20)


async def loses(service: Service, name: str, key: str) -> None:
    """Have a member lose what is said of an object, which it then takes for deleted."""
    await everywhere(service)
    await service.stop()
    assert flip(service.data_dir(name), log_bucket._mark(key).encode()) == 1
    for index in service.data_dir(name).rglob("index.db"):
        index.unlink()
    service.start()
    await service.ready()


async def leader(js: JetStreamContext) -> str | None:
    cluster = (await js.stream_info(SNAPSHOTS_STREAM)).cluster
    return cluster.leader if cluster else None


async def told_by(service: Service, name: str, what: Callable[[], Awaitable[T]]) -> T:
    """Return what is told while that member leads, before and after."""
    async with jetstream(service) as js, service.service() as admin, asyncio.timeout(200):
        while True:
            with contextlib.suppress(StoreError, LogError, TimeoutError, nats.errors.Error):
                if await leader(js) == name:
                    told = await what()
                    if await leader(js) == name:
                        return told
                await admin.step_down(SNAPSHOTS_STREAM, to=name)
            await asyncio.sleep(1)


@pytest.mark.parametrize("lost", ["data.rdb", "manifest.json"])
async def test_what_one_member_has_lost_and_leads_is_swept_from_none(
    three: Service, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(log_bucket, "QUIET_FOR", timedelta(seconds=-60))
    catalogue = Catalogue(in_log(three), "orders", 0)
    objects = {
        "orders/0/x/data.rdb": bytes(3 * log_bucket.PIECE),
        "orders/0/x/manifest.json": b"{}",
        "filler": bytes(12 << 20),  # what is lost of a server's newest file it gets back from the others
    }
    for key, data in objects.items():
        await catalogue.store.put(key, data)
    lost = f"orders/0/x/{lost}"
    await loses(three, "log-1", lost)
    assert lost not in {each.key for each in await told_by(three, "log-1", lambda: catalogue.store.list(""))}
    assert await told_by(three, "log-1", lambda: catalogue.store.known("orders")) == set(objects) - {"filler"}
    interrupted = f"$O.{log_bucket.BUCKET}.C.interrupted"
    async with jetstream(three) as js:
        await js.publish(interrupted, b"1")
    await everywhere(three)
    await told_by(three, "log-1", lambda: catalogue.sweep(datetime.now(UTC) + timedelta(days=1)))
    assert interrupted not in await told_by(three, "log-2", lambda: pieces(three))
    for key, data in objects.items():
        assert await told_by(three, "log-2", partial(content, catalogue.store, key)) == data


async def test_while_a_member_does_not_answer_nothing_is_swept(
    three: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_bucket, "QUIET_FOR", timedelta(seconds=-60))
    store = in_log(three)
    await store.put("a", b"1")
    await everywhere(three)
    await three.kill("log-2")
    await patiently(lambda: store.list(""))
    await patiently(lambda: store.sweep("", datetime.now(UTC)))  # there is nothing that could go
    async with jetstream(three) as js:
        await js.publish(f"$O.{log_bucket.BUCKET}.C.interrupted", b"1")
    with pytest.raises(StoreError):
        await store.sweep("", datetime.now(UTC))
    with pytest.raises(StoreError):
        await store.known("")
    assert len(await pieces(three)) == 2


@pytest.mark.parametrize("stored", [True, False])
async def test_a_rewrite_without_an_answer_leaves_what_was_or_what_is_to_be(
    three: Service, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    store = in_log(three)
    await store.put("a", b"old")
    publish = JetStreamContext.publish

    async def unheard(js: JetStreamContext, subject: str, *args: Any, **more: Any) -> Any:
        if subject == log_bucket._mark("a"):
            if stored:
                await publish(js, subject, *args, **more)
            raise nats.errors.TimeoutError
        return await publish(js, subject, *args, **more)

    with monkeypatch.context() as broken:
        broken.setattr(JetStreamContext, "publish", unheard)
        with pytest.raises(StoreError):
            await store.put("a", b"new")
    assert await content(store, "a") == (b"new" if stored else b"old")
    await store.put("a", b"newest")
    assert await content(store, "a") == b"newest"
    monkeypatch.setattr(log_bucket, "QUIET_FOR", timedelta(seconds=-60))
    await store.sweep("", datetime.now(UTC))
    assert list((await pieces(three)).values()) == [1]
