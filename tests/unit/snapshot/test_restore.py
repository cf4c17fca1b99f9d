"""What a new cluster begins with, found in a store."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import pytest
from tests.unit.snapshot.manifests import GENERATION, NOW, manifest
from tests.unit.snapshot.world import World, Written

from memorycluster.api.snapshots import DirectoryStore, SnapshotStore
from memorycluster.api.topology import shard_slots
from memorycluster.log.interface import LogHealth, LogUnavailable
from memorycluster.log.service import genesis
from memorycluster.snapshot import restore as module
from memorycluster.snapshot.catalogue import BrokenSnapshot, Catalogue
from memorycluster.snapshot.job import JobConfig
from memorycluster.snapshot.restore import (
    NotFound,
    RestoreConfig,
    SourceLog,
    _made,
    _up_to_moment,
    find,
    restore,
    restored,
)
from memorycluster.snapshot.store import Directory


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def made(world: World, nonce: str, digest: str) -> None:
    """Have a restore make a snapshot whose place ends with ``nonce``."""
    directory = world.file(await world.snapshot(1, digest.encode(), digest=digest), "")
    await asyncio.to_thread(directory.rename, directory.with_name(f"{1:020}-{nonce}"))


async def test_the_log_begins_with_the_one_of_two_that_engines_start_from(world: World) -> None:
    await made(world, "00000000", "1" * 40)
    await made(world, "ffffffff", "2" * 40)
    store = Store(world.root / "store")
    config = job(store, GENERATION).model_copy(update={"cluster": "orders", "shard": 0})
    digest = (await restore(config, RestoreConfig(store=store.config), lambda _: None)).digest
    world.log.messages[0] = genesis(GENERATION, seed=digest.encode())
    bootstrap = world.bootstrap()
    start = await bootstrap.start()
    assert start.rdb
    assert start.rdb.read() == digest.encode()
    assert bootstrap.trouble == "", "nothing had to be passed over"


class Store:
    """A store with snapshots of several clusters."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = SnapshotStore(directory=DirectoryStore(path=str(root)))

    async def put(self, cluster: str, shard: int, generation: UUID, **fields: Any) -> str:
        catalogue = Catalogue(Directory(self.root), cluster, shard)
        made = manifest(cluster=cluster, shard=shard, generation=generation, size=1, **fields)
        place = catalogue.new_place(made.generation, made.sequence)
        await catalogue.store.put(f"{place}/data.rdb", b"x")
        await catalogue.put_manifest(place, made)
        return place

    async def found(self, *ours: UUID) -> set[str]:
        """Return the places of the snapshot of each shard."""
        return {each.place for each in (await find(self.config, "orders-1", None, ours)).values()}


def job(store: Store, generation: UUID) -> JobConfig:
    """Return what the Job that restores shard 1 of a new cluster is told."""
    return JobConfig(
        cluster="orders-2",
        shard=1,
        slots=[shard_slots(1, 2)],
        generation=generation,
        stream="orders-2-1",
        log_servers=["nats://nowhere"],
        log_user="log",
        store=store.config,
        programs=store.root,
        work=store.root,
    )


