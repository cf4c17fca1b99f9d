"""No client learns of an effect before the log has it. ``held(n)``: the engine says that n clients wait."""

from __future__ import annotations

import asyncio

import pytest
from tests.engine.agent import Engine, until


async def test_a_pipeline_is_released_in_order(any_io: Engine) -> None:
    engine = any_io
    a, b = await engine.client(), await engine.client()
    await a.call("SET clean 1")
    engine.freeze = True
    await a.send("SET k 1", "GET clean", "PING")
    await engine.held(1)
    assert a.silent
    assert await b.call("GET clean") == b"1", "an unrelated read does not wait"
    await b.send("PING", "GET clean", "GET k", "GET clean")
    await engine.held(2)
    assert [await b.read(), await b.read()] == [b"PONG", b"1"], (
        "what comes before a dirty read leaves at once"
    )
    assert b.silent
    await engine.thaw()
    assert [await a.read() for _ in range(3)] == [b"OK", b"1", b"PONG"]
    assert [await b.read() for _ in range(2)] == [b"1", b"1"]


async def test_release_is_exact(any_io: Engine) -> None:
    engine = any_io
    engine.freeze = True
    offsets, clients = [], []
    for i in range(20):
        client = await engine.client()
        await client.send(f"SET k{i} v")
        await engine.held(i + 1)
        offsets.append((await engine.status())["offset"])
        clients.append(client)
    for i, client in enumerate(clients):
        await engine.ack(offsets[i] - 1)
        assert (await engine.status())["held-clients"] == 20 - i, "an offset inside a unit releases nothing"
        assert client.silent
        await engine.ack(offsets[i])
        assert await client.read() == b"OK"
        assert all(later.silent for later in clients[i + 1 :])
        await engine.held(19 - i)


async def test_one_client_is_released_piece_by_piece(any_io: Engine) -> None:
    engine = any_io
    engine.freeze = True
    client = await engine.client()
    offsets = []
    for i in range(10):
        await client.send(f"INCR n{i % 2}")
        before = offsets[-1] if offsets else 0
        offsets.append(await until(lambda b=before: _beyond(engine, b)))
    for i, offset in enumerate(offsets):
        await engine.ack(offset)
        assert await client.read() == i // 2 + 1
        assert client.silent


async def _beyond(engine: Engine, offset: int) -> int:
    now = int((await engine.status())["offset"])
    return now if now > offset else 0


async def test_an_open_loop_pipeline_does_not_starve(any_io: Engine) -> None:
    engine = any_io
    engine.delay = 0.003
    client = await engine.client()
    answered = 0
    for i in range(300):
        await client.send(f"SET s {i}")
        await asyncio.sleep(0.001)
        while not client.silent:
            await client.read()
            answered += 1
    assert answered > 200
    for _ in range(300 - answered):
        assert await client.read() == b"OK"


async def test_multi(any_io: Engine) -> None:
    engine = any_io
    client, other = await engine.client(), await engine.client()
    await client.call("SET {t}clean 1")
    engine.freeze = True
    await client.send("MULTI", "SET {t}k 2", "GET {t}clean", "EXEC")
    await engine.held(1)
    assert [await client.read() for _ in range(3)] == [b"OK", b"QUEUED", b"QUEUED"]
    assert client.silent
    await other.send("MULTI", "GET {t}clean", "GET {t}k", "EXEC")
    await engine.held(2)
    assert [await other.read() for _ in range(3)] == [b"OK", b"QUEUED", b"QUEUED"]
    assert other.silent
    assert await engine.call("GET {t}clean") == b"1"
    await engine.thaw()
    assert await client.read() == [b"OK", b"1"]
    assert await other.read() == [b"1", b"2"]


async def test_a_transaction_is_one_unit(engine: Engine) -> None:
    client = await engine.client()
    await client.call("SET {t}x 0")
    engine.freeze = True
    await client.send("MULTI", "SET {t}a 1", "SET {t}b 1", "EXEC")
    await engine.held(1)
    end = (await engine.status())["offset"]
    body = engine.stream[engine.committed - engine.start_offset :]
    assert body.startswith(b"*1\r\n$5\r\nMULTI")
    assert body.endswith(b"EXEC\r\n")
    await engine.ack(end - 1)
    assert (await engine.status())["held-clients"] == 1
    await engine.ack(end)
    assert [await client.read() for _ in range(4)][-1] == [b"OK", b"OK"]


