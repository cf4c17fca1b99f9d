"""How a follower feeds its engine: over a real socket, from a log that the test writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from uuid import UUID

import hiredis
import pytest
from tests.log.records import Writer

from memorycluster.agent.follower import Follower
from memorycluster.local.ports import free_base
from memorycluster.log.chain import Position, Read
from memorycluster.log.interface import Entry, Log, LogHealth
from memorycluster.log.record import Flags, replication_id
from memorycluster.log.service import genesis
from memorycluster.snapshot.bootstrap import EMPTY_RDB

GENERATION = UUID(int=3)
REPLID = replication_id(GENERATION)


class Written(Log):
    """A log in memory, for reading."""

    def __init__(self) -> None:
        self.writer = Writer(GENERATION)
        self.messages = [genesis(GENERATION)]
        self.write(self.writer.claim())

    def write(self, data: bytes) -> None:
        self.messages.append(self.writer.accept(data))

    async def health(self) -> LogHealth:
        return LogHealth(1, len(self.messages), 0, 1 << 30)

    async def get(self, sequence: int) -> bytes | None:
        return self.messages[sequence - 1]

    async def tail(self, after: int, *, avoid: Collection[str] = ()) -> AsyncGenerator[Entry | None, None]:
        while True:
            while after < len(self.messages):
                after += 1
                yield Entry(after, self.messages[after - 1])
            yield None
            await asyncio.sleep(0.01)


class Heard:
    """What the follower tells."""

    def __init__(self) -> None:
        self.starts: list[Position] = []
        self.reads: list[Read] = []
        self.ends: list[int] = []
        self.ahead: list[tuple[int, int]] = []
        self.corrupt: list[str] = []

    def on_start(self, position: Position) -> None:
        self.starts.append(position)

    def on_read(self, read: Read) -> None:
        self.reads.append(read)

    def on_end(self, sequence: int) -> None:
        self.ends.append(sequence)

    def on_corrupt(self, reason: str) -> None:
        self.corrupt.append(reason)

    def on_ahead(self, offset: int, end: int) -> None:
        self.ahead.append((offset, end))


class Engine:
    """The replica's side of the link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, *words: str) -> bytes:
        self.writer.write(hiredis.pack_command(words))
        return await self.line()

    async def line(self) -> bytes:
        async with asyncio.timeout(5):
            return (await self.reader.readline()).strip()

    async def psync(self, replid: str, offset: int) -> None:
        assert await self.ask("PING") == b"+PONG"
        assert (await self.ask("REPLCONF", "capa", "psync2")).startswith(b"-NOAUTH")
        assert await self.ask("AUTH", "agent", "secret") == b"+OK"
        assert await self.ask("REPLCONF", "capa", "psync2") == b"+OK"
        self.writer.write(hiredis.pack_command(("PSYNC", replid, str(offset))))

    async def fed(self, length: int) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.readexactly(length)

    async def silent(self) -> bool:
        try:
            async with asyncio.timeout(0.1):
                return not await self.reader.read(1)
        except TimeoutError:
            return True


class World:
    def __init__(self) -> None:
        self.log, self.heard, self.port = Written(), Heard(), free_base(1)
        self.follower = Follower(
            self.log, GENERATION, self.heard, port=self.port, user="agent", password="secret"
        )

    async def connect(self) -> Engine:
        for _ in range(200):
            try:
                return Engine(*await asyncio.open_connection("127.0.0.1", self.port))
            except OSError:
                await asyncio.sleep(0.01)
        raise AssertionError("the follower does not listen")


@asynccontextmanager
async def following() -> AsyncIterator[World]:
    world = World()
    serving = asyncio.create_task(world.follower.serve())
    try:
        yield world
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def full_sync(world: World) -> Engine:
    engine = await world.connect()
    await engine.psync("?", -1)
    assert await engine.line() == f"+FULLRESYNC {REPLID} 0".encode()
    assert await engine.line() == b"$%d" % len(EMPTY_RDB)
    assert await engine.fed(len(EMPTY_RDB)) == EMPTY_RDB
    return engine


async def test_an_empty_engine_gets_everything_in_whole_units() -> None:
    async with following() as world:
        world.log.write(world.log.writer.data(b"one"))
        world.log.write(world.log.writer.data(b"tw", Flags.CONTINUES))
        engine = await full_sync(world)
        assert await engine.fed(3) == b"one"
        assert await engine.silent(), "a unit that is open is not fed"
        world.log.write(world.log.writer.data(b"o"))
        assert await engine.fed(3) == b"two"


async def test_an_open_unit_that_a_claim_voids_is_never_fed() -> None:
    async with following() as world:
        world.log.write(world.log.writer.data(b"torn", Flags.CONTINUES))
        world.log.write(world.log.writer.claim())
        world.log.write(world.log.writer.data(b"whole"))
        assert await (await full_sync(world)).fed(5) == b"whole"


