"""The workload and the judge together, on one server without durability: good runs pass, bad don't."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.judge import Verdict, judge
from tests.faults.resp import Address, Connection, NotSent
from tests.faults.workload import SLOTS, Served, Shard, Workload, two_primaries

from memorycluster.valkey.build import Variant, build


class Server:
    """A server that keeps its data in memory only."""

    def __init__(self, binary: Path, directory: Path, *options: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.address: Address = free.getsockname()
        self.command = [str(binary), "--port", str(self.address[1]), "--save", "", "--dir", str(directory)]
        self.command += options
        self.log = (directory / "log").open("ab")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)

    async def answers(self) -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    (await Connection.open(self.address)).close()
                    return
                except NotSent:
                    await asyncio.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def binary() -> Path:
    if given := os.environ.get("MEMORYCLUSTER_TEST_SERVER"):
        return Path(given)
    return asyncio.run(build(print, variant=Variant.STOCK)) / "valkey-server"


@pytest.fixture
async def server(binary: Path, tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(binary, tmp_path)
    await server.answers()
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.kill()


def workload(server: Server, seed: int) -> Workload:
    shard = Shard(0, SLOTS - 1, [server.address], server.address)
    return Workload([shard], seed=seed, patience=(0.5, 1.0))


async def verdict(work: Workload, directory: Path) -> Verdict:
    work.history.save(directory / "history.jsonl")
    return await judge(directory / "history.jsonl", limit=20)


async def test_a_healthy_server_is_linearizable(server: Server, tmp_path: Path) -> None:
    work = workload(server, 1)
    work.start()
    await asyncio.sleep(3)
    await work.finish()
    assert not work.tally.unexpected
    found = await verdict(work, tmp_path)
    print(found)
    assert found.ok, str(found)
    assert found.operations > 1000
    assert found.replica > 50
    models = {operations[0].model for operations in work.history.by_key.values()}
    assert models == {"register", "counter", "list", "map", "stream", "bundle"}


async def test_a_pause_is_survived_by_the_checker(server: Server, tmp_path: Path) -> None:
    """Clients give up on a stopped server; what they had sent may be applied later: unknown, not lost."""
    work = workload(server, 2)
    work.start()
    await asyncio.sleep(1)
    server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3)
    server.process.send_signal(signal.SIGCONT)
    await asyncio.sleep(1)
    await work.finish()
    found = await verdict(work, tmp_path)
    print(found)
    assert found.ok, str(found)
    assert found.unknown > 0


async def test_lost_memory_is_found(server: Server, tmp_path: Path) -> None:
    """The negative control: a server without a log that is killed has lost what it had acknowledged."""
    work = workload(server, 3)
    work.start()
    await asyncio.sleep(1)
    server.kill()
    server.start()
    await asyncio.sleep(1)
    await work.finish()
    found = await verdict(work, tmp_path)
    print(found)
    assert not found.ok
    bad = {problem.key for problem in found.problems}
    kinds = {operations[0].model for key, operations in work.history.by_key.items() if key in bad}
    assert kinds >= {"register", "counter", "list", "map", "stream", "bundle"}, "each kind notices"


async def test_it_finds_its_way_in_a_cluster(binary: Path, tmp_path: Path) -> None:
    """Two shards; the clients are told the wrong node first, and follow MOVED. One more node is a replica."""
    names = ["a", "b", "replica"]
    for name in names:
        (tmp_path / name).mkdir()
    cluster = ("--cluster-enabled", "yes")
    servers = [Server(binary, tmp_path / name, *cluster) for name in names]
    try:
        links = []
        for server in servers:
            await server.answers()
            links.append(await Connection.open(server.address))
        a, b, replica = links
        half = SLOTS // 2
        await a.call(
            [("CLUSTER", "ADDSLOTSRANGE", 0, half - 1), ("CLUSTER", "SET-CONFIG-EPOCH", 1)], seconds=5
        )
        await b.call(
            [("CLUSTER", "ADDSLOTSRANGE", half, SLOTS - 1), ("CLUSTER", "SET-CONFIG-EPOCH", 2)], seconds=5
        )
        for link in (b, replica):
            await link.call([("CLUSTER", "MEET", *a.address)], seconds=5)
        name_of_a = (await a.call([("CLUSTER", "MYID")], seconds=5))[0].value
        async with asyncio.timeout(20):
            while (await replica.call([("CLUSTER", "REPLICATE", name_of_a)], seconds=5))[0].value != "OK":
                await asyncio.sleep(0.1)
            while "cluster_state:ok" not in (await a.call([("CLUSTER", "INFO")], seconds=5))[0].value:
                await asyncio.sleep(0.1)
            while "master_link_status:up" not in (await replica.call([("INFO",)], seconds=5))[0].value:
                await asyncio.sleep(0.1)
        shards = [
            Shard(0, half - 1, [a.address, replica.address], replica.address),
            Shard(half, SLOTS - 1, [b.address], b.address),
        ]
        work = Workload(shards, seed=4, patience=(1.0,))
        work.start()
        await asyncio.sleep(2)
        await work.finish()
        assert work.tally.refusals["MOVED"] > 0
        assert not work.unserved(0)
        found = await verdict(work, tmp_path)
        print(found)
        assert found.ok, str(found)
        assert not await work.compare_replicas(seconds=5)
    finally:
        for server in servers:
            server.kill()


def test_two_primaries_are_found() -> None:
    a, b = ("127.0.0.1", 1), ("127.0.0.1", 2)
    good = [Served(0, a, 0, 1, 1), Served(0, a, 2, 3, 1), Served(0, b, 4, 5, 2), Served(1, b, 4, 5, 1)]
    assert not two_primaries(good)
    assert not two_primaries([Served(0, a, 0, 9, 1), Served(0, b, 4, 5, 2), Served(0, b, 6, 7, None)])
    assert two_primaries([Served(0, a, 0, 1, 1), Served(0, b, 2, 3, 1)])
    assert two_primaries([*good, Served(0, a, 6, 7, 1)])
