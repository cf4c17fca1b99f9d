"""The cluster bus finds its nodes wherever they are: real engines, no agents, the loop that helps them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis
from tests.pod.harness import BUS, CLIENTS, Pods, configure, until

from memorycluster.agent.engine import Control
from memorycluster.pod.container import Told
from memorycluster.pod.node import Files, engine_texts
from memorycluster.pod.peers import EVERY, Peers, ask_id, hosts_file
from memorycluster.valkey.config import AGENT_USER


class Bus:
    """The engines of a cluster, each with its loop."""

    def __init__(self, pods: Pods) -> None:
        self.pods = pods
        self.engines: dict[str, subprocess.Popen[bytes]] = {}
        self.loops: dict[str, asyncio.Task[None]] = {}

    def start(self, *names: str) -> None:
        for name in names or tuple(self.pods.pods):
            pod = self.pods.pods[name]
            self.pods.write_hosts()
            shutil.rmtree(pod.run, ignore_errors=True)
            pod.run.mkdir()
            files = Files(pod.run)
            told = Told(pod.volumes, pod.environment)
            for path, text in engine_texts(told.config, told.pod, files).items():
                path.write_text(text)
            with pod.output("engine").open("ab") as output:
                self.engines[name] = subprocess.Popen(
                    [self.pods.programs / "valkey-server", files.engine_conf], stdout=output, stderr=output
                )
            loop = Peers(told, files.engine_socket, hosts_file(self.pods.hosts))
            self.loops[name] = asyncio.create_task(loop.run())

    async def kill(self, *names: str) -> None:
        for name in names or tuple(self.engines):
            self.loops.pop(name).cancel()
            engine = self.engines.pop(name)
            engine.kill()
            await asyncio.to_thread(engine.wait)

    async def agree(self) -> None:
        await self.pods.agree(self.pods.pods[name] for name in self.engines)

    async def command(self, name: str, *args: str | int) -> None:
        """Run a command as the agent."""
        pod = self.pods.pods[name]
        _, control = await asyncio.get_running_loop().create_unix_connection(
            lambda: Control(lambda _: None), str(Files(pod.run).engine_socket)
        )
        await control.command("AUTH", AGENT_USER, "agents only")
        assert await control.command(*args) == b"OK"
        control.close()


MakeBus = Callable[..., Bus]


@pytest.fixture
async def make(programs: Path) -> AsyncIterator[MakeBus]:
    async with AsyncExitStack() as stack:

        def make(*, shards: int = 1, nodes: int = 3) -> Bus:
            root = Path(tempfile.mkdtemp(prefix="mcp", dir="/tmp"))
            stack.callback(shutil.rmtree, root)
            config = configure(["nats://127.0.0.1:1"], "log", shards=shards, nodes=nodes)
            bus = Bus(Pods(root, programs, config))
            stack.push_async_callback(bus.kill)
            return bus

        yield make


async def test_two_shards_find_each_other_and_whoever_moves(make: MakeBus) -> None:
    bus = make(shards=2, nodes=2)
    bus.start()
    await bus.agree()
    await bus.kill("orders-0-0", "orders-1-1")
    for name in ("orders-0-0", "orders-1-1"):
        bus.pods.pods[name].address = bus.pods.next_address()
    bus.start("orders-0-0", "orders-1-1")
    await bus.agree()


async def test_all_move_at_once_each_to_where_another_one_was(make: MakeBus) -> None:
    bus = make()
    bus.start()
    await bus.agree()
    await bus.kill()
    pods = list(bus.pods.pods.values())
    old = [pod.address for pod in pods]
    for pod, address in zip(pods, [*old[1:], old[0]], strict=True):
        pod.address = address
    bus.start()
    await bus.agree()


async def test_a_replica_joins_though_the_others_are_told_later(make: MakeBus) -> None:
    bus = make(nodes=2)
    bus.start()
    await bus.agree()
    small = bus.pods.config
    bus.pods.tell(nodes_per_shard=3)
    bus.pods.add("orders-0-2")
    large, bus.pods.config = bus.pods.config, small
    for name in ("orders-0-0", "orders-0-1"):
        bus.pods.pods[name].tell()
    bus.pods.config = large
    bus.start("orders-0-2")
    await bus.agree()
    await asyncio.sleep(3 * EVERY)  # looks of those who do not know that it is wanted
    await bus.agree()


async def test_a_replica_that_has_left_is_forgotten_once_its_name_is_gone(make: MakeBus) -> None:
    bus = make()
    bus.start()
    await bus.agree()
    gone = bus.pods.config.topology().node("orders-0-2").id
    bus.pods.tell(nodes_per_shard=2)
    first = bus.pods.pods["orders-0-0"]
    await bus.kill("orders-0-2")
    await until(lambda: first.view()[gone][2] == "disconnected", "its death is seen")
    await asyncio.sleep(3 * EVERY)
    assert gone in first.view(), "its name is still there: it may come back"
    del bus.pods.pods["orders-0-2"]
    bus.pods.write_hosts()
    await bus.agree()


async def test_nobody_meets_a_stranger_whatever_the_name_service_says(
    make: MakeBus, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = make(nodes=2), make(nodes=1)
    ours.start("orders-0-0")
    theirs.start()
    stranger = theirs.pods.pods["orders-0-0"]
    await theirs.agree()
    ours.pods.pods["orders-0-1"].address = stranger.address
    ours.pods.write_hosts()
    said = await until(lambda: capsys.readouterr().out, "it is noticed")
    found = await ask_id(stranger.address, CLIENTS)
    assert f"at {stranger.address} is node {found}, not orders-0-1" in said
    assert list(stranger.view()) == [found], "it was not met"


async def test_welded_clusters_come_apart(make: MakeBus) -> None:
    ours, theirs = make(nodes=2), make(nodes=2)
    for bus in (ours, theirs):
        bus.start()
    for bus in (ours, theirs):
        await bus.agree()
    stranger = theirs.pods.pods["orders-0-0"]
    for loop in (*ours.loops.values(), *theirs.loops.values()):
        loop.cancel()
    await ours.command("orders-0-0", "CLUSTER", "MEET", stranger.address, CLIENTS, BUS)
    await until(lambda: len(stranger.view()) == 4, "all know all")
    for bus in (ours, theirs):
        for name, pod in bus.pods.pods.items():
            told = Told(pod.volumes, pod.environment)
            loop = Peers(told, Files(pod.run).engine_socket, hosts_file(bus.pods.hosts))
            bus.loops[name] = asyncio.create_task(loop.run())
    for bus in (ours, theirs):
        await bus.agree()


async def test_a_node_that_does_not_answer_holds_nobody_up(make: MakeBus) -> None:
    bus = make()
    bus.start("orders-0-0", "orders-0-1")
    bus.engines["orders-0-1"].send_signal(signal.SIGSTOP)
    bus.start("orders-0-2")
    first, third = bus.pods.pods["orders-0-0"], bus.pods.config.topology().node("orders-0-2").id

    def linked() -> bool:
        with contextlib.suppress(redis.RedisError):
            return first.view()[third][2] == "connected"
        return False

    await until(linked, "the others are linked")
