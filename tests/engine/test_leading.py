"""Who leads, and until when: promotion, the lease, the stream, and what ordinary clients are refused."""

from __future__ import annotations

import asyncio

import pytest
from tests.engine.agent import EMPTY_RDB, PASSWORD, REPLID, Engine, boottime, until
from tests.engine.resp import Client, encode

LAPSED = "CLUSTERDOWN The lease"


async def test_a_follower_boots_empty_and_serves_nothing_until_told(follower: Engine) -> None:
    engine = follower
    await until(engine._synced)
    assert engine.syncs == ["full"]
    status = await engine.status()
    assert (status["role"], status["epoch"], status["link"]) == ("follower", 0, "up")
    reader = await engine.client()
    await reader.call("READONLY")
    assert str(await reader.call("GET k")).startswith("LOADING")
    engine.log += encode("SELECT", 0) + encode("SET", "k", "v")
    await until(engine._synced)
    assert await engine.txlog("READS", "no", "because\r\nof a test") == b"OK"
    assert str(await reader.call("GET k")) == "LOADING because  of a test"
    assert await engine.txlog("READS", "yes") == b"OK"
    assert await reader.call("GET k") == b"v"
    assert "READONLY" in str(await reader.call("SET k w")) or "CLUSTERDOWN" in str(
        await reader.call("SET k w")
    )
    assert str(await engine.call("GET k")).startswith("CLUSTERDOWN"), (
        "not asked as a replica, nobody known to lead"
    )


async def test_promotion_is_exact(follower: Engine) -> None:
    engine = follower
    await until(engine._synced)
    engine.log += encode("SELECT", 0) + encode("SET", "k", "v")
    await until(engine._synced)
    end = len(engine.log)
    for wrong in (end - 1, end + 1, 0):
        assert "has applied offset" in str(await engine.txlog("PROMOTE", 3, wrong, 3072))
    assert "slot range" in str(await engine.txlog("PROMOTE", 3, end, 3072, 5, 16384))
    assert await engine.txlog("REVOKE", 3) == b"OK"
    assert "revoked" in str(await engine.txlog("PROMOTE", 3, end, 3072, 0, 16383))
    assert await engine.txlog("PROMOTE", 4, end, 4096, 0, 16383) == b"OK"
    assert "leads already" in str(await engine.txlog("PROMOTE", 5, end, 5120, 0, 16383))
    status = await engine.status()
    assert (status["role"], status["epoch"], status["offset"], status["committed"]) == ("leader", 4, end, end)
    assert str(await engine.call("GET k")).startswith(LAPSED), "no lease yet"
    assert "No lease for epoch 3" in str(await engine.txlog("LEASE", 3, boottime() + 10**7))
    assert await engine.txlog("LEASE", 4, boottime() + 10**7) == b"OK"
    assert await engine.call("GET k") == b"v"


async def test_a_promoted_engine_follows_nobody_any_more(engine: Engine) -> None:
    engine.drop_links()
    syncs = list(engine.syncs)
    assert await engine.call("SET k 1") == b"OK"
    await asyncio.sleep(0.3)
    assert engine.syncs == syncs
    assert (await engine.status())["role"] == "leader"


DATA = [
    "GET k",
    "SET k v",
    "KEYS *",
    "DBSIZE",
    "EVAL return(1) 0",
    "FCALL f 0",
    "FUNCTION LIST",
    "CLUSTER COUNTKEYSINSLOT 1",
    "BLPOP k 1",
    "SCAN 0",
    "SORT k",
]


async def test_nothing_but_errors_past_the_lease(engine: Engine) -> None:
    waiting, transaction = await engine.client(), await engine.client()
    await transaction.send("MULTI", "PING")
    assert [await transaction.read() for _ in range(2)] == [b"OK", b"QUEUED"]
    engine.freeze = True
    await waiting.send("SET held 1")
    await engine.held(1)
    await engine.lease(0.05)
    await asyncio.sleep(0.06)
    for command in DATA:
        assert LAPSED in str(await engine.call(command)), command
    assert "EXECABORT" in str(await transaction.call("EXEC")), "checked at EXEC"
    assert await engine.call("PING") == b"PONG"
    assert waiting.silent, "what was held stays held"
    await engine.thaw()
    assert await waiting.read() == b"OK", "and leaves when it commits"
    assert await engine.lease(60) == b"OK"
    assert await engine.call("GET held") == b"1", "a lapsed leader resumes with its memory"


