"""Making snapshots, with real engines and a real log."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.snapshot.world import SLOTS, World, command

from memorycluster.log.chain import Position, Read
from memorycluster.log.interface import Log, LogCorrupt
from memorycluster.log.reader import follow
from memorycluster.log.record import Flags
from memorycluster.snapshot.bootstrap import NoStart
from memorycluster.snapshot.catalogue import DATA
from memorycluster.snapshot.maker import NothingNew, NotVerified, Progress, store
from memorycluster.snapshot.store import Directory

LIBRARY = "#!lua name=lib\nserver.register_function('one', function() return 1 end)"


def every_type() -> list[bytes]:
    """Commands as a primary's stream has them, for all that a data set can hold."""
    past, future = 1_000_000_000_000, 4_000_000_000_000
    return [
        command("SET", "string", "x" * 1000),
        command("SET", "number", "12345"),
        command("RPUSH", "list", *map(str, range(500))),
        command("SADD", "set", *map(str, range(700)), "a", "b"),
        command("HSET", "hash", *(word for i in range(300) for word in (f"f{i}", f"v{i}"))),
        command("ZADD", "zset", *(word for i in range(300) for word in (str(i / 7), f"m{i}"))),
        command("XADD", "stream", "1-1", "a", "1"),
        command("XGROUP", "CREATE", "stream", "group", "0"),
        command("PFADD", "hll", "a", "b", "c"),
        command("SET", "later", "1", "PXAT", future),
        # Past its time, and not yet deleted by its primary: data like all else, it may be persisted yet.
        command("SET", "past", "1", "PXAT", past),
        command("HSET", "fields", "stays", "1", "goes", "2"),
        command("HPEXPIREAT", "fields", future, "FIELDS", 1, "goes"),
        command("FUNCTION", "LOAD", LIBRARY),
    ]


async def test_a_snapshot_is_the_state_at_its_offset(world: World) -> None:
    await world.lead()
    await world.write(*every_type())
    expected = await world.replayed()
    assert expected.keys == 11
    snapshot = await world.make("first")
    manifest = snapshot.manifest
    assert manifest.position == world.writer.position
    assert (manifest.digest, manifest.keys, manifest.expires) == expected[:3]
    assert manifest.engine_version.startswith("9.")
    data = world.file(snapshot, DATA).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (manifest.size, manifest.sha256)
    start = await world.start()
    assert start.position == world.writer.position
    assert await world.loaded(start) == expected
    assert not world.leftovers()


async def test_what_is_past_its_time_survives_in_a_snapshot_as_in_the_log(world: World) -> None:
    """The primary kept it in time; a snapshot is loaded by other clocks, and any time later."""
    soon = round(time.time() * 1000) + 300
    await world.lead()
    await world.write(command("SET", "key", "kept", "PXAT", soon))
    await world.write(command("HSET", "hash", "field", "kept", "other", "1"))
    await world.write(command("HPEXPIREAT", "hash", soon, "FIELDS", 1, "field"))
    await world.make()
    while time.time() * 1000 < soon + 50:
        time.sleep(0.05)
    await world.write(command("PERSIST", "key"), command("HPERSIST", "hash", "FIELDS", 1, "field"))
    second = await world.make()
    assert second.manifest.digest == (await world.replayed()).digest
    assert (second.manifest.keys, second.manifest.expires) == (2, 0)


FUTURE = 4_000_000_000_000
STREAM = command("XADD", "s", "1-1", "a", "1"), command("XADD", "s", "2-1", "a", "1")
GROUP = command("XGROUP", "CREATE", "s", "g", "0")
HASH = command("HSET", "h", "f", "1", "g", "1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([command("SET", "k", "1", "PXAT", FUTURE)], [command("SET", "k", "1", "PXAT", FUTURE + 1)]),
        ([HASH, command("HPEXPIREAT", "h", FUTURE, "FIELDS", 1, "f")], [HASH]),
        (
            [HASH, command("HPEXPIREAT", "h", FUTURE, "FIELDS", 1, "f")],
            [HASH, command("HPEXPIREAT", "h", FUTURE + 1, "FIELDS", 1, "f")],
        ),
        ([*STREAM, GROUP], [*STREAM]),
        ([*STREAM, GROUP], [*STREAM, command("XGROUP", "CREATE", "s", "g", "1-1")]),
        ([*STREAM, GROUP], [*STREAM, GROUP, command("XCLAIM", "s", "g", "c", "0", "1-1", "FORCE")]),
        ([*STREAM], [*STREAM, command("XSETID", "s", "9-9")]),
    ],
)
async def test_a_digest_tells_what_valkeys_own_does_not(
    world: World, one: list[bytes], other: list[bytes]
) -> None:
    await world.lead()
    await world.write(*one)
    first = await world.replayed()
    await world.write(command("FLUSHALL"), *other)
    second = await world.replayed()
    assert first.keys == second.keys == 1
    assert first.digest != second.digest


