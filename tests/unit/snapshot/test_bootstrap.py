"""Where a follower starts, decided from what the log and the store still have."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.snapshot.manifests import GENERATION, NOW
from tests.unit.snapshot.world import World

from memorycluster.log.chain import Position, read
from memorycluster.log.interface import LogCorrupt, LogHealth
from memorycluster.log.service import genesis
from memorycluster.snapshot.bootstrap import EMPTY_RDB, Bootstrap, NoStart, Start
from memorycluster.snapshot.store import Directory, StoreError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def data_of(start: Start) -> bytes:
    assert start.rdb
    return start.rdb.read(start.size)


async def test_without_snapshots_all_is_read(world: World) -> None:
    start = await world.bootstrap().start()
    assert (start.position, data_of(start)) == (world.positions[0], EMPTY_RDB)


async def test_the_newest_snapshot_is_used_also_if_the_log_is_whole(world: World) -> None:
    await world.snapshot(4, b"older")
    await world.snapshot(6, b"newer")
    start = await world.bootstrap().start()
    assert (start.position, data_of(start)) == (world.positions[6], b"newer")


async def test_an_engine_resumes_from_the_newest_position_that_is_not_beyond_it(world: World) -> None:
    await world.snapshot(4)
    await world.snapshot(7)
    for offset, expected in ((0, 0), (world.positions[4].unit_end, 4), (world.positions[6].unit_end, 4)):
        start = await world.bootstrap().start(offset)
        assert (start.position, start.rdb) == (world.positions[expected], None)


async def test_what_the_follower_has_read_itself_needs_no_snapshot(world: World) -> None:
    await world.snapshot(7)
    world.log.first = 6
    known = world.positions[3:7]
    start = await world.bootstrap().start(world.positions[6].unit_end, known=known)
    assert (start.position, start.rdb) == (world.positions[6], None)
    start = await world.bootstrap().start(world.positions[4].unit_end, known=known)
    assert start.rdb is not None, "that one is too old: record 5 is gone"


async def test_an_engine_below_the_trim_point_starts_anew(world: World) -> None:
    await world.snapshot(6, b"state")
    world.log.first = 6
    start = await world.bootstrap().start(world.positions[3].unit_end)
    assert (start.position, data_of(start)) == (world.positions[6], b"state")


@pytest.mark.parametrize("how", ["flip", "shorter", "longer", "gone", "manifest flip", "manifest gone"])
async def test_a_broken_snapshot_is_passed_over_and_told(world: World, how: str) -> None:
    await world.snapshot(4, b"older")
    newest = await world.snapshot(6, b"newer")
    file = world.file(newest, "manifest.json" if "manifest" in how else "data.rdb")
    data = file.read_bytes()
    match how.split()[-1]:
        case "flip":
            file.write_bytes(data[:2] + bytes([data[2] ^ 4]) + data[3:])
        case "shorter":
            file.write_bytes(data[:-1])
        case "longer":
            file.write_bytes(data + b"x")
        case "gone":
            file.unlink()
    bootstrap = world.bootstrap()
    start = await bootstrap.start()
    assert (start.position, data_of(start)) == (world.positions[4], b"older")
    assert how == "manifest gone" or newest.place in bootstrap.trouble


@pytest.mark.parametrize("claimed", [False, True])
async def test_a_snapshot_of_what_the_log_has_lost_is_passed_over_and_told(
    world: World, claimed: bool
) -> None:
    await world.snapshot(4, b"older")
    await world.snapshot(7, b"newer")
    world.fork(5)
    if claimed:
        world.write(world.writer.claim())
    for _ in range(4):
        world.write(world.writer.data(b"y" * 100))
    bootstrap = world.bootstrap()
    start = await bootstrap.start()
    assert (start.position, data_of(start)) == (world.positions[4], b"older")
    assert "is not of this log: record 7" in bootstrap.trouble


async def test_a_log_that_ends_before_its_snapshot_is_not_read_from_an_older_one(world: World) -> None:
    """Its reader calls it corrupt, unless the record comes yet."""
    await world.snapshot(4)
    await world.snapshot(7)
    world.fork(5)
    assert (await world.bootstrap().start()).position == world.positions[7]


async def test_below_the_trim_point_without_a_good_one_there_is_no_start(world: World) -> None:
    newest = await world.snapshot(6)
    await world.snapshot(4)
    world.log.first = 6
    world.file(newest, "data.rdb").unlink()
    with pytest.raises(NoStart, match=r"trimmed up to record 5.*its data is gone"):
        await world.bootstrap().start()
    with pytest.raises(NoStart):
        await Bootstrap(world.log, GENERATION, None).start()


async def test_a_store_that_is_away_is_only_missed_if_it_is_needed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: Directory, prefix: str) -> list[object]:
        raise StoreError("the store is away")

    monkeypatch.setattr(Directory, "list", away)
    bootstrap = world.bootstrap()
    assert (await bootstrap.start()).position == world.positions[0]
    assert "away" in bootstrap.trouble
    world.log.first = 3
    with pytest.raises(NoStart, match="away"):
        await bootstrap.start()


async def test_a_log_that_was_trimmed_is_read_from_where_a_snapshot_vouches(world: World) -> None:
    """As whoever recovers does: no data is needed, and what the log has lost counts for nothing."""
    for sequence in (3, 5, 7):
        file = world.file(await world.snapshot(sequence), "data.rdb")
        file.unlink()
    offset = world.positions[6].unit_end
    assert await world.bootstrap().position(offset) == world.positions[0]
    world.log.first = 4
    assert await world.bootstrap().position(offset) == world.positions[5]
    assert await world.bootstrap().position(world.positions[5].unit_end - 1) == world.positions[3]
    assert await world.bootstrap().position(world.positions[8].unit_end) == world.positions[7]
    world.fork(6)
    assert await world.bootstrap().position(world.positions[8].unit_end) == world.positions[5]
    world.fork(4)
    for _ in range(4):
        world.write(world.writer.data(b"y" * 100))
    assert await world.bootstrap().position(world.positions[8].unit_end) == world.positions[3]
    with pytest.raises(NoStart, match="trimmed up to record 3, and no good snapshot leads up to offset 7"):
        await world.bootstrap().position(7)
    with pytest.raises(NoStart, match="none found"):
        await Bootstrap(world.log, GENERATION, None).position(offset)


async def test_another_logs_snapshot_is_none_of_ours(world: World) -> None:
    snapshot = await world.snapshot(6)
    elsewhere = snapshot.place.replace(str(GENERATION), str(GENERATION)[:-1] + "9")
    (world.root / "store" / elsewhere).parent.mkdir(parents=True)
    (world.root / "store" / snapshot.place).rename(world.root / "store" / elsewhere)
    world.catalogue.places  # noqa: B018
    assert (await world.bootstrap().start()).position == world.positions[0]
    other = Bootstrap(world.log, GENERATION.__class__(int=9), lambda: world.catalogue, world.root)
    assert (await other.start()).position.sequence == 0
    assert "that of another one" in other.trouble


async def test_a_moment_before_which_no_snapshot_was_made(world: World) -> None:
    await world.snapshot(6)
    assert (await world.bootstrap().start(until=NOW)).position == world.positions[6]
    assert (await world.bootstrap().start(until=NOW - timedelta(seconds=1))).position == world.positions[0]


async def test_a_log_that_begins_with_a_snapshot_is_not_read_without_it(world: World) -> None:
    begin = genesis(GENERATION, seed=b"b" * 40)
    world.log.messages[0] = begin
    with pytest.raises(NoStart, match="begins with a snapshot"):
        await world.bootstrap().start()
    with pytest.raises(LogCorrupt, match="in a snapshot"):
        read(Position(GENERATION), 1, begin)
    await world.snapshot(1, b"state")
    start = await world.bootstrap().start()
    assert (start.position.sequence, start.position.unit_end, data_of(start)) == (1, 0, b"state")


async def test_a_log_that_is_trimmed_meanwhile_is_not_taken_for_a_whole_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await world.log.health()

    async def health() -> LogHealth:
        return before

    monkeypatch.setattr(world.log, "health", health)
    world.log.first = 5
    with pytest.raises(NoStart):
        await world.bootstrap().start()


async def test_of_two_that_a_restore_has_made_the_one_that_the_log_begins_with_is_used(world: World) -> None:
    """Two Jobs made them, of which one was given up: nothing but the digest tells them apart."""
    for digest in ("1" * 40, "2" * 40):
        made = await world.snapshot(1, digest.encode(), digest=digest)
        await asyncio.to_thread(
            world.file(made, "").rename, world.file(made, "").with_name(f"{1:020}-{digest}")
        )
    for digest in ("1" * 40, "2" * 40):
        world.log.messages[0] = genesis(GENERATION, seed=digest.encode())
        assert data_of(await world.bootstrap().start()) == digest.encode()


async def test_an_interrupted_put_leaves_nothing_that_counts(world: World) -> None:
    place = world.catalogue.new_place(GENERATION, 6)
    data = world.root / "made"
    data.write_bytes(b"x" * 5_000_000)
    sent: list[int] = []

    def stop(length: int) -> None:
        sent.append(length)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        await world.catalogue.put_data(place, data, stop)
    assert sent
    assert await world.catalogue.store.list("") == []
    assert (
        await asyncio.to_thread(
            lambda: [each for each in (world.root / "store").rglob("*") if each.is_file()]
        )
        == []
    )
