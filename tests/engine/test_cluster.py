"""The cluster view spreads news; it never decides who leads, nor whom an engine replicates from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engine.agent import Engine, engines, until
from tests.engine.resp import Client

HALF = ((0, 8191), (8192, 16383))
KEYS = ("b", "a")
"""A key in each half of the slots."""


@pytest.fixture
async def cluster(programs: Path) -> AsyncIterator[list[list[Engine]]]:
    """Two shards of two engines. The second engine of each leads, though nodes.conf lists the first."""
    async with engines(programs, shards=2, nodes_per_shard=2) as shards:
        await asyncio.gather(*(engine.start() for shard in shards for engine in shard))
        for index, shard in enumerate(shards):
            await shard[1].lead(epoch=1, slots=HALF[index])
            await shard[0].attach()
            assert await shard[0].txlog("READS", "yes") == b"OK"
        yield shards


async def _view(engine: Engine) -> dict[str, tuple[str, str, str]]:
    """By node id: role, the primary's id, slots; as ``engine`` sees it."""
    view = {}
    for line in (await engine.call("CLUSTER NODES")).decode().splitlines():
        fields = line.split()
        role = "master" if "master" in fields[2] else "slave"
        view[fields[0]] = (role, fields[3], " ".join(fields[8:]))
    return view


async def _agree(shards: list[list[Engine]], leaders: list[Engine]) -> bool:
    expected = {}
    for index, shard in enumerate(shards):
        for engine in shard:
            first, last = HALF[index]
            leads = engine is leaders[index]
            expected[engine.node.id] = (
                "master" if leads else "slave",
                "-" if leads else leaders[index].node.id,
                f"{first}-{last}" if leads else "",
            )
    running = [e for shard in shards for e in shard if e.process and e.process.returncode is None]
    return all([await _view(engine) == expected for engine in running])


async def test_all_learn_who_leads_and_followers_keep_their_agent(cluster: list[list[Engine]]) -> None:
    leaders = [shard[1] for shard in cluster]
    await until(lambda: _agree(cluster, leaders), seconds=20, what="one view")
    for shard in cluster:
        follower = shard[0]
        info = await follower.info("replication")
        assert (info["master_host"], info["master_port"]) == ("127.0.0.1", str(follower.follow_port))
        assert follower.syncs == ["full"], "the link to the agent was never dropped"
        assert (await follower.info("cluster"))["cluster_enabled"] == "1"
    # Redirection, and reads at a replica.
    other = cluster[1][1]
    assert (
        str(await other.call("GET", KEYS[0])) == f"MOVED 3300 {leaders[0].node.host}:{leaders[0].node.port}"
    )
    assert await leaders[0].call("SET", KEYS[0], "v") == b"OK"
    follower = cluster[0][0]
    assert str(await follower.call("GET", KEYS[0])).startswith("MOVED 3300 ")
    follower.log += leaders[0].stream
    await until(follower._synced)
    reader = await follower.client()
    await reader.call("READONLY")
    assert await reader.call("GET", KEYS[0]) == b"v"
    assert str(await reader.call("SET", KEYS[0], "w")).startswith("MOVED 3300 ")


async def test_a_restarted_leader_learns_who_leads_now(cluster: list[list[Engine]]) -> None:
    old, new = cluster[0][1], cluster[0][0]
    await until(lambda: _agree(cluster, [old, cluster[1][1]]), seconds=20)
    assert await old.call("SET", KEYS[0], "1") == b"OK"
    new.log += old.stream
    await old.kill()
    await until(new._synced)
    await new.lead(epoch=2, slots=HALF[0])
    assert await new.call("GET", KEYS[0]) == b"1"
    assert await cluster[1][1].call("SET", KEYS[1], "1") == b"OK", "the other shard serves on"
    old.log = new.log
    await old.start()
    await old.attach()
    await until(lambda: _agree(cluster, [new, cluster[1][1]]), seconds=20, what="one view")
    assert (await old.status())["role"] == "follower"
    assert str(await old.call("GET", KEYS[0])).startswith("MOVED 3300 ")
    assert await new.call("SET", KEYS[0], "2") == b"OK"


async def test_a_shard_serves_alone(cluster: list[list[Engine]]) -> None:
    """No majority of primaries, slots of others uncovered: each shard's lease is all that it needs."""
    leader = cluster[0][1]
    for engine in (cluster[0][0], *cluster[1]):
        await engine.kill()
    await asyncio.sleep(6)  # cluster-node-timeout is 5 s
    assert b"cluster_state:ok" in await leader.call("CLUSTER INFO")
    assert await leader.call("SET", KEYS[0], "1") == b"OK"


async def test_gossip_never_demotes_who_holds_the_lease(cluster: list[list[Engine]]) -> None:
    """A claim of its slots with a higher config epoch is wrong, as long as the lease holds."""
    leader, claimant = cluster[0][1], cluster[0][0]
    await until(lambda: _agree(cluster, [leader, cluster[1][1]]), seconds=20)
    assert await leader.call("SET", KEYS[0], "1") == b"OK"
    client = await leader.client()
    leader.freeze = True
    await client.send(("SET", KEYS[0], "2"))
    await leader.held(1)
    claimant.log += leader.stream[: leader.committed - leader.start_offset]
    await until(claimant._synced)
    await claimant.lead(epoch=9, slots=HALF[0])
    await until(lambda: _owner(cluster[1][1], claimant), seconds=20, what="the others believe the claim")
    assert (await leader.status())["role"] == "leader"
    reader = await leader.client()
    await reader.send(("GET", KEYS[0]))
    await leader.held(2)
    assert reader.silent, "served here still, so not MOVED"
    await leader.lease(0.01)
    await asyncio.sleep(0.02)
    await until(
        lambda: _moved(leader, claimant), seconds=20, what="past the lease it sends clients to the claimant"
    )
    assert (await leader.status())["role"] == "leader", "what it is, its agent decides"
    assert client.silent, "and what is held stays held"
    assert await leader.lease(60) == b"OK"
    await leader.thaw()
    assert await client.read() == b"OK"
    assert await leader.call("GET", KEYS[0]) == b"2"