async def test_a_revoke_is_sticky_for_its_epoch(engine: Engine) -> None:
    waiting = await engine.client()
    engine.freeze = True
    await waiting.send("SET k 1")
    await engine.held(1)
    assert await engine.txlog("REVOKE", 1) == b"OK"
    for command in DATA:
        assert LAPSED in str(await engine.call(command)), command
    assert "1 is revoked" in str(await engine.lease(60))
    assert (await engine.status())["lease"] == 0
    assert waiting.silent
    await engine.thaw()
    assert await waiting.read() == b"OK"


async def test_blocked_clients_are_sent_away_when_the_lease_is_gone(engine: Engine) -> None:
    clients = [await engine.client() for _ in range(3)]
    for client, command in zip(
        clients, ("BLPOP k 0", "BZPOPMIN z 0", "XREAD BLOCK 0 STREAMS s $"), strict=True
    ):
        await client.send(command)
    await until(lambda: _blocked(engine, 3))
    await engine.lease(0.01)
    for client in clients:
        assert str(await client.read()).startswith(LAPSED)


async def _blocked(engine: Engine, count: int) -> bool:
    return (await engine.info("clients"))["blocked_clients"] == str(count)


async def test_the_log_does_not_confirm_in_time(engine: Engine) -> None:
    assert await engine.call("GET k") is None
    await engine.configure("txlog-hold-timeout", "100")
    writer, subscriber = await engine.client(), await engine.client()
    del subscriber
    engine.freeze = True
    await writer.send("SET k 1", "GET k", "PING")
    await engine.held(1)
    await engine.lease(0.05)
    assert str(await writer.read()).startswith("UNCERTAIN")
    assert await writer.ended()
    await engine.thaw()
    await engine.lease(60)
    assert await engine.call("GET k") == b"1"


async def test_the_stream_is_for_the_agent_only_and_never_a_full_sync(engine: Engine) -> None:
    await engine.call("SET k 1")
    status = await engine.status()
    end, replid = status["offset"], status["replid"]
    _, answer = await engine.open_stream(2, replid, end)
    assert b"leads in epoch 1" in answer
    for asked, offset in ((replid, end + 1), ("?", -2), ("0" * 40, end), (REPLID, end)):
        _, answer = await engine.open_stream(1, asked, offset)
        assert answer.startswith(b"-NOCONTINUE"), (asked, offset, answer)
    other = await engine.client(path=True)
    assert "NOPERM" in str(await other.call("REPLCONF txlog-agent 1")), "the socket alone is not the agent"
    remote = await engine.client()
    assert await remote.call("AUTH", "txlog-agent", PASSWORD) == b"OK"
    assert "NOPERM" in str(await remote.call("PSYNC ? -1")), "nor is the password alone"
    assert "NOPERM" in str(await remote.call("TXLOG STATUS"))


async def test_the_agents_password_is_not_told(engine: Engine) -> None:
    everything = await engine.call("CONFIG GET *")
    assert PASSWORD.encode() not in everything
    assert await engine.call("CONFIG GET primaryauth") == [b"primaryauth", b""]
    assert PASSWORD.encode() not in await engine.call("CONFIG GET masterauth")


async def test_a_newer_stream_replaces_the_older_one_and_repeats_what_did_not_commit(engine: Engine) -> None:
    await engine.call("SET k 1")
    committed = engine.committed
    engine.freeze = True
    client = await engine.client()
    await client.send("SET k 2", "SET k 3")
    await engine.held(1)
    older = engine._stream
    assert older
    await engine.attach_stream(committed)
    await until(lambda: engine.received == committed + 2 * len(encode("SET", "k", "2")))
    assert engine.stream == encode("SET", "k", "2") + encode("SET", "k", "3")
    await until(lambda: _at_end(older))
    assert client.silent
    await engine.thaw()
    assert [await client.read(), await client.read()] == [b"OK", b"OK"]


