"""valkey-glide with asyncio."""

from __future__ import annotations

import asyncio

from glide import (
    ClusterBatch,
    ClusterScanCursor,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    NodeAddress,
    StreamAddOptions,
    StreamGroupOptions,
)
from telling import KEYS, PACE, PATIENCE, PHASES, ROUNDS, TAGS, Writes, endpoint, prefix, tell


async def connect() -> GlideClusterClient:
    host, port = endpoint()
    return await GlideClusterClient.create(
        GlideClusterClientConfiguration([NodeAddress(host, port)], request_timeout=2000)
    )


async def strings(client: GlideClusterClient, p: str) -> None:
    assert await asyncio.gather(*(client.set(f"{p}:s:{n}", str(n)) for n in range(KEYS))) == ["OK"] * KEYS
    got = await asyncio.gather(*(client.get(f"{p}:s:{n}") for n in range(KEYS)))
    assert got == [str(n).encode() for n in range(KEYS)]


async def pipeline(client: GlideClusterClient, p: str) -> None:
    batch = ClusterBatch(is_atomic=False)
    for n in range(KEYS):
        batch.incrby(f"{p}:p:{n}", n)
        batch.get(f"{p}:p:{n}")
    said = await client.exec(batch, raise_on_error=True)
    assert said == [one for n in range(KEYS) for one in (n, str(n).encode())]


async def transaction(client: GlideClusterClient, p: str) -> None:
    for tag in TAGS:
        key = f"{{{p}:{tag}}}:t"
        batch = ClusterBatch(is_atomic=True)
        batch.set(f"{key}:1", "x")
        batch.incr(f"{key}:2")
        batch.get(f"{key}:1")
        assert await client.exec(batch, raise_on_error=True) == ["OK", 1, b"x"]


async def script(client: GlideClusterClient, p: str) -> None:
    for tag in TAGS:
        key = f"{{{p}:{tag}}}:l"
        text = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])"
        assert await client.custom_command(["EVAL", text, "1", key, "v"]) == b"v"
        assert await client.get(key) == b"v"


async def messages(subscriber: GlideClusterClient, count: int) -> list[tuple[bytes, bytes]]:
    async with asyncio.timeout(PATIENCE):
        found = [await subscriber.get_pubsub_message() for _ in range(count)]
    return [(message.channel, message.message) for message in found]  # type: ignore[misc]


async def publish(client: GlideClusterClient, p: str) -> None:
    subscriber = await connect()
    await subscriber.subscribe({f"{p}:c"})
    for n in range(ROUNDS):
        await client.publish(str(n), f"{p}:c")
    # Each may go through another node: no order.
    assert sorted(await messages(subscriber, ROUNDS)) == [
        (f"{p}:c".encode(), b"%d" % n) for n in range(ROUNDS)
    ]
    await subscriber.close()


async def sharded_publish(client: GlideClusterClient, p: str) -> None:
    subscriber = await connect()
    for tag in TAGS:
        await subscriber.ssubscribe({f"{p}:{tag}"})
        for n in range(ROUNDS):
            await client.publish(str(n), f"{p}:{tag}", sharded=True)
        assert await messages(subscriber, ROUNDS) == [
            (f"{p}:{tag}".encode(), b"%d" % n) for n in range(ROUNDS)
        ]
    await subscriber.close()


async def blocking_pop(client: GlideClusterClient, p: str) -> None:
    """Two clients that wait for each other."""

    async def answer() -> None:
        other = await connect()
        for _ in range(ROUNDS):
            _, said = await other.blpop([f"{p}:in"], timeout=PATIENCE) or (b"", b"")
            await other.rpush(f"{p}:out", [b"re " + said])
        await other.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(answer())
        for n in range(ROUNDS):
            await client.rpush(f"{p}:in", [str(n)])
            said = await client.blpop([f"{p}:out"], timeout=PATIENCE)
            assert said == [f"{p}:out".encode(), b"re %d" % n]


async def stream(client: GlideClusterClient, p: str) -> None:
    for tag in TAGS:
        key = f"{p}:x:{tag}"
        await client.xgroup_create(key, "group", "0", StreamGroupOptions(make_stream=True))
        ids = [await client.xadd(key, [("n", str(n))], StreamAddOptions()) for n in range(ROUNDS)]
        read = await client.xreadgroup({key: ">"}, "group", "me")
        assert read == {key.encode(): {i: [[b"n", b"%d" % n]] for n, i in enumerate(ids)}}
        assert await client.xack(key, "group", ids) == ROUNDS  # type: ignore[arg-type]
        assert (await client.xpending(key, "group"))[0] == 0


async def scan(client: GlideClusterClient, p: str) -> None:
    cursor = ClusterScanCursor()
    found: set[bytes] = set()
    while not cursor.is_finished():
        cursor, keys = await client.scan(cursor, match=f"{p}:s:*", count=50)
        found.update(keys)
    assert found == {f"{p}:s:{n}".encode() for n in range(KEYS)}


STEPS = (strings, pipeline, transaction, script, publish, sharded_publish, blocking_pop, stream, scan)


async def main() -> None:
    client = await connect()
    for step in STEPS:
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
        assert await client.get(key) == value.encode(), key
    tell(found=len(writes.acknowledged()))
    await client.close()


asyncio.run(main())
