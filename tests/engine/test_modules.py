"""Modules: replies made outside of the command, blocked clients, commands called from within."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engine.agent import Engine, engines, until


@pytest.fixture(scope="module")
def module(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled test module."""
    target = tmp_path_factory.mktemp("module") / "t.so"
    headers = next(p for p in (programs / "source" / "src", programs) if (p / "valkeymodule.h").is_file())
    source = Path(__file__).with_name("blocking.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-w", f"-I{headers}", str(source), "-o", str(target), "-lpthread"],
        check=True,
    )
    return target


@pytest.fixture(params=["1", "3"], ids=["io1", "io3"])
async def loaded(programs: Path, module: Path, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    async with engines(programs) as ((engine,),):
        await engine.start(io_threads=request.param, module=module)
        await engine.lead()
        yield engine


async def test_a_reply_from_a_thread(loaded: Engine) -> None:
    engine = loaded
    client, reader = await engine.client(), await engine.client()
    engine.freeze = True
    await client.send("t.later k v")
    await engine.held(1)
    await reader.send("GET k")
    await engine.held(2)
    assert client.silent
    assert reader.silent
    await engine.thaw()
    assert await client.read() == b"OK"
    assert await reader.read() == b"v"


async def test_a_client_blocked_on_a_key(loaded: Engine) -> None:
    engine = loaded
    client, writer = await engine.client(), await engine.client()
    await client.send("t.take k")
    await until(lambda: _blocked(engine, 1))
    engine.freeze = True
    await writer.send("RPUSH k v")
    await engine.held(2)
    assert client.silent
    await engine.thaw()
    assert await client.read() == b"v"
    assert await engine.call("EXISTS k") == 0
    await client.send("t.take k")
    await until(lambda: _blocked(engine, 1))
    await engine.lease(0.01)
    assert str(await client.read()).startswith("CLUSTERDOWN The lease")


async def _blocked(engine: Engine, count: int) -> bool:
    return (await engine.info("clients"))["blocked_clients"] == str(count)


async def test_a_command_that_calls_others(loaded: Engine) -> None:
    engine = loaded
    a, b = await engine.client(), await engine.client()
    await a.call("SET clean 1")
    engine.freeze = True
    await a.send("t.call SET k 1")
    await engine.held(1)
    await b.send("t.call GET k")
    await engine.held(2)
    assert a.silent
    assert b.silent
    assert await engine.call("t.call GET clean") == b"1"
    await engine.thaw()
    assert await a.read() == b"OK"
    assert await b.read() == b"1"
    for command in ("SHUTDOWN", "DEBUG SEGFAULT", "REPLICAOF NO ONE", "CONFIG SET save 1"):
        assert "NOPERM" in str(await engine.call(f"t.call {command}")), command
    await engine.lease(0.0)
    assert str(await engine.call("t.call GET k")).startswith("CLUSTERDOWN The lease")