@pytest.mark.parametrize("offset", range(7))
async def test_an_engine_resumes_wherever_it_was(offset: int) -> None:
    async with following() as world:
        world.log.write(world.log.writer.data(b"one"))
        world.log.write(world.log.writer.data(b"t", Flags.CONTINUES))
        world.log.write(world.log.writer.data(b"wo"))
        engine = await world.connect()
        await engine.psync(REPLID, offset + 1)
        assert await engine.line() == f"+CONTINUE {REPLID}".encode()
        world.log.write(world.log.writer.data(b"more"))
        assert await engine.fed(10 - offset) == b"onetwomore"[offset:]


async def test_an_engine_of_another_log_gets_everything() -> None:
    async with following() as world:
        engine = await world.connect()
        await engine.psync("0" * 40, 5)
        assert await engine.line() == f"+FULLRESYNC {REPLID} 0".encode()


async def test_an_engine_that_is_ahead_of_the_log_keeps_what_it_has_and_that_is_said_again_and_again() -> (
    None
):
    async with following() as world:
        world.log.write(world.log.writer.data(b"one"))
        engine = await world.connect()
        await engine.psync(REPLID, 6)
        while len(world.heard.ahead) < 3:
            await asyncio.sleep(0.01)
        assert set(world.heard.ahead) == {(5, 3)}
        assert not world.heard.ends
        assert await engine.silent()
        world.log.write(world.log.writer.data(b"other"))
        said = len(world.heard.ahead)
        while len(world.heard.ahead) < said + 3:
            await asyncio.sleep(0.01)
        assert await engine.silent(), "what has grown instead may be another history"
        assert set(world.heard.ahead) == {(5, 3)}


async def test_a_stranger_does_not_disturb_the_engine() -> None:
    async with following() as world:
        engine = await full_sync(world)
        stranger = await world.connect()
        assert (await stranger.ask("AUTH", "agent", "guess")).startswith(b"-WRONGPASS")
        assert (await stranger.ask("PSYNC", "?", "-1")).startswith(b"-NOAUTH")
        world.log.write(world.log.writer.data(b"one"))
        assert await engine.fed(3) == b"one"


async def test_a_newer_link_of_the_engine_replaces_the_older_one() -> None:
    async with following() as world:
        older = await full_sync(world)
        newer = await full_sync(world)
        assert await older.fed(0) == b""
        async with asyncio.timeout(5):
            assert await older.reader.read() == b"", "closed"
        world.log.write(world.log.writer.data(b"one"))
        assert await newer.fed(3) == b"one"


async def again(world: World, offset: int) -> Engine:
    """The engine's link breaks, and it asks for what follows ``offset``."""
    world.follower.drop()
    engine = await world.connect()
    await engine.psync(REPLID, offset + 1)
    return engine


async def test_an_engine_whose_link_broke_goes_on_once_the_log_is_proved_to_hold_all_it_was_fed() -> None:
    async with following() as world:
        engine = await full_sync(world)
        for data in (b"one", b"two"):
            world.log.write(world.log.writer.data(data))
        assert await engine.fed(6) == b"onetwo"
        lost = world.log.messages.pop()  # By a member that is behind, for a while.
        engine = await again(world, 3)
        while not world.heard.ahead:
            await asyncio.sleep(0.01)
        assert set(world.heard.ahead) == {(6, 3)}
        assert await engine.silent()
        world.log.messages.append(lost)
        assert await engine.line() == f"+CONTINUE {REPLID}".encode()
        world.log.write(world.log.writer.data(b"more"))
        assert await engine.fed(7) == b"twomore"


async def test_an_engine_is_not_fed_from_a_log_that_holds_other_data_than_it_was_fed() -> None:
    async with following() as world:
        engine = await full_sync(world)
        before = list(world.log.messages)
        for data in (b"one", b"two"):
            world.log.write(world.log.writer.data(data))
        assert await engine.fed(6) == b"onetwo"
        other = Writer(GENERATION)
        other.accept(before[1])
        other.epoch = world.log.writer.epoch
        world.log.messages = [
            *before,
            *(other.accept(other.data(data)) for data in (b"ONE", b"TWO", b"MORE")),
        ]
        engine = await again(world, 3)
        while not world.heard.corrupt:
            await asyncio.sleep(0.01)
        assert await engine.line() == b"", "never answered"


async def test_a_frozen_engine_is_fed_nothing_more_until_that_is_over() -> None:
    async with following() as world:
        engine = await full_sync(world)
        world.log.write(world.log.writer.data(b"one"))
        assert await engine.fed(3) == b"one"
        world.follower.hold()
        assert await engine.line() == b""
        world.log.write(world.log.writer.data(b"two"))
        assert await (await again(world, 3)).line() == b""
        world.follower.release()
        assert await (await again(world, 3)).line() == f"+CONTINUE {REPLID}".encode()


async def test_the_record_at_which_it_freezes_is_not_fed() -> None:
    async with following() as world:
        engine = await full_sync(world)
        heard = world.heard.on_read

        def on_read(read: Read) -> None:
            heard(read)
            if read.record.stream == b"two":
                world.follower.hold()

        world.heard.on_read = on_read  # type: ignore[method-assign]
        for data in (b"one", b"two"):
            world.log.write(world.log.writer.data(data))
        async with asyncio.timeout(5):
            assert await engine.reader.read() == b"one"
