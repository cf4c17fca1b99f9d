"""Messages to others: pub/sub, keyspace events, invalidations. None tells of what is not committed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.engine.agent import Engine, engines, until
from tests.engine.resp import Client, Push


async def _subscriber(engine: Engine, command: str, *, resp: int = 2) -> Client:
    client = await engine.client(resp=resp)
    await client.call(command)
    return client


@pytest.mark.parametrize(
    ("write", "events"),
    [
        (("SET {t}k 1",), 2),
        (("MULTI", "SET {t}k 1", "DEL {t}k", "EXEC"), 4),
        (("EVAL return(redis.call('set',KEYS[1],1)) 1 {t}k",), 2),
    ],
)
async def test_keyspace_events(any_io: Engine, write: tuple[str, ...], events: int) -> None:
    engine = any_io
    await engine.call("CONFIG SET notify-keyspace-events KEA")
    listener = await _subscriber(engine, "PSUBSCRIBE __key*")
    writer = await engine.client()
    engine.freeze = True
    await writer.send(*write)
    await engine.held(2)
    assert listener.silent
    await engine.thaw()
    for _ in range(events):
        assert (await listener.read())[0] == b"pmessage"
    assert listener.silent


async def test_a_message_of_a_unit_that_writes_nothing_waits_only_for_what_it_saw(engine: Engine) -> None:
    listener = await _subscriber(engine, "SUBSCRIBE ch")
    a, b, c = [await engine.client() for _ in range(3)]
    await a.call("SET {ch}clean 1")
    script = "return redis.call('publish', 'ch', redis.call('get', KEYS[1]))"
    engine.freeze = True
    await a.send("SET {ch}k secret")
    await engine.held(1)
    assert await b.call("EVAL", script, 1, "{ch}clean") == 1
    assert (await listener.read())[2] == b"1", "nothing uncommitted was seen: sent at once"
    assert await b.call("PUBLISH ch plain") == 1
    assert (await listener.read())[2] == b"plain"
    await c.send(("EVAL", script, 1, "{ch}k"))
    await engine.held(3)
    assert listener.silent
    await engine.thaw()
    assert (await listener.read())[2] == b"secret"
    assert await c.read() == 1


async def test_a_publisher_whose_own_write_is_held(engine: Engine) -> None:
    listener, patterns = await _subscriber(engine, "SUBSCRIBE ch"), await _subscriber(engine, "PSUBSCRIBE c*")
    quiet, publisher = await engine.client(), await engine.client()
    engine.freeze = True
    await quiet.send("CLIENT REPLY OFF", "SET a 1", "PUBLISH ch one")
    await publisher.send("SET b 1", "PUBLISH ch two")
    await engine.held(3)
    assert listener.silent
    assert patterns.silent
    await engine.thaw()
    assert sorted([(await listener.read())[2], (await listener.read())[2]]) == [b"one", b"two"]
    assert (await patterns.read())[0] == b"pmessage"


@pytest.mark.parametrize("publish", ["PUBLISH", "SPUBLISH"])
async def test_a_message_from_within_a_transaction(engine: Engine, publish: str) -> None:
    listener = await _subscriber(engine, "SSUBSCRIBE ch" if publish == "SPUBLISH" else "SUBSCRIBE ch")
    writer = await engine.client()
    engine.freeze = True
    await writer.send("MULTI", f"{publish} ch m", "SET {ch}k 1", "EXEC")
    await engine.held(2)
    assert listener.silent, "published before the write, but of the same unit"
    await engine.thaw()
    assert (await listener.read())[2] == b"m"


async def test_a_subscriber_that_publishes_to_itself(engine: Engine) -> None:
    client = await _subscriber(engine, "SUBSCRIBE ch", resp=3)
    engine.freeze = True
    await client.send("MULTI", "SET {ch}k 1", "PUBLISH ch m", "EXEC")
    await engine.held(1)
    await engine.thaw()
    replies = [await client.read() for _ in range(5)]
    assert replies[3] == [b"OK", 1]
    assert isinstance(replies[4], Push)


async def test_tracking(any_io: Engine) -> None:
    engine = any_io
    tracker = await engine.client(resp=3)
    await tracker.call("CLIENT TRACKING ON")
    writer, other = await engine.client(), await engine.client()
    await writer.call("SET k 0")
    assert await tracker.call("GET k") == b"0"
    engine.freeze = True
    await writer.send("SET k 1")
    await engine.held(2)
    assert tracker.silent, "an invalidation tells of a write"
    await tracker.send("GET k")
    await other.send("SET k 2")
    await until(lambda: _held_at_least(engine, 3))
    assert tracker.silent
    await engine.thaw()
    assert await tracker.read() == Push([b"invalidate", [b"k"]])
    assert await tracker.read() == b"1"
    assert await tracker.read() == Push([b"invalidate", [b"k"]])


async def _held_at_least(engine: Engine, count: int) -> bool:
    return bool((await engine.status())["held-clients"] >= count)


async def test_tracking_by_prefix(engine: Engine) -> None:
    tracker = await engine.client(resp=3)
    await tracker.call("CLIENT TRACKING ON BCAST PREFIX k")
    writer = await engine.client()
    engine.freeze = True
    await writer.send("SET k1 1", "SET other 1")
    await engine.held(2)
    assert tracker.silent
    await engine.thaw()
    assert await tracker.read() == Push([b"invalidate", [b"k1"]])


async def test_tracking_redirected_to_a_resp2_connection(engine: Engine) -> None:
    target = await engine.client()
    target_id = await target.call("CLIENT ID")
    await target.call("SUBSCRIBE __redis__:invalidate")
    tracker = await engine.client()
    await tracker.call("CLIENT", "TRACKING", "ON", "REDIRECT", target_id)
    writer = await engine.client()
    await writer.call("SET k 0")
    await tracker.call("GET k")
    engine.freeze = True
    await writer.send("SET k 1")
    await engine.held(2)
    assert target.silent
    await engine.thaw()
    assert await target.read() == [b"message", b"__redis__:invalidate", [b"k"]]


async def test_flushing_invalidates_everything_once_it_commits(engine: Engine) -> None:
    tracker, writer = await engine.client(resp=3), await engine.client()
    await tracker.call("CLIENT TRACKING ON")
    await writer.call("SET k 0")
    await tracker.call("GET k")
    engine.freeze = True
    await writer.send("FLUSHALL")
    await engine.held(2)
    assert tracker.silent
    await engine.thaw()
    assert await tracker.read() == Push([b"invalidate", None])


async def test_expiry_is_a_unit_too(engine: Engine) -> None:
    await engine.call("CONFIG SET notify-keyspace-events Ex")
    listener = await _subscriber(engine, "PSUBSCRIBE __keyevent*")
    await engine.call("SET k 1 PX 60")
    engine.freeze = True
    await engine.held(1)  # the listener's event of the active expiry
    assert listener.silent
    await engine.thaw()
    assert (await listener.read())[3] == b"k"


async def test_monitor_and_debug_are_off(engine: Engine) -> None:
    for command in ("MONITOR", "DEBUG SLEEP 0", "DEBUG OBJECT k"):
        assert "NOPERM" in str(await engine.call(command))


async def test_a_message_does_not_carry_the_subscribers_own_reply_out(engine: Engine) -> None:
    """They share a block when both are made in one iteration of the event loop."""
    assert engine.process
    publisher = await engine.client()
    for i in range(10):
        subscriber = await _subscriber(engine, "SUBSCRIBE ch", resp=3)
        engine.freeze = True
        engine.process.send_signal(signal.SIGSTOP)
        for client, command in ((subscriber, f"SET k{i} 1"), (publisher, "PUBLISH ch m"))[
            :: 1 if i % 2 else -1
        ]:
            await client.send(command)
        engine.process.send_signal(signal.SIGCONT)
        assert await publisher.read() == 1
        await engine.held(1)
        assert b"+OK" not in subscriber.arrived()
        await engine.thaw()
        assert b"OK" in [await subscriber.read(), await subscriber.read()]
        subscriber.close()


async def test_waiting_messages_cost_nothing_to_others(programs: Path) -> None:
    """CPU time of GETs while one message, or 20,000, wait for the bus."""

    async def cost(messages: int) -> float:
        async with engines(programs) as ((engine,),):
            await engine.start()
            await engine.lead()
            publisher, reader = await engine.client(), await engine.client()
            engine.freeze = True
            await publisher.send("SET k 1", *["PUBLISH ch m"] * messages)
            await until(lambda: _bus(engine, messages))
            before = engine.cpu()
            for _ in range(20):
                await reader.send(*["GET other"] * 1000)
                for _ in range(1000):
                    assert await reader.read() is None
            return engine.cpu() - before

    assert await cost(20_000) < 2 * await cost(1) + 0.3


async def _bus(engine: Engine, count: int) -> bool:
    return (await engine.info())["txlog_held_bus_messages"] == str(count)
