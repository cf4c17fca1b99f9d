"""States taken apart by slots, and put together for other shards, with real engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from tests.snapshot.test_maker import FUTURE, LIBRARY, every_type
from tests.snapshot.world import World, command

from memorycluster.log.chain import Position
from memorycluster.snapshot.bootstrap import Start
from memorycluster.snapshot.engine import Engine, Part
from memorycluster.snapshot.maker import Made, NotVerified
from memorycluster.snapshot.reshard import (
    Slots,
    Splitter,
    common,
    complete,
    concatenate,
    join,
    latest,
    others,
)

ALL = ((0, 16383),)
THIRDS = (((0, 5460),), ((5461, 10921),), ((10922, 16383),))
HALVES = (((0, 8191),), ((8192, 16383),))


def many_keys() -> list[bytes]:
    past = 1_000_000_000_000
    return [
        *every_type(),
        *(command("SET", f"key:{i}", "x" * (i % 50)) for i in range(3000)),
        *(command("SET", f"lasting:{i}", "1", "PXAT", FUTURE + i) for i in range(300)),
        *(command("SET", f"past:{i}", "1", "PXAT", past + i) for i in range(300)),
        *(command("HSET", f"hash:{i}", "f", "1", "g", str(i)) for i in range(60)),
        *(command("HPEXPIREAT", f"hash:{i}", FUTURE + i, "FIELDS", 1, "f") for i in range(40)),
        *(command("XADD", f"stream:{i}", "1-1", "a", "1") for i in range(30)),
        *(command("XGROUP", "CREATE", f"stream:{i}", "g", "0") for i in range(20)),
        *(command("SET", f"{{tag}}{i}", str(i)) for i in range(50)),
        command("SET", "big", b"y" * 100_000),
        command("RPUSH", "long", *("z" * 100 for _ in range(1000))),
    ]


async def made_of(world: World, name: str, *commands: bytes) -> Made:
    await world.lead()
    for at in range(0, len(commands), 1000):
        await world.write(*commands[at : at + 1000])
    (home := world.work / name).mkdir()
    return await world.maker().build(home)


class Resharding:
    """Takes states apart and puts them together, each step in a directory of its own."""

    def __init__(self, world: World) -> None:
        self._world = world

    def directory(self) -> Path:
        (path := self._world.work / uuid4().hex[:8]).mkdir()
        return path

    def splitter(self, targets: Sequence[Slots], rest: Slots = ()) -> Splitter:
        return Splitter(targets, rest=rest, programs=self._world.programs, directory=self.directory())

    async def join(self, splitter: Splitter) -> list[Made]:
        return [
            await join(
                pieces,
                splitter.libraries,
                Position(uuid4(), sequence=1),
                programs=self._world.programs,
                directory=self.directory(),
            )
            for pieces in splitter.pieces
        ]

    async def reshard(self, sources: Sequence[tuple[Made, Slots]], targets: Sequence[Slots]) -> list[Made]:
        splitter = self.splitter(targets)
        for made, slots in sources:
            await splitter.split(made, slots)
        return await self.join(splitter)

    async def keys_outside(self, made: Made, slots: Slots) -> int:
        """Load what was made, and count the keys that are not in ``slots``, in database 0."""
        directory = self.directory()
        with made.file.open("rb") as file:
            async with Engine(self._world.programs, directory) as engine:
                await engine.start(Start(made.position, file, made.file.stat().st_size))
                counts = await engine.commands(
                    [("CLUSTER", "COUNTKEYSINSLOT", str(slot)) for slot in range(16384)]
                )
        inside = {slot for first, last in slots for slot in range(first, last + 1)}
        return sum(count for slot, count in enumerate(counts) if slot not in inside)


@pytest.fixture
def resharding(world: World) -> Resharding:
    return Resharding(world)


async def test_from_one_to_three_to_two_to_one_the_data_is_the_same(
    world: World, resharding: Resharding
) -> None:
    others = [command("SELECT", 2), *(command("SET", f"k{i}", "in 2") for i in range(500))]
    others += [command("SELECT", 7), *(command("SET", f"k{i}", "in 7", "PXAT", FUTURE) for i in range(40))]
    whole = await made_of(world, "whole", *many_keys(), *others)
    wanted = whole.contents
    three = await resharding.reshard([(whole, ALL)], THIRDS)
    assert [await resharding.keys_outside(*each) for each in zip(three, THIRDS, strict=True)] == [0, 0, 0]
    assert all(each.contents.keys > 500 for each in three)
    assert {each.contents.functions for each in three} == {wanted.functions}
    assert sum(each.contents.keys for each in three) == wanted.keys
    assert sum(each.contents.expires for each in three) == wanted.expires
    two = await resharding.reshard(list(zip(three, THIRDS, strict=True)), HALVES)
    assert [await resharding.keys_outside(*each) for each in zip(two, HALVES, strict=True)] == [0, 0]
    one = await resharding.reshard(list(zip(two, HALVES, strict=True)), [ALL])
    assert one[0].contents == wanted
    assert not whole.file.exists()


async def test_a_part_comes_to_the_digest_of_what_has_just_its_keys(world: World) -> None:
    """In several databases, too, whose numbers Valkey mixes in."""
    made = await made_of(
        world,
        "some",
        *(command("SET", f"k{i}", str(i), "PXAT", FUTURE) for i in range(20)),
        command("SELECT", 1),
        command("SET", "a", "1"),
        command("SELECT", 300),
        command("XADD", "s", "1-1", "a", "1"),
    )
    (home := world.work / "engine").mkdir()
    with made.file.open("rb") as file:
        async with Engine(world.programs, home) as engine:
            await engine.start(Start(made.position, file, made.file.stat().st_size))
            part = await engine.part()
    assert set(part.databases) == {0, 1, 300}
    assert (part.digest, part.keys, part.expires) == made.contents[:3]


def test_parts_add_up_in_any_order() -> None:
    one, other = Part({0: 5, 3: 1}, 9, 4, 1), Part({0: 6, 2: 8}, 1, 3, 0)
    assert Part.sum([one, other]) == Part.sum([other, one]) == Part({0: 3, 3: 1, 2: 8}, 8, 7, 1)
    assert Part.sum([]).digest == "0" * 40


async def test_keys_that_are_not_a_shards_are_refused(world: World, resharding: Resharding) -> None:
    """They would be in none of the new shards, or in one whose other keys come from elsewhere."""
    made = await made_of(world, "whole", command("SET", "foo", "1"), command("SET", "bar", "1"))
    splitter = resharding.splitter(THIRDS)
    with pytest.raises(NotVerified, match="its parts come to"):
        await splitter.split(made, ((0, 8191),))  # foo is in slot 12182


async def test_one_shard_by_itself_takes_its_keys_and_the_functions_of_all(
    world: World, resharding: Resharding
) -> None:
    lower = await made_of(world, "lower", *(command("SET", f"k{i}", "1") for i in range(100)))
    keys = lower.contents.keys
    await world.write(command("FLUSHALL"), command("FUNCTION", "LOAD", LIBRARY))
    (home := world.work / "upper").mkdir()
    upper = await world.maker().build(home)
    mine = THIRDS[0]
    splitter = resharding.splitter([mine], others(mine))
    await splitter.split(lower, ALL)
    assert splitter.wants(THIRDS[2], upper.contents.functions), "for its functions"
    assert not splitter.wants(THIRDS[2], lower.contents.functions)
    await splitter.split(upper, THIRDS[2])
    [made] = await resharding.join(splitter)
    assert 0 < made.contents.keys < keys
    assert made.contents.functions == upper.contents.functions
    assert await resharding.keys_outside(made, mine) == 0
    assert not upper.file.exists()


async def test_keys_that_go_to_nobody_are_found_out_by_who_makes_one_shard(
    world: World, resharding: Resharding
) -> None:
    made = await made_of(world, "whole", command("SET", "foo", "1"), command("SET", "bar", "1"))
    splitter = resharding.splitter([THIRDS[0]], others(THIRDS[0]))
    with pytest.raises(NotVerified, match="its parts come to"):
        await splitter.split(made, ((0, 8191),))  # foo is in slot 12182


async def test_functions_are_those_of_all_shards(world: World, resharding: Resharding) -> None:
    lower = await made_of(world, "lower", command("SET", "bar", "1"), command("FUNCTION", "LOAD", LIBRARY))
    await world.write(command("FUNCTION", "FLUSH"), command("DEL", "bar"), command("SET", "foo", "1"))
    other = LIBRARY.replace("lib", "other").replace("one", "two")
    await world.write(command("FUNCTION", "LOAD", other))
    (home := world.work / "upper").mkdir()
    upper = await world.maker().build(home)
    made = await resharding.reshard([(lower, HALVES[0]), (upper, HALVES[1])], THIRDS)
    assert [each.contents.keys for each in made] == [1, 0, 1]
    assert len({each.contents.functions for each in made}) == 1
    assert made[0].contents.functions not in (lower.contents.functions, upper.contents.functions)


async def test_functions_of_one_name_that_differ_are_refused(world: World, resharding: Resharding) -> None:
    lower = await made_of(world, "lower", command("FUNCTION", "LOAD", LIBRARY))
    await world.write(command("FUNCTION", "LOAD", "REPLACE", LIBRARY.replace("return 1", "return 2")))
    (home := world.work / "upper").mkdir()
    upper = await world.maker().build(home)
    splitter = resharding.splitter(THIRDS)
    await splitter.split(lower, HALVES[0])
    with pytest.raises(NotVerified, match="different function libraries called lib"):
        await splitter.split(upper, HALVES[1])


async def test_what_is_missing_of_a_piece_is_found_out(world: World, resharding: Resharding) -> None:
    made = await made_of(world, "whole", *(command("SET", f"k{i}", "1") for i in range(100)))
    splitter = resharding.splitter([ALL])
    await splitter.split(made, ALL)
    piece = splitter.pieces[0][0]
    splitter.pieces[0][0] = replace(piece, part=replace(piece.part, keys=piece.part.keys + 1))
    with pytest.raises(NotVerified, match="new shard"):
        await resharding.join(splitter)


def test_only_whole_files_of_one_version_are_joined(tmp_path: Path) -> None:
    good, cut, older = tmp_path / "good", tmp_path / "cut", tmp_path / "older"
    good.write_bytes(b"VALKEY080" + b"body" + b"\xff" + b"12345678")
    cut.write_bytes(b"VALKEY080" + b"body of one that was cut short")
    older.write_bytes(b"REDIS0011" + b"\xff" + bytes(8))
    for number, other in enumerate((cut, older)):
        good.write_bytes(b"VALKEY080" + b"body" + b"\xff" + b"12345678")
        with pytest.raises(NotVerified, match=f"{other.name} is not an RDB file like the others"):
            concatenate([good, other], tmp_path / f"bad{number}")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"VALKEY080" + name.encode() + b"\xff" + b"12345678")
    concatenate([tmp_path / "a", tmp_path / "b"], tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == b"VALKEY080ab\xff" + bytes(8)
    assert not (tmp_path / "a").exists()


def test_the_moment_of_what_is_put_together_is_the_latest_or_not_known() -> None:
    early, late = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)
    assert latest([late, early]) == late
    assert latest([late, None]) is None
    assert latest([]) is None


def test_slots() -> None:
    assert common(((0, 5), (10, 20)), ((3, 12),)) == [(3, 5), (10, 12)]
    assert common(((0, 5),), ((6, 9),)) == []
    assert others(THIRDS[1]) == [(0, 5460), (10922, 16383)]
    assert others(ALL) == []
    assert others(()) == list(ALL)
    assert others([(5, 9), (20, 16383)]) == [(0, 4), (10, 19)]
    assert complete(THIRDS)
    assert complete([((0, 1), (5, 16383)), ((2, 4),)])
    assert not complete(THIRDS[:2])
    assert not complete(THIRDS[1:])
    assert not complete([])
    assert not complete([*HALVES, THIRDS[0]])
