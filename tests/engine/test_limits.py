"""Refusing what can't be made durable now; what time and memory do meanwhile; the cost of many who wait."""

from __future__ import annotations

import asyncio
import resource
import time
from pathlib import Path

import pytest
from tests.engine.agent import Engine, engines, until
from tests.engine.resp import Client, encode


async def test_the_uncommitted_limit(programs: Path) -> None:
    async with engines(programs) as ((engine,),):
        await engine.start(txlog_uncommitted_limit="10000")
        await engine.lead()
        client, other = await engine.client(), await engine.client()
        engine.freeze = True
        await client.send(("SET", "{t}big", "x" * 20000))
        await engine.held(1)
        for command in ("SET {t}a 1", "LPUSH {t}a 1"):
            assert str(await other.call(command)).startswith("TRYAGAIN The log is behind")
        assert "TRYAGAIN" in str(await other.call("EVAL", "return redis.call('set', KEYS[1], 1)", 1, "{t}a"))
        assert "TRYAGAIN" in str(await other.call("EVAL", "#!lua\nreturn 1", 0)), "it may write"
        assert await other.call("EVAL", "#!lua flags=no-writes\nreturn 1", 0) == 1
        await other.send("MULTI", "SET {t}a 1", "EXEC")
        replies = [str(await other.read()) for _ in range(3)]
        assert "TRYAGAIN" in replies[1]
        assert "EXECABORT" in replies[2]
        assert await other.call("GET {t}clean") is None, "reads go on"
        await engine.thaw()
        assert await client.read() == b"OK"
        assert await other.call("SET {t}a 1") == b"OK"
        assert int((await engine.info())["txlog_refused_limit"]) >= 5


async def test_a_transaction_that_was_queued_before_the_limit_is_refused_whole(programs: Path) -> None:
    async with engines(programs) as ((engine,),):
        await engine.start(txlog_uncommitted_limit="10000")
        await engine.lead()
        client, other = await engine.client(), await engine.client()
        await other.send("MULTI", "SET {t}a 1", "SET {t}b 1")
        assert [await other.read() for _ in range(3)][-1] == b"QUEUED"
        engine.freeze = True
        await client.send(("SET", "{t}big", "x" * 20000))
        await engine.held(1)
        assert "TRYAGAIN" in str(await other.call("EXEC"))
        await engine.thaw()
        assert await other.call("EXISTS {t}a {t}b") == 0


async def test_a_full_log(engine: Engine) -> None:
    await engine.call("SET k 1")
    assert await engine.txlog("WRITES", "no", "the log of shard 0 is full") == b"OK"
    assert str(await engine.call("SET k 2")) == "TXLOGFULL the log of shard 0 is full"
    script = "return redis.pcall('set', KEYS[1], 2)"
    assert "TXLOGFULL" in str(await engine.call("EVAL", script, 1, "k"))
    assert await engine.call("GET k") == b"1"
    assert (await engine.status())["writes"] is False
    assert await engine.txlog("WRITES", "yes") == b"OK"
    assert await engine.call("SET k 2") == b"OK"


async def test_a_script_that_has_begun_to_write_is_not_torn(programs: Path) -> None:
    async with engines(programs) as ((engine,),):
        await engine.start(txlog_uncommitted_limit="10000")
        await engine.lead()
        script = "for i = 1, 100 do redis.call('set', '{t}' .. i, string.rep('x', 1000)) end return 1"
        client = await engine.client()
        engine.freeze = True
        await client.send(("EVAL", script, 1, "{t}"))
        await engine.held(1)
        await engine.thaw()
        assert await client.read() == 1
        assert await engine.call("DBSIZE") == 100


@pytest.mark.parametrize("state", ["lapsed", "full"])
async def test_expiry_and_eviction_pause(engine: Engine, state: str) -> None:
    await engine.call("SET k 1 PX 150")
    if state == "lapsed":
        await engine.lease(0.01)
    else:
        await engine.txlog("WRITES", "no")
    before = (await engine.status())["offset"]
    await asyncio.sleep(0.4)
    assert (await engine.status())["offset"] == before, "a deletion would only add to what can't be committed"
    if state == "full":
        assert await engine.call("GET k") is None, "expired by the clock, not deleted"
        assert (await engine.status())["offset"] == before
        await engine.txlog("WRITES", "yes")
    else:
        await engine.lease(60)
    await until(lambda: _offset_beyond(engine, before), what="the deletion")