async def _owner(engine: Engine, owner: Engine) -> bool:
    return (await _view(engine))[owner.node.id][2] == "0-8191"


async def _moved(engine: Engine, target: Engine) -> bool:
    return str(await engine.call("GET", KEYS[0])) == f"MOVED 3300 {target.node.host}:{target.node.port}"


@pytest.mark.parametrize("sharded", [False, True])
async def test_the_bus_carries_no_message_before_its_time(
    cluster: list[list[Engine]], *, sharded: bool
) -> None:
    leader = cluster[0][1]
    await until(lambda: _agree(cluster, [shard[1] for shard in cluster]), seconds=20)
    listener = await (cluster[0][0] if sharded else cluster[1][1]).client()
    channel = KEYS[0]
    await listener.call("SSUBSCRIBE" if sharded else "SUBSCRIBE", channel)
    publish = ("SPUBLISH" if sharded else "PUBLISH", channel)
    publisher, free, script = [await leader.client() for _ in range(3)]
    leader.freeze = True
    await publisher.send(("SET", KEYS[0], "1"), (*publish, "later"))
    await leader.held(1)
    await script.send("MULTI", (*publish, "unit"), ("SET", KEYS[0], "2"), "EXEC")
    await leader.held(2)
    info = await leader.info()
    assert info["txlog_held_bus_messages"] == "2"
    await asyncio.sleep(0.2)
    assert listener.silent
    await leader.thaw()
    assert [(await listener.read())[2] for _ in range(2)] == [b"later", b"unit"]
    leader.freeze = True
    await publisher.send(("SET", KEYS[0], "3"))
    await leader.held(1)
    assert await free.call(*publish, "now") == 0
    assert (await listener.read())[2] == b"now", "somebody else's write delays nobody's message"


async def test_a_shard_of_one_engine(engine: Engine) -> None:
    assert await engine.call("SET k 1") == b"OK"
    assert await _view(engine) == {engine.node.id: ("master", "-", "0-16383")}
    assert b"cluster_state:ok" in await engine.call("CLUSTER INFO")


BY_NAME = {"cluster_preferred_endpoint_type": "hostname"}
"""Clients are told hostnames, as on Kubernetes."""


async def test_clients_are_sent_to_the_address_of_who_has_no_name(programs: Path) -> None:
    """Never to the host "?", whom no client can find."""
    async with engines(programs, shards=2) as ((observer,), (leader,)):
        await asyncio.gather(observer.start(**BY_NAME), leader.start(**BY_NAME))
        await observer.lead(epoch=1, slots=HALF[0])
        await leader.lead(epoch=1, slots=HALF[1])
        host, port = leader.node.host, leader.node.port
        assert await _endpoint(await observer.client(), leader) == host
        assert str(await observer.call("GET", KEYS[1])) == f"MOVED 15495 {host}:{port}"
        [slots] = [each for each in await observer.call("CLUSTER SLOTS") if each[0] == HALF[1][0]]
        assert slots[2][0] == host.encode()


async def test_a_name_is_kept_while_its_node_restarts(programs: Path) -> None:
    """The first message over a new link carries no name; which is no news."""
    async with engines(programs, shards=2) as ((observer,), (leader,)):
        name = {"cluster_announce_hostname": "leader.test"}
        await asyncio.gather(observer.start(**BY_NAME), leader.start(**BY_NAME, **name))
        told: set[str] = set()

        async def ask() -> None:
            client = await observer.client()
            while True:
                told.add(await _endpoint(client, leader))

        client = await observer.client()
        await until(lambda: _is_told(client, leader, "leader.test"), seconds=20)
        asking = asyncio.create_task(ask())

        async def restart() -> None:
            await leader.kill()
            await leader.start(**BY_NAME, **name)
            theirs = await leader.client()
            await until(lambda: _linked(theirs, observer), seconds=20, what="the node is back")
            await until(lambda: _linked(client, leader), seconds=20, what="and seen again")

        for _ in range(5):
            await restart()
        assert not asking.done()
        asking.cancel()
        assert told == {"leader.test"}


async def _endpoint(client: Client, engine: Engine) -> str:
    """Return where a client of another engine would look for ``engine``."""
    for shard in await client.call("CLUSTER SHARDS"):
        for each in dict(zip(shard[::2], shard[1::2], strict=True))[b"nodes"]:
            node = dict(zip(each[::2], each[1::2], strict=True))
            if node[b"id"].decode() == engine.node.id:
                endpoint: bytes = node[b"endpoint"]
                return endpoint.decode()
    raise AssertionError(f"{engine.node.name} is not there")


async def _is_told(client: Client, engine: Engine, endpoint: str) -> bool:
    return await _endpoint(client, engine) == endpoint


async def _linked(client: Client, engine: Engine) -> bool:
    lines = (await client.call("CLUSTER NODES")).decode().splitlines()
    return any(line.startswith(engine.node.id) and " connected" in line for line in lines)