@pytest.mark.parametrize("aborted", [True, False])
async def test_watch(engine: Engine, *, aborted: bool) -> None:
    client, other = await engine.client(), await engine.client()
    await client.call("SET k 0")
    await client.call("WATCH k")
    engine.freeze = True
    await other.send("SET k 1" if aborted else "SET other 1")
    await engine.held(1)
    await client.send("MULTI", "PING", "EXEC")
    if aborted:
        await engine.held(2)
    assert [await client.read() for _ in range(2)] == [b"OK", b"QUEUED"]
    if not aborted:
        assert await client.read() == [b"PONG"]
        return
    assert client.silent, "the nil of EXEC tells of a write that is not committed"
    await engine.thaw()
    assert await client.read() is None


async def test_scripts(any_io: Engine) -> None:
    engine = any_io
    writer, reader, clean = [await engine.client() for _ in range(3)]
    await writer.call("SET {t}clean 1")
    engine.freeze = True
    write = "redis.call('set', KEYS[1], '3') return redis.call('get', KEYS[1])"
    await writer.send(("EVAL", write, 1, "{t}k"))
    await engine.held(1)
    assert writer.silent
    read = "return redis.call('get', KEYS[1])"
    await reader.send(("EVAL_RO", read, 1, "{t}k"))
    await engine.held(2)
    assert reader.silent
    assert await clean.call("EVAL", read, 1, "{t}clean") == b"1"
    undeclared = await engine.client()
    await undeclared.send(("EVAL", "#!lua flags=allow-cross-slot-keys\nreturn redis.call('get', '{t}k')", 0))
    await engine.held(3)
    assert undeclared.silent
    await engine.thaw()
    assert await writer.read() == b"3"
    assert await reader.read() == b"3"
    assert await undeclared.read() == b"3"


async def test_functions(engine: Engine) -> None:
    client, reader, lister, clean = [await engine.client() for _ in range(4)]
    code = (
        "#!lua name=lib\n"
        "server.register_function('put', function(k, a) return server.call('set', k[1], a[1]) end)\n"
        "server.register_function{function_name='look', flags={'no-writes'},"
        " callback=function(k) return server.call('get', k[1]) end}"
    )
    await client.call("SET {t}clean 1")
    engine.freeze = True
    await client.send(("FUNCTION", "LOAD", code))
    await engine.held(1)
    await lister.send("FUNCTION LIST")
    await engine.held(2)
    assert client.silent
    assert lister.silent
    await engine.thaw()
    assert await client.read() == b"lib"
    assert len(await lister.read()) == 1
    engine.freeze = True
    await client.send(("FCALL", "put", 1, "{t}k", "v"))
    await engine.held(1)
    await reader.send(("FCALL_RO", "look", 1, "{t}k"))
    await engine.held(2)
    assert client.silent
    assert reader.silent
    assert await clean.call("FCALL_RO", "look", 1, "{t}clean") == b"1"
    await engine.thaw()
    assert await client.read() == b"OK"
    assert await reader.read() == b"v"


@pytest.mark.parametrize(
    ("setup", "write", "read", "reply"),
    [
        ((), "SET k 1", "SETNX k 9", 0),
        ((), "SET k 1", "EXISTS k", 1),
        ((), "SET k 1", "TYPE k", b"string"),
        ((), "SET k 1", "TTL k", -1),
        ((), "SET k 1", "OBJECT ENCODING k", b"int"),
        ((), "SET k 1", "MEMORY USAGE k", ...),
        ((), "SET k 1", "DUMP k", ...),
        ((), "SET k 1", "RANDOMKEY", b"k"),
        ((), "SET k 1", "DBSIZE", 1),
        ((), "SET k 1", "KEYS *", [b"k"]),
        ((), "SET k 1", "SCAN 0", ...),
        ((), "SET k 1", "CLUSTER COUNTKEYSINSLOT 7629", 1),
        ((), "SET k 1", "CLUSTER GETKEYSINSLOT 7629 10", [b"k"]),
        ((), "SET {k}w_1 1", "SORT {k}none BY {k}w_*", []),
        (
            ("RPUSH {k}l a b", "SET {k}w_a 2", "SET {k}w_b 1"),
            "SET {k}w_a 0",
            "SORT {k}l BY {k}w_* ALPHA",
            [b"a", b"b"],
        ),
        (("SET {k}a 1",), "COPY {k}a {k}b", "GET {k}b", b"1"),
        (("SET {k}a 1",), "RENAME {k}a {k}b", "EXISTS {k}a", 0),
        (("RPUSH {k}a 3 1 2",), "SORT {k}a STORE {k}b", "LRANGE {k}b 0 -1", [b"1", b"2", b"3"]),
        (
            ("GEOADD {k}g 13 38 p",),
            "GEOSEARCHSTORE {k}d {k}g FROMLONLAT 13 38 BYRADIUS 9 km",
            "ZCARD {k}d",
            1,
        ),
        (("SADD {k}a 1", "SADD {k}b 1"), "SINTERSTORE {k}c {k}a {k}b", "SMEMBERS {k}c", [b"1"]),
        (("SET k 1",), "FLUSHALL", "GET k", None),
        (("SET k 1",), "FLUSHALL", "GET unrelated", None),
        (("XGROUP CREATE k g $ MKSTREAM",), "XADD k 1-1 f v", "XLEN k", 1),
        (
            ("XGROUP CREATE k g 0 MKSTREAM", "XADD k 1-1 f v"),
            "XREADGROUP GROUP g c STREAMS k >",
            "XPENDING k g",
            ...,
        ),
        (("SADD k a",), "SPOP k", "SCARD k", 0),
        (("HSET k f v",), "HEXPIRE k 100 FIELDS 1 f", "HTTL k FIELDS 1 f", ...),
        (("SET k 1",), "EXPIRE k 100", "TTL k", ...),
    ],
)
async def test_reads_that_depend_on_a_write(
    engine: Engine, setup: tuple[str, ...], write: str, read: str, reply: object
) -> None:
    a, b = await engine.client(), await engine.client()
    for command in setup:
        await a.call(command)
    engine.freeze = True
    await a.send(write)
    await engine.held(1)
    await b.send(read)
    await engine.held(2)
    assert a.silent
    assert b.silent
    await engine.thaw()
    await a.read()
    answer = await b.read()
    assert reply is ... or answer == reply