async def _offset_beyond(engine: Engine, offset: int) -> bool:
    return bool((await engine.status())["offset"] > offset)


async def test_above_the_limit_a_read_of_an_expired_key_waits_for_its_deletion(
    programs: Path,
) -> None:
    async with engines(programs) as ((engine,),):
        await engine.start(txlog_uncommitted_limit="10000")
        await engine.lead()
        await engine.call("SET k 1 PX 200")
        client, reader = await engine.client(), await engine.client()
        engine.freeze = True
        await client.send(("SET", "big", "x" * 20000))
        await engine.held(1)
        await asyncio.sleep(0.25)
        await reader.send("GET k")
        await engine.held(2)
        assert reader.silent
        await engine.thaw()
        assert await reader.read() is None


async def test_the_backlog_keeps_what_is_not_committed(engine: Engine) -> None:
    await engine.configure("repl-backlog-size", "16384")
    await engine.call("SET k 1")
    committed, replid = engine.committed, (await engine.status())["replid"]
    engine.freeze = True
    client = await engine.client()
    for _ in range(40):
        await client.send(("SET", "k", "x" * 50_000))
    end = await until(lambda: _offset_beyond(engine, committed + 2_000_000))
    await asyncio.sleep(0.3)
    _, answer = await engine.open_stream(1, replid, committed)
    assert answer.startswith(b"+CONTINUE"), (end, answer)


async def test_info_tells(engine: Engine) -> None:
    client = await engine.client()
    engine.freeze = True
    await client.send("SET k 1")
    await engine.held(1)
    info = await engine.info()
    assert (info["txlog_role"], info["txlog_epoch"], info["txlog_held_clients"]) == ("leader", "1", "1")
    assert int(info["txlog_uncommitted_bytes"]) > 0
    assert await engine.call("INFO keyspace"), "monitoring never waits"
    await asyncio.sleep(0.05)
    await engine.thaw()
    await client.read()
    info = await engine.info()
    assert info["txlog_uncommitted_bytes"] == "0"
    assert int(info["txlog_commit_usec_p99"]) >= 50_000
    assert "txlog_role" in await engine.info("everything")


async def test_latency_tells_of_slow_commits(engine: Engine) -> None:
    await engine.call("CONFIG SET latency-monitor-threshold 20")
    client = await engine.client()
    engine.freeze = True
    await client.send("SET k 1")
    await engine.held(1)
    await asyncio.sleep(0.05)
    await engine.thaw()
    await client.read()
    events = [entry[0] for entry in await engine.call("LATENCY LATEST")]
    assert b"txlog-commit" in events


async def test_releasing_one_costs_the_same_however_many_wait(programs: Path) -> None:
    """CPU time of 2,000 commits that release one reply each, while 100 or 8,000 clients wait on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    few, many = await _cost(programs, 100), await _cost(programs, min(8000, files - 500))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"CPU seconds of the engine: {few:.2f} with few waiting, {many:.2f} with many")
    assert many < 2 * few + 0.3, "a look at each waiting client per commit takes seconds"


async def _cost(programs: Path, waiting: int) -> float:
    async with engines(programs) as ((engine,),):
        await engine.start()
        await engine.lead()
        engine.freeze = True
        runner = await engine.client()
        for i in range(2000):  # First in the stream; the others wait for what is behind them.
            await runner.send(f"SET r{i:04} 1")
            if i % 100 == 0:  # so that they are not all replied to in one block
                await asyncio.sleep(0.001)
        await engine.held(1)
        others = [await Client.connect((engine.node.host, engine.node.port)) for _ in range(waiting)]
        for other in others:
            await other.send("SET o 1")
        await engine.held(waiting + 1)
        before = engine.cpu()
        for i in range(2000):
            await engine.ack(
                engine.start_offset + len(encode("SELECT", 0)) + (i + 1) * len(encode("SET", "r0000", 1))
            )
            await engine.ping()
        spent = engine.cpu() - before
        for other in others:
            other.close()
        return spent


async def test_replies_while_many_wait_are_released_together(any_io: Engine) -> None:
    engine = any_io
    clients = [await engine.client() for _ in range(500)]
    engine.freeze = True
    for i, client in enumerate(clients):
        await client.send(f"SET k{i} 1", f"GET k{i}")
    await engine.held(500)
    assert all(client.silent for client in clients)
    start = time.monotonic()
    await engine.thaw()
    for client in clients:
        assert [await client.read(), await client.read()] == [b"OK", b"1"]
    assert time.monotonic() - start < 10