async def test_a_digest_of_many_keys_is_the_same_from_a_snapshot(world: World) -> None:
    """However the engine's tables came to be: grown, shrunk, or made by a load."""
    await world.lead()
    keys = [[f"{{t}}{i}" for i in range(at, at + 1_000)] for at in range(0, 20_000, 1_000)]
    for some in keys:
        await world.write(*(command("SET", key, "x", "PXAT", FUTURE + i) for i, key in enumerate(some)))
    for some in keys[1:]:
        await world.write(command("DEL", *some))
    await world.write(*(command("XADD", f"s{i % 7}", f"{i + 1}-1", "a", "x" * i) for i in range(500)))
    await world.write(*(command("XGROUP", "CREATE", f"s{i}", "g", "0") for i in range(7)))
    await world.write(command("XDEL", "s0", "8-1"), command("XTRIM", "s1", "MAXLEN", 5))
    snapshot = await world.make()
    assert snapshot.manifest.keys == 1_007
    assert snapshot.manifest.digest == (await world.replayed()).digest


async def test_a_snapshot_stands_on_the_one_before_it_and_on_what_follows(world: World) -> None:
    await world.lead()
    await world.write(*(command("SET", f"k{i}", "1") for i in range(100)))
    first = await world.make()
    await world.write(*(command("INCR", f"k{i}") for i in range(100)))
    await world.log.trim(first.manifest.sequence + 1)
    loads: list[Progress] = []
    second = await world.maker(loads.append).make()
    assert {"load", "replay", "upload", "verify"} <= {each.step for each in loads}
    assert second.manifest.sequence == world.writer.position.sequence
    assert second.manifest.digest != first.manifest.digest
    start = await world.start()
    assert (await world.loaded(start)).digest == second.manifest.digest


async def test_a_stream_that_goes_on_in_another_database_does_so_from_a_snapshot(world: World) -> None:
    await world.lead()
    await world.write(command("SELECT", 3), command("SET", "there", "1"))
    await world.make()
    await world.write(command("SET", "there-too", "1"))
    second = await world.make()
    assert second.manifest.digest == (await world.replayed()).digest


async def test_an_open_unit_is_not_in_a_snapshot(world: World) -> None:
    await world.lead()
    await world.write(command("SET", "whole", "1"))
    whole = world.writer.position
    torn = command("SET", "torn", "1")
    await world.write(torn[:10], flags=Flags.CONTINUES)
    first = await world.make()
    assert first.manifest.position == whole
    await world.append(world.writer.claim())  # voids it
    await world.write(command("SELECT", 0), command("SET", "after", "1"))
    second = await world.make()
    assert (second.manifest.keys, second.manifest.digest) == (2, (await world.replayed()).digest)


async def test_commands_of_a_cluster_do_in_a_snapshot_what_they_did_in_followers(world: World) -> None:
    await world.lead()
    await world.write(command("SET", "foo", "1"), command("SET", "bar", "1"))  # slots 12182 and 5061
    await world.write(command("CLUSTER", "FLUSHSLOT", 12182))
    snapshot = await world.make()
    assert snapshot.manifest.keys == 1


async def test_a_log_with_a_command_that_fails_makes_no_snapshot(world: World) -> None:
    """Its primary has executed it; whatever state the maker has, it is another one."""
    await world.lead()
    await world.write(command("SET", "a", "1"), command("LPUSH", "a", "1"), command("SET", "b", "1"))
    with pytest.raises(NotVerified, match=r"1 commands of the log failed \(WRONGTYPE"):
        await world.make()
    assert await world.catalogue.all() == []


async def test_when_nothing_has_happened_there_is_nothing_to_make(world: World) -> None:
    await world.lead()
    await world.write(command("SET", "a", "1"))
    first = await world.make()
    with pytest.raises(NothingNew) as nothing:
        await world.make()
    assert nothing.value.snapshot == first
    await world.append(world.writer.release())
    second = await world.make()  # it says that leadership is free
    assert second.manifest.released
    assert second.manifest.position == world.writer.position