async def test_blocked_clients(any_io: Engine) -> None:
    engine = any_io
    a, b, c = [await engine.client() for _ in range(3)]
    await a.call("XGROUP CREATE st g $ MKSTREAM")
    await b.send("BLPOP L 0")
    await c.send("XREADGROUP GROUP g c BLOCK 0 STREAMS st >")
    await until(lambda: _blocked(engine, 2))
    engine.freeze = True
    await a.send("RPUSH L v")
    await engine.held(2)
    assert b.silent, "what BLPOP got was pushed by an uncommitted write"
    await a.send("XADD st 1-1 f v")
    await engine.held(3)
    assert c.silent
    await engine.thaw()
    assert await a.read() == 1
    assert await b.read() == [b"L", b"v"]
    assert await a.read() == b"1-1"
    assert (await c.read())[0][0] == b"st"


async def _blocked(engine: Engine, count: int) -> bool:
    return (await engine.info("clients"))["blocked_clients"] == str(count)


async def test_quit_and_half_close(any_io: Engine) -> None:
    engine = any_io
    engine.freeze = True
    a, b = await engine.client(), await engine.client()
    await a.send("SET k 1", "QUIT")
    await engine.held(1)
    await b.send("SET k 2")
    await engine.held(2)
    b.sock.shutdown(1)
    await asyncio.sleep(0.1)
    assert (await engine.status())["held-clients"] == 2
    await engine.thaw()
    assert [await a.read(), await a.read()] == [b"OK", b"OK"]
    assert await a.ended()
    assert await b.read() == b"OK"
    assert await b.ended()


async def test_reply_off_and_skip(engine: Engine) -> None:
    client = await engine.client()
    engine.freeze = True
    await client.send("CLIENT REPLY OFF", "SET k 1", "GET k", "CLIENT REPLY ON")
    assert await client.read() == b"OK"
    await client.send("CLIENT REPLY SKIP", "SET k 2", "GET k")
    await engine.held(1)
    assert client.silent
    await engine.thaw()
    assert await client.read() == b"2"
    assert client.silent


async def test_killed_while_waiting(any_io: Engine) -> None:
    engine = any_io
    engine.freeze = True
    a, b, c = [await engine.client() for _ in range(3)]
    name, gone = await b.call("CLIENT ID"), await a.call("CLIENT ID")
    for i, client in enumerate((a, b, c)):
        await client.send(f"SET k{i} 1")
        await engine.held(i + 1)
    assert await engine.call("CLIENT", "KILL", "ID", name) == 1
    assert await b.ended()
    a.close()  # It may have shut down its sending side only: it stays until its reply has left.
    await engine.held(2)
    await engine.thaw()
    assert await c.read() == b"OK"
    await until(lambda: _gone(engine, gone), what="the closed connection is freed")


async def _gone(engine: Engine, client_id: int) -> bool:
    return not await engine.call("CLIENT", "LIST", "ID", client_id)