async def _at_end(client: Client) -> bool:
    try:
        return client.sock.recv(1 << 20) == b""
    except BlockingIOError:
        return False


async def test_a_newer_control_channel_replaces_the_older_one(engine: Engine) -> None:
    older = engine.control
    assert older
    status = await engine.attach()
    assert status["role"] == "leader"
    assert await older.ended()
    await until(lambda: [status["offset"]] in engine.units, what="units after ATTACH")


async def test_units_end_where_the_stream_has_whole_units(engine: Engine) -> None:
    client = await engine.client()
    before = (await engine.status())["offset"]
    big = "x" * 50_000
    await client.send(
        *[("SET", f"{{t}}{i}", big) for i in range(20)], "MULTI", "SET {t}a 1", "SET {t}b 1", "EXEC"
    )
    for _ in range(24):
        await client.read()
    end = (await engine.status())["offset"]
    await until(lambda: engine.units and engine.units[-1][-1] == end)
    ends = [n for unit in engine.units for n in unit if n > before]
    assert ends == sorted(set(ends))
    whole, position = {before}, before
    if before == 0:
        position += len(encode("SELECT", 0))
    for i in range(20):
        position += len(encode("SET", f"{{t}}{i}", big))
        whole.add(position)
    whole.add(end)
    assert set(ends) <= whole
    assert all(b - a <= 64 * 1024 + 51_000 for a, b in zip([before, *ends], ends, strict=False))


REFUSED = [
    "TXLOG STATUS",
    "TXLOG ATTACH",
    "PSYNC ? -1",
    "SYNC",
    "REPLCONF ACK 1000000",
    "REPLICAOF NO ONE",
    "SLAVEOF 127.0.0.1 1",
    "FAILOVER",
    "SHUTDOWN NOSAVE",
    "DEBUG SEGFAULT",
    "MONITOR",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "MIGRATE 127.0.0.1 1 k 0 1000",
    "MODULE LOAD /x",
    "MODULE LOADEX /x",
    "MODULE UNLOAD x",
    "SCRIPT DEBUG YES",
    "CLUSTER MEET 127.0.0.1 1",
    "CLUSTER FAILOVER TAKEOVER",
    "CLUSTER RESET HARD",
    "CLUSTER ADDSLOTS 1",
    "CLUSTER DELSLOTS 1",
    "CLUSTER SETSLOT 1 STABLE",
    "CLUSTER REPLICATE x",
    "CLUSTER FORGET x",
    "CLUSTER BUMPEPOCH",
    "CLUSTER SET-CONFIG-EPOCH 1",
    "CLUSTER FLUSHSLOTS",
    "CLUSTER MIGRATESLOTS SLOTSRANGE 0 1 NODE x",
    "CONFIG SET txlog-uncommitted-limit 1",
    "CONFIG SET maxmemory 0 slave-read-only no",
    "CONFIG SET repl-backlog-ttl 1",
    "CONFIG SET save 1",
    "CONFIG SET appendonly yes",
    "ACL SETUSER txlog-agent nopass",
    "ACL DELUSER txlog-agent",
]


@pytest.mark.parametrize("way", ["plain", "socket", "multi", "script"])
async def test_what_ordinary_clients_are_refused(engine: Engine, way: str) -> None:
    client = await engine.client(path=way == "socket")
    for command in REFUSED:
        if way == "multi":
            await client.send("MULTI", command, "EXEC")
            replies = [await client.read() for _ in range(3)]
            reply = str(replies[1]) + str(replies[2])
        elif way == "script":
            code = "return redis.call(unpack(ARGV))"
            reply = str(await client.call("EVAL", code, 0, *command.split()))
        else:
            reply = str(await client.call(command))
        assert "NOPERM" in reply or "not allowed" in reply or "from script" in reply, (command, reply)
    assert (await engine.status())["role"] == "leader"
    assert await client.call("CONFIG SET maxmemory-policy allkeys-lru") == b"OK"
    assert await client.call("ACL SETUSER somebody on nopass +@read ~*") == b"OK"


