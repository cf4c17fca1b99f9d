"""One member's disk rots: nothing wrong is served, reading and writing go on, and the member is healed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.log.conftest import Shard, shard_of
from tests.log.records import Writer
from tests.log.servers import Service

from memorycluster.log.chain import Position, Read
from memorycluster.log.healing import Healer, Kind
from memorycluster.log.nats import NatsLog
from memorycluster.log.reader import follow

RECORDS, SIZE = 1000, 16_000
"""Two blocks of 8 MiB on each member."""


class Servers:
    """How healing stops and starts the servers of a test."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.wiped: list[str] = []

    async def stop(self, member: str) -> None:
        await self._service.stop(member)

    async def wipe(self, member: str) -> None:
        self.wiped.append(member)
        self._service.wipe(member)

    async def start(self, member: str) -> None:
        self._service.start(member)


def flip_a_bit(block: Path) -> None:
    with block.open("r+b") as file:
        file.seek(block.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def truncate(block: Path) -> None:
    os.truncate(block, block.stat().st_size // 2)


def lose(block: Path) -> None:
    block.unlink()


def blocks(shard: Shard, member: str) -> list[Path]:
    folder = shard.service.data_dir(member) / "jetstream" / "$G" / "streams" / shard.stream / "msgs"
    return sorted(folder.glob("*.blk"), key=lambda path: int(path.stem))


async def follow_to(log: NatsLog, shard: Shard, sequence: int) -> list[Read]:
    """Read by the chain rule until ``sequence``."""
    found: list[Read] = []
    async with asyncio.timeout(60), contextlib.aclosing(follow(log, Position(shard.generation))) as reads:
        async for read in reads:
            if read is not None:
                found.append(read)
            elif found and found[-1].position.sequence >= sequence:
                break
    return found


@contextlib.asynccontextmanager
async def filled(service: Service) -> AsyncIterator[tuple[Shard, NatsLog, Writer]]:
    """A log of a genesis record, a claim and RECORDS of data."""
    async with shard_of(service) as shard:
        log = await shard.client()
        writer = Writer(shard.generation)
        await log.append(writer.accept(writer.claim()), sequence=2)
        for sequence in range(3, RECORDS + 3):
            await log.append(writer.accept(writer.data(os.urandom(SIZE))), sequence=sequence)
        yield shard, log, writer


@pytest.mark.parametrize(("damage", "leads"), [(flip_a_bit, True), (truncate, False), (lose, True)])
async def test_a_rotten_member_is_read_around_and_healed(
    three: Service, damage: Callable[[Path], None], leads: bool
) -> None:
    async with filled(three) as (shard, log, writer), three.service() as admin:
        end = RECORDS + 2
        leader = await shard.leader()
        rotten = next(name for name in three.names if name != leader)
        await three.stop(rotten)
        damage(blocks(shard, rotten)[0])
        three.start(rotten)
        await three.ready()
        healer = Healer(admin, three.names, servers := Servers(three))
        if leads:  # the rotten one comes to lead, and the log goes on under it
            await admin.step_down(shard.stream, to=rotten)
            async with asyncio.timeout(30):
                while await shard.leader() != rotten:
                    await asyncio.sleep(0.1)

        reads = [await follow_to(await shard.client(), shard, end) for _ in range(3)]
        assert all(len(read) == end for read in reads)
        await log.append(writer.renew(), sequence=end + 1)
        assert (await log.get(3)) is not None  # also what the leader itself has lost
        assert await log.get(end // 4) is not None

        await healer.scrub()
        async with asyncio.timeout(60):
            steps = []
            while (step := await healer.step()).kind is not Kind.NOTHING:
                steps.append(step.kind)
                assert step.member == rotten
                await asyncio.sleep(0.2)
        assert (Kind.STEP_DOWN in steps) == leads
        assert servers.wiped == [rotten]
        for copy in await admin.copies():
            assert copy.current, copy
            assert not copy.lost, copy
        assert not await admin.scrub(shard.stream, rotten, rate=1e9)
        assert not healer.message


async def test_rot_that_no_server_has_noticed_is_brought_to_light_by_scrubbing(three: Service) -> None:
    async with filled(three) as (shard, _, _), three.service() as admin:
        healer = Healer(admin, three.names, servers := Servers(three))
        leader = await shard.leader()
        rotten = next(name for name in three.names if name != leader)
        await three.stop(rotten)  # so that it has nothing in memory, and needs no look at the block to start
        three.start(rotten)
        await three.ready()
        flip_a_bit(blocks(shard, rotten)[0])
        assert (await healer.step()).kind is Kind.NOTHING  # the server has not noticed
        assert "missing" in await admin.scrub(shard.stream, rotten, rate=1e9)
        await healer.scrub()
        async with asyncio.timeout(60):
            while (await healer.step()).kind is not Kind.NOTHING:
                await asyncio.sleep(0.2)
        assert servers.wiped == [rotten]
        for member in three.names:
            assert not await admin.scrub(shard.stream, member, rate=1e9)


async def test_rot_that_a_reader_meets_is_told_and_healed(three: Service) -> None:
    async with filled(three) as (shard, _, _), three.service() as admin:
        healer = Healer(admin, three.names, servers := Servers(three))
        leader = await shard.leader()
        rotten, sound = (name for name in three.names if name != leader)
        await three.stop(rotten)
        three.start(rotten)
        await three.ready()
        flip_a_bit(blocks(shard, rotten)[0])
        healer.suspect(sound, shard.stream, 5)
        assert (await healer.step()).kind is Kind.NOTHING
        reader = await shard.client()
        async with asyncio.timeout(60):
            while not reader.findings.recent():  # each feed is on any of the members
                assert len(await follow_to(reader, shard, RECORDS + 2)) == RECORDS + 2
        (found,) = reader.findings.recent()
        assert found.member == rotten
        assert f"log record {found.sequence}: missing" in found.reason
        healer.suspect(found.member, shard.stream, found.sequence)
        async with asyncio.timeout(60):
            while (await healer.step()).kind is not Kind.NOTHING:
                await asyncio.sleep(0.2)
        assert servers.wiped == [rotten]
        healer.suspect(found.member, shard.stream, found.sequence)
        assert (await healer.step()).kind is Kind.NOTHING
        assert not await admin.scrub(shard.stream, rotten, rate=1e9)


async def test_no_member_is_wiped_while_another_is_away(three: Service) -> None:
    async with filled(three) as (shard, log, _), three.service() as admin:
        healer = Healer(admin, three.names, servers := Servers(three))
        leader = await shard.leader()
        rotten, away = (name for name in three.names if name != leader)
        await three.stop(rotten)
        truncate(blocks(shard, rotten)[0])
        three.start(rotten)
        await three.ready()
        await three.kill(away)
        for _ in range(4):
            step = await healer.step()
            assert step.kind is Kind.WAIT
            assert away in step.reason
        assert not servers.wiped
        assert len(await follow_to(log, shard, RECORDS + 2)) == RECORDS + 2
        three.start(away)
        async with asyncio.timeout(60):
            while (await healer.step()).kind is not Kind.NOTHING:
                await asyncio.sleep(0.2)
        assert servers.wiped == [rotten]