async def test_held_bytes_count_for_output_limits(engine: Engine) -> None:
    client = await engine.client()
    await client.call("SET", "k", "x" * 100_000)
    assert await client.call("CONFIG SET maxmemory-clients 0") == b"OK"
    engine.freeze = True
    await client.send("APPEND k y")
    await engine.held(1)
    await client.send(*["GET k"] * 20)
    status = await until(lambda: _held_bytes(engine, 2_000_000))
    assert status["held-bytes"] > 2_000_000
    for line in (await engine.call("CLIENT LIST")).decode().splitlines():
        fields = dict(part.split("=", 1) for part in line.split())
        if fields["cmd"] == "get":
            assert int(fields["omem"]) > 2_000_000
    assert await engine.call("CONFIG SET maxmemory-clients 1mb") == b"OK"
    assert await client.ended(), "a client whose held replies are too big is evicted as any other"


async def _held_bytes(engine: Engine, at_least: int) -> dict[str, object] | None:
    status = await engine.status()
    return status if status["held-bytes"] >= at_least else None


async def test_big_replies(any_io: Engine) -> None:
    engine = any_io
    a, b = await engine.client(), await engine.client()
    await a.call("RPUSH", "big", *("x" * 100 for _ in range(5000)))
    engine.freeze = True
    await a.send("RPUSH big z")
    await b.send("LRANGE big 0 -1", "HGETALL none", "LRANGE big 0 -1")
    await engine.held(2)
    assert b.silent
    await engine.thaw()
    first, _, second = [await b.read() for _ in range(3)]
    assert first == second
    assert len(first) == 5001


async def test_a_read_that_meets_an_expired_key_waits_for_its_deletion(any_io: Engine) -> None:
    engine = any_io
    a, b, c = [await engine.client() for _ in range(3)]
    await a.call("XADD {e}s 1-1 f v")
    await a.call("SET {e}x v")
    await a.send("MULTI", *[f"SET {{e}}{i} 1 PX 30" for i in range(2)], "EXEC")
    for _ in range(4):
        await a.read()
    await a.send("MULTI", "XADD {e}2 1-1 f v", "PEXPIRE {e}2 30", "EXEC")
    for _ in range(4):
        await a.read()
    engine.freeze = True
    deadline = asyncio.get_running_loop().time() + 0.031
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.001)
    # Whoever comes first, these or the active cycle: nobody gets a reply before the deletions commit.
    await a.send("GET {e}0")
    await b.send("MGET {e}x {e}1 {e}x")
    await c.send("XREAD STREAMS {e}s {e}2 0 0")
    await engine.held(3)
    assert a.silent
    assert c.silent
    await engine.thaw()
    assert await a.read() is None
    assert await b.read() == [b"v", None, b"v"]
    assert await c.read() == [[b"{e}s", [[b"1-1", [b"f", b"v"]]]]]


async def test_a_script_can_not_keep_a_write_from_the_log(engine: Engine) -> None:
    client = await engine.client()
    engine.freeze = True
    code = "redis.set_repl(redis.REPL_NONE) return redis.call('set', KEYS[1], 'v')"
    await client.send(("EVAL", code, 1, "k"))
    await engine.held(1)
    await engine.thaw()
    assert await client.read() == b"OK"
    assert engine.stream.endswith(b"$3\r\nset\r\n$1\r\nk\r\n$1\r\nv\r\n")


@pytest.mark.parametrize("way", ["timeout", "unblock"])
async def test_the_nil_of_a_client_that_was_blocked_in_vain(engine: Engine, way: str) -> None:
    a, b = await engine.client(), await engine.client()
    await a.call("RPUSH k v")
    b_id = await b.call("CLIENT ID")
    engine.freeze = True
    await a.send("LPOP k")
    await engine.held(1)
    await b.send("BLPOP k 0.05" if way == "timeout" else "BLPOP k 0")
    await until(lambda: _blocked(engine, 1))
    if way == "unblock":
        assert await engine.call("CLIENT", "UNBLOCK", b_id, "TIMEOUT") == 1
    await engine.held(2)
    assert b.silent, "the list is empty only because of an uncommitted write"
    await engine.thaw()
    assert await b.read() is None
    assert await a.read() == b"v"


async def test_the_code_of_a_function_is_data_too(engine: Engine) -> None:
    a, b = await engine.client(), await engine.client()
    code = (
        "#!lua name=lib\nserver.register_function"
        "{function_name='f', flags={'no-writes'}, callback=function() return 7 end}"
    )
    engine.freeze = True
    await a.send(("FUNCTION", "LOAD", code))
    await engine.held(1)
    await b.send("FCALL f 0")
    await engine.held(2)
    assert b.silent
    await engine.thaw()
    assert await b.read() == 7
    engine.freeze = True
    await a.send("FUNCTION FLUSH")
    await engine.held(1)
    await b.send("FCALL_RO f 0")
    await engine.held(2)
    assert b.silent