async def test_the_agent_may_pause_nothing_but_is_not_paused(engine: Engine) -> None:
    assert await engine.call("CLIENT PAUSE 2000 ALL") == b"OK"
    assert (await engine.status())["role"] == "leader"
    assert await engine.lease(60) == b"OK"


async def test_a_busy_script_lets_the_agent_in(engine: Engine) -> None:
    client = await engine.client()
    await engine.configure("busy-reply-threshold", "20")
    await client.send(("EVAL", "while true do end", 0))
    await asyncio.sleep(0.1)
    assert (await engine.status())["role"] == "leader"
    assert await engine.lease(60) == b"OK"
    assert await engine.call("SCRIPT KILL") == b"OK"
    assert "killed" in str(await client.read())


async def test_wait_counts_the_log_as_one_replica(engine: Engine) -> None:
    client = await engine.client()
    engine.freeze = True
    await client.send("SET k 1", "WAIT 1 0")
    await engine.held(1)
    assert client.silent
    await engine.thaw()
    assert [await client.read(), await client.read()] == [b"OK", 1]
    assert await client.call("WAITAOF 0 1 0") == [0, 1]
    before = (await engine.status())["offset"]
    assert await client.call("WAIT 1 0") == 1
    assert (await engine.status())["offset"] == before, "no GETACK in the stream"


async def test_shutdown_by_the_agent(engine: Engine) -> None:
    client, control = await engine.client(), engine.control
    assert control
    engine.freeze = True
    await client.send("SET k 1")
    await engine.held(1)
    await control.send("SHUTDOWN NOSAVE NOW FORCE")
    assert await client.ended(), "no held reply leaves a demoted engine"
    assert engine.process
    assert await asyncio.wait_for(engine.process.wait(), 10) == 0


async def test_a_follower_resumes_its_link(follower: Engine) -> None:
    engine = follower
    await until(engine._synced)
    engine.log += encode("SELECT", 0) + encode("SET", "a", "1")
    await until(engine._synced)
    engine.drop_links()
    engine.log += encode("SET", "b", "2")
    await until(engine._synced)
    assert engine.syncs == ["full", "continue"]
    assert EMPTY_RDB


async def test_others_can_not_close_the_agents_connections(engine: Engine) -> None:
    victim = await engine.client()
    assert await victim.call("PING") == b"PONG"
    killer = await engine.client()
    spared = ["TYPE replica", "USER txlog-agent", "TYPE master"]
    for what in spared:
        assert await killer.call(f"CLIENT KILL {what}") == 0, what
    assert await killer.call("CLIENT KILL TYPE normal SKIPME yes") >= 1
    assert await victim.ended()
    assert (await engine.status())["role"] == "leader"
    assert await engine.call("SET k 1") == b"OK", "the stream is attached still"


async def test_a_new_agent_attaches_while_clients_are_paused(engine: Engine) -> None:
    await engine.call("SET k 1")
    assert await engine.call("CLIENT PAUSE 3000 ALL") == b"OK"
    assert (await asyncio.wait_for(engine.attach(), 1))["role"] == "leader"
    await asyncio.wait_for(engine.attach_stream(engine.committed), 1)


async def test_giving_up_on_a_client_whose_script_runs(engine: Engine) -> None:
    await engine.configure("txlog-hold-timeout", "50")
    await engine.configure("busy-reply-threshold", "20")
    client = await engine.client()
    engine.freeze = True
    await client.send("SET {t}a 1")
    await engine.held(1)
    await client.send(("EVAL", "while true do end", 0))
    await asyncio.sleep(0.1)
    await engine.lease(0.01)
    await asyncio.sleep(0.3)
    assert await engine.call("SCRIPT KILL") == b"OK"
    assert str(await client.read()).startswith("UNCERTAIN")
    assert await client.ended()
    await engine.lease(60)
    await engine.thaw()
    assert await engine.call("GET {t}a") == b"1"