async def test_a_record_that_does_not_follow_makes_no_snapshot(world: World) -> None:
    await world.lead()
    data = world.writer.data(command("SET", "a", "1"))
    await world.append(data)
    wrong = replace(world.writer.position, unit_crc=1, open_crc=1)
    world.writer.position = wrong
    await world.write(command("SET", "b", "1"))
    with pytest.raises(LogCorrupt):
        await world.make()
    assert await world.catalogue.all() == []


async def test_a_moment_before_the_log_is_refused(world: World, tmp_path: Path) -> None:
    """Typed the year wrong: an empty cluster would be a bad answer."""
    await world.lead()
    await world.write(command("SET", "a", "1"))
    (home := tmp_path / "early").mkdir()
    with pytest.raises(NoStart, match="there was no data yet: the log begins at"):
        await world.maker().build(home, until=datetime.now(UTC) - timedelta(days=365))
    (home := tmp_path / "now").mkdir()
    made = await world.maker().build(home, until=datetime.now(UTC) + timedelta(days=1))
    assert made.contents.keys == 1


async def test_a_moment_before_a_restored_log_is_refused(world: World, tmp_path: Path) -> None:
    """Its first snapshot is of what it was restored from, and so is the moment that it carries."""
    (home := tmp_path / "made").mkdir()
    made = await world.maker().build(home)
    last_year = datetime.now(UTC) - timedelta(days=365)
    await store(
        replace(made, time=last_year),
        "restored",
        "replay",
        world.catalogue,
        SLOTS,
        programs=world.programs,
        directory=tmp_path,
        position=Position(world.generation, sequence=1),
    )
    await world.lead()
    await world.write(command("SET", "a", "1"))
    for days in (364, 1):
        (home := tmp_path / f"early-{days}").mkdir()
        with pytest.raises(NoStart, match="there was no data yet: the log begins at"):
            await world.maker().build(home, until=datetime.now(UTC) - timedelta(days=days))
    (home := tmp_path / "now").mkdir()
    made = await world.maker().build(home, until=datetime.now(UTC) + timedelta(days=1))
    assert made.contents.keys == 1


async def test_a_record_of_an_unknown_time_is_no_moment(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memorycluster.snapshot import maker

    async def timeless(log: Log, position: Position) -> AsyncIterator[Read | None]:
        async for read in follow(log, position):
            yield read and replace(read, time=None if read.position.sequence == 3 else read.time)

    monkeypatch.setattr(maker, "follow", timeless)
    await world.lead()
    await world.write(command("SET", "a", "1"))
    with pytest.raises(NoStart, match="the time of record 3 is not known"):
        await world.maker().build(tmp_path, until=datetime.now(UTC) + timedelta(days=1))


class Flipping(Directory):
    """A store that flips a bit of what it is given."""

    async def put(self, key: str, data: bytes | Path, sent: object = None) -> None:
        await super().put(key, data)
        path = self._path(key)
        if path.name == DATA:
            stored = bytearray(path.read_bytes())
            stored[len(stored) // 2] ^= 1
            path.write_bytes(stored)


async def test_what_the_store_spoils_becomes_no_snapshot(world: World) -> None:
    world.catalogue.store = Flipping(world.root / "store")
    await world.lead()
    await world.write(command("SET", "a", "x" * 100))
    with pytest.raises(Exception, match="SHA-256") as error:
        await world.make()
    assert type(error.value).__name__ == "BrokenSnapshot"
    assert await world.catalogue.all() == []
    assert not world.leftovers()


async def test_a_file_that_holds_other_data_than_the_engine_is_no_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memorycluster.snapshot.engine import Engine

    contents = Engine.contents

    async def one_more(self: Engine) -> object:
        """As if the saved file lacked a key that the engine has."""
        found = await contents(self)
        return found._replace(keys=found.keys + 1) if self.saved.exists() else found

    monkeypatch.setattr(Engine, "contents", one_more)
    await world.lead()
    await world.write(command("SET", "a", "1"))
    with pytest.raises(NotVerified, match="keys="):
        await world.make()
    assert await world.catalogue.all() == []


async def test_without_a_good_snapshot_a_trimmed_log_can_not_be_started_from(world: World) -> None:
    await world.lead()
    await world.write(command("SET", "a", "1"))
    snapshot = await world.make()
    await world.write(command("SET", "b", "1"))
    await world.log.trim(snapshot.manifest.sequence + 1)
    world.file(snapshot, DATA).unlink()
    with pytest.raises(NoStart, match=r"trimmed up to record 4.*data is gone"):
        await world.start()
