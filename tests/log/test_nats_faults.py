"""Whatever happens to the servers, nothing acknowledged is lost, all is read in order, and it goes on."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.log.conftest import Shard, shard_of
from tests.log.contract import message, read_to_end
from tests.log.servers import Service
from tests.log.workload import workload

from memorycluster.log.interface import LogUnavailable


async def others(shard: Shard, name: str) -> list[str]:
    return [other for other in shard.service.names if other != name]


class TestLeader:
    """What happens to the server whose member leads the log."""

    async def test_killed(self, three: Service, shard: Shard) -> None:
        leader = await shard.leader()
        clients = [
            await shard.client(),
            await shard.client(leader, *await others(shard, leader)),
            await shard.client(),
        ]
        async with workload(*clients) as work:
            await three.kill(leader)
            await work.progress()
            three.start(leader)
            await work.progress(200)
        assert max(work.pauses) < 20

    async def test_frozen(self, three: Service, shard: Shard) -> None:
        leader = await shard.leader()
        async with workload(
            await shard.client(leader, *await others(shard, leader)), await shard.client()
        ) as work:
            three.freeze(leader)
            await work.progress()  # with another leader
            three.thaw(leader)
            await work.progress(200)

    async def test_frozen_for_a_moment(self, three: Service, shard: Shard) -> None:
        leader = await shard.leader()
        async with workload(await shard.client(leader), await shard.client(leader)) as work:
            for _ in range(3):
                three.freeze(leader)
                await asyncio.sleep(1)
                three.thaw(leader)
                await work.progress(20)

    async def test_stopped(self, three: Service, shard: Shard) -> None:
        leader = await shard.leader()
        async with workload(await shard.client(), await shard.client()) as work:
            began = time.monotonic()
            await three.stop(leader)
            await work.progress()
            assert time.monotonic() - began < 8  # it hands over: no election by timeout
            three.start(leader)
            await work.progress()

    async def test_steps_down(self, three: Service, shard: Shard) -> None:
        async with three.service() as admin, workload(await shard.client(), await shard.client()) as work:
            for _ in range(3):
                before = await shard.leader()
                target = (await others(shard, before))[0]
                await admin.step_down(shard.stream, to=target)
                await work.progress(20)
                assert await shard.leader() == target


class TestFollower:
    """What happens to a server that we are connected to, whose member does not lead the log."""

    @pytest.mark.parametrize("size", [300, 262_000])
    async def test_frozen(self, three: Service, shard: Shard, size: int) -> None:
        victim, other = await others(shard, await shard.leader())
        writer, reader = await shard.client(victim, other), await shard.client(victim, other)
        async with workload(writer, reader, size=size) as work:
            three.freeze(victim)
            began = time.monotonic()
            await work.progress()
            assert time.monotonic() - began < 8  # we move on, without waiting for it
            three.thaw(victim)
            await work.progress()

    async def test_killed(self, three: Service, shard: Shard) -> None:
        victim, other = await others(shard, await shard.leader())
        writer, reader = await shard.client(victim, other), await shard.client(victim, other)
        async with workload(writer, reader) as work:
            await three.kill(victim)
            await work.progress()
            three.start(victim)
            await work.progress()


class TestMajority:
    async def test_lost_for_a_while(self, three: Service, shard: Shard) -> None:
        leader = await shard.leader()
        gone = await others(shard, leader)
        writer, reader = await shard.client(leader), await shard.client(leader)
        async with workload(writer, reader) as work:
            await three.kill(*gone)
            await asyncio.sleep(6)
            done, confirmed = len(work.acked), work.confirmed
            await asyncio.sleep(2)
            assert len(work.acked) == done  # nothing is acknowledged
            assert work.confirmed == confirmed  # and no end confirmed
            assert writer.trouble
            with pytest.raises(LogUnavailable):
                await (await shard.client(leader)).end()
            three.start(*gone)
            await work.progress()

    async def test_all_killed(self, three: Service, shard: Shard) -> None:
        async with workload(await shard.client(), await shard.client(), size=20_000) as work:
            await work.progress(200)
            await three.kill()
            await asyncio.sleep(0.5)
            three.start()
            await work.progress()


async def test_one_server_killed(one: Service) -> None:
    async with shard_of(one) as shard, workload(await shard.client(), await shard.client()) as work:
        for _ in range(3):
            await one.kill()
            one.start()
            await work.progress()


async def test_clients_leave_nothing_behind(three: Service, shard: Shard) -> None:
    before = asyncio.all_tasks()
    for servers in ([], ["log-0"]):
        async with three.log(shard.stream, *servers) as log:
            await log.append(message(await log.end() + 1), sequence=await log.end() + 1)
            await read_to_end(log)
            tail = log.tail(0)
            assert await anext(tail)
            waiting = asyncio.create_task(anext(tail))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await tail.aclose()
    assert asyncio.all_tasks() == before
