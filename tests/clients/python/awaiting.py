"""valkey-py and redis-py with asyncio."""

from __future__ import annotations

import asyncio
import importlib
import sys
from contextlib import AsyncExitStack
from typing import Any

from telling import KEYS, PACE, PATIENCE, PHASES, ROUNDS, TAGS, Writes, endpoint, prefix, tell

LIBRARY = importlib.import_module(f"{sys.argv[1]}.asyncio")
IS_VALKEY = sys.argv[1] == "valkey"
"""valkey-py's asyncio cluster client has neither transactions nor subscriptions: the client of a node has."""

TOGETHER = 50
"""Commands at the same time; each has a connection of its own, of 100 that redis-py opens to a node."""


def connect() -> Any:
    host, port = endpoint()
    if IS_VALKEY:
        return importlib.import_module("valkey.asyncio.cluster").ValkeyCluster(
            host=host, port=port, decode_responses=True
        )
    return LIBRARY.RedisCluster(host=host, port=port, decode_responses=True)


async def node(client: Any, key: str) -> Any:
    """Return a client of the node that has ``key``."""
    found = client.get_node_from_key(key)
    return LIBRARY.Valkey(host=found.host, port=found.port, decode_responses=True)


async def strings(client: Any, p: str) -> None:
    for part in (range(first, first + TOGETHER) for first in range(0, KEYS, TOGETHER)):
        assert all(await asyncio.gather(*(client.set(f"{p}:s:{n}", n) for n in part)))
        got = await asyncio.gather(*(client.get(f"{p}:s:{n}") for n in part))
        assert got == [str(n) for n in part]


async def pipeline(client: Any, p: str) -> None:
    async with client.pipeline() as pipe:
        for n in range(KEYS):
            pipe.incrby(f"{p}:p:{n}", n)
            pipe.get(f"{p}:p:{n}")
        assert await pipe.execute() == [said for n in range(KEYS) for said in (n, str(n))]


async def transaction(client: Any, p: str) -> None:
    for tag in TAGS:
        key = f"{{{p}:{tag}}}:t"
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(await node(client, key)) if IS_VALKEY else client
            pipe = await stack.enter_async_context(one.pipeline(transaction=True))
            pipe.set(f"{key}:1", "x")
            pipe.incr(f"{key}:2")
            pipe.get(f"{key}:1")
            ok, *others = await pipe.execute()
            assert ok in (True, "OK")
            assert others == [1, "x"]


async def script(client: Any, p: str) -> None:
    for tag in TAGS:
        key = f"{{{p}:{tag}}}:l"
        text = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])"
        assert await client.eval(text, 1, key, "v") == "v"
        assert await client.get(key) == "v"


async def messages(subscription: Any, count: int, **how: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    get = subscription.get_sharded_message if how else subscription.get_message
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            message = await get(ignore_subscribe_messages=False, timeout=0.05)
            if message and message["type"] in {"message", "smessage"}:
                found.append((message["channel"], message["data"]))
            elif message:
                found.append((message["channel"], "subscribed"))
    return found


async def publish(client: Any, p: str) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(await node(client, p)) if IS_VALKEY else client
        subscription = await stack.enter_async_context(one.pubsub())
        await subscription.subscribe(f"{p}:c")
        assert await messages(subscription, 1) == [(f"{p}:c", "subscribed")]
        through = client.get_primaries()[0]  # not each through another node: order
        for n in range(ROUNDS):
            await client.execute_command("PUBLISH", f"{p}:c", n, target_nodes=through)
        assert await messages(subscription, ROUNDS) == [(f"{p}:c", str(n)) for n in range(ROUNDS)]


async def sharded_publish(client: Any, p: str) -> None:
    for tag in TAGS:
        async with client.pubsub() as subscription:
            await subscription.ssubscribe(f"{p}:{tag}")
            assert await messages(subscription, 1, sharded=True) == [(f"{p}:{tag}", "subscribed")]
            for n in range(ROUNDS):
                await client.spublish(f"{p}:{tag}", n)
            assert await messages(subscription, ROUNDS, sharded=True) == [
                (f"{p}:{tag}", str(n)) for n in range(ROUNDS)
            ]


async def blocking_pop(client: Any, p: str) -> None:
    """Two clients that wait for each other."""

    async def answer() -> None:
        async with connect() as other:
            for _ in range(ROUNDS):
                _, said = await other.blpop([f"{p}:in"], timeout=PATIENCE)
                await other.rpush(f"{p}:out", f"re {said}")

    async with asyncio.TaskGroup() as group:
        group.create_task(answer())
        for n in range(ROUNDS):
            await client.rpush(f"{p}:in", n)
            assert list(await client.blpop([f"{p}:out"], timeout=PATIENCE)) == [f"{p}:out", f"re {n}"]


async def stream(client: Any, p: str) -> None:
    for tag in TAGS:
        key = f"{p}:x:{tag}"
        await client.xgroup_create(key, "group", "0", mkstream=True)
        ids = [await client.xadd(key, {"n": n}) for n in range(ROUNDS)]
        entries = dict(await client.xreadgroup("group", "me", {key: ">"}, count=ROUNDS))[key]
        assert [(i, fields["n"]) for i, fields in entries] == [(i, str(n)) for n, i in enumerate(ids)]
        assert await client.xack(key, "group", *ids) == ROUNDS
        assert (await client.xpending(key, "group"))["pending"] == 0


async def scan(client: Any, p: str) -> None:
    found = {key async for key in client.scan_iter(match=f"{p}:s:*", count=50)}
    assert found == {f"{p}:s:{n}" for n in range(KEYS)}


STEPS = (strings, pipeline, transaction, script, publish, sharded_publish, blocking_pop, stream, scan)


async def main() -> None:
    async with connect() as client:
        for step in STEPS:
            if IS_VALKEY and step is sharded_publish:
                tell(lacks=step.__name__)
                continue
            await step(client, prefix())
            tell(passed=step.__name__)
        writes = Writes()
        for phase in PHASES:
            writes.begin(phase)
            while not writes.over():
                key, value = writes.next()
                try:
                    await client.set(key, value)
                    writes.acknowledge(key, value)
                    await asyncio.sleep(PACE)
                except Exception as error:  # whatever the client raises is what we want to know
                    writes.failed(error)
                    await asyncio.sleep(0.01)
        for key, value in writes.acknowledged().items():
            assert await client.get(key) == value, key
        tell(found=len(writes.acknowledged()))


asyncio.run(main())
