"""Eviction is a unit like any other, and its news too."""

from __future__ import annotations

import signal

from tests.engine.agent import Engine, until
from tests.engine.resp import Push


async def test_an_eviction_is_told_to_the_client_that_causes_it_once_it_commits(engine: Engine) -> None:
    client, filler = await engine.client(resp=3), await engine.client()
    await filler.call("CONFIG SET notify-keyspace-events KEA maxmemory-policy allkeys-random")
    for number in range(50):
        await filler.call("SET", f"{{t}}{number}", "x" * 20_000)
    await client.call("PSUBSCRIBE __keyevent*:evicted")
    memory = await engine.info("memory")
    limit = int(memory["used_memory"]) - int(memory["mem_not_counted_for_evict"]) + 300_000
    assert await filler.call("CONFIG", "SET", "maxmemory", limit) == b"OK"
    engine.freeze = True
    assert engine.process
    engine.process.send_signal(signal.SIGSTOP)  # so that no other command comes in between and evicts
    await filler.send(("SETRANGE", "{t}big", "900000", "x"))
    await client.send("GET {t}none", "GET {t}none")
    engine.process.send_signal(signal.SIGCONT)
    await until(lambda: _evicted(engine), what="keys are evicted")
    assert b"pmessage" not in client.arrived()
    await engine.thaw()
    assert any(isinstance(reply, Push) for reply in [await client.read() for _ in range(3)])


async def _evicted(engine: Engine) -> bool:
    return int((await engine.info("stats"))["evicted_keys"]) > 0