async def test_what_other_shards_of_the_new_cluster_have_made_of_it_is_not_what_is_asked_for(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    theirs = {
        await store.put("orders", shard, UUID(int=shard + 1), slots=(shard_slots(shard, 2),))
        for shard in (0, 1)
    }
    await store.put("orders-2", 0, UUID(int=11), sequence=1, offset=0)
    assert await store.found(UUID(int=11), UUID(int=12)) == theirs
    wanted = RestoreConfig(snapshot="orders-1", store=store.config, ours=[UUID(int=11), UUID(int=12)])
    with pytest.raises(BrokenSnapshot, match="orders/1/"):  # it is found, but its data is none
        await _made(job(store, UUID(int=12)), wanted, tmp_path, lambda _: None)


async def test_a_name_that_snapshots_of_two_logs_have_is_refused(tmp_path: Path) -> None:
    """The cluster was made anew under its name, and a snapshot of it taken under that of an older one."""
    store = Store(tmp_path)
    places = [await store.put("orders", 0, UUID(int=each)) for each in (1, 2)]
    with pytest.raises(NotFound, match="delete those that you don't mean") as refused:
        await store.found()
    assert all(place in str(refused.value) for place in places)
    assert await store.found(UUID(int=2)) == {places[0]}, "that which is restored just now does not count"


async def test_of_one_log_the_newest_of_that_name_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.put("orders", 0, UUID(int=1), sequence=10)
    newest = await store.put("orders", 0, UUID(int=1), sequence=12)
    assert await store.found() == {newest}


@pytest.mark.parametrize(("hours", "fine"), [(6, True), (8, False)])
async def test_shards_whose_snapshots_were_not_taken_together_are_refused(
    tmp_path: Path, hours: int, fine: bool
) -> None:
    store = Store(tmp_path)
    places = {
        await store.put("orders", 0, UUID(int=1)),
        await store.put("orders", 1, UUID(int=2), created_at=NOW + timedelta(hours=hours)),
    }
    if fine:
        assert await store.found() == places
        return
    with pytest.raises(NotFound, match="later than of others") as refused:
        await store.found()
    assert all(place in str(refused.value) for place in places)


async def test_where_a_name_is_not_there_the_newest_ones_of_all_shards_are_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    halves = [(shard_slots(shard, 2),) for shard in (0, 1)]
    await store.put("orders", 0, UUID(int=1), name="alone", slots=halves[0], created_at=NOW)
    with pytest.raises(NotFound, match="has no snapshot orders-1; it has none of all shards"):
        await store.found()
    for days in range(4):
        for shard in (0, 1):
            fields = {"name": f"day-{days}", "slots": halves[shard], "created_at": NOW - timedelta(days=days)}
            await store.put("orders", shard, UUID(int=shard + 1), **fields)
    with pytest.raises(NotFound, match=r"the newest of all shards: day-0, day-1, day-2$"):
        await store.found()


class Late(Written):
    """A log that answers at its third try, if at all."""

    def __init__(self, *, ever: bool) -> None:
        super().__init__()
        self.ever = ever
        self.asked = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def health(self) -> LogHealth:
        self.asked += 1
        if self.asked < 3 or not self.ever:
            raise LogUnavailable("no answer")
        return await super().health()


@pytest.mark.parametrize("ever", [True, False])
async def test_a_log_that_does_not_admit_us_yet_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ever: bool
) -> None:
    log, slept = Late(ever=ever), 0.0

    async def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds

    class Built(Exception):
        pass

    async def build(*_: object, until: datetime) -> None:
        assert until == NOW
        raise Built

    monkeypatch.setattr(module, "NatsLog", lambda *_, **__: log)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setattr(module.time, "monotonic", lambda: slept)
    monkeypatch.setattr(module.Maker, "build", build)
    (tmp_path / "password").write_text("secret")
    store = Store(tmp_path)
    source = SourceLog(
        servers=["nats://nowhere"],
        user="log",
        password_file=tmp_path / "password",
        stream="orders-0",
        generation=GENERATION,
        slots=[(0, 16383)],
    )
    wanted = RestoreConfig(cluster="orders", time=NOW, store=store.config, logs=[source])
    with pytest.raises(Built if ever else LogUnavailable):
        await _up_to_moment(job(store, UUID(int=11)), wanted, 0, tmp_path, lambda _: None)
    assert slept == (2 if ever else module.ANSWERS_WITHIN)


async def test_one_whose_data_is_gone_is_not_what_a_log_begins_with(world: World) -> None:
    await made(world, "00000000", "1" * 40)
    await made(world, "ffffffff", "2" * 40)
    first, other = await restored(world.catalogue, GENERATION)
    world.file(first, "data.rdb").unlink()
    assert await restored(world.catalogue, GENERATION) == [other]
