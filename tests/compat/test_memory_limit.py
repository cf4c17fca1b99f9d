"""maxmemory on this engine: what upstream's own tests of it check, but for the replication stream's buffer.

They compare used_memory itself with maxmemory (see skipped.toml); what eviction looks at is used_memory
without mem_not_counted_for_evict.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.compat.suite import HOLDING

import valkey
from memorycluster.valkey.build import build

ALL_KEYS = ["allkeys-random", "allkeys-lru", "allkeys-lfu"]
VOLATILE = ["volatile-random", "volatile-lru", "volatile-lfu", "volatile-ttl"]
ROOM = 200 * 1024
KEYS = 10_000  # of some 100 bytes each: several times more than there is room for
SLACK = 16 * 1024  # the buffers of the connection that asks


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    programs = asyncio.run(build(print))
    work = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    settings = [argument.replace("--config", "") for argument in HOLDING]
    pairs = zip(settings[1::3], settings[2::3], strict=True)
    socket = work / "socket"
    process = subprocess.Popen(
        [
            *(programs / "valkey-server", "--port", "0", "--unixsocket", socket, "--dir", work, "--save", ""),
            *(word for name, value in pairs for word in (f"--{name}", value)),
        ],
        stdout=subprocess.DEVNULL,
    )
    client: Any = valkey.Valkey(unix_socket_path=str(socket))
    try:
        _wait_for_answer(client)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait()
        shutil.rmtree(work)


def _wait_for_answer(client: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(valkey.exceptions.ConnectionError):
            client.ping()
            return
        assert time.monotonic() < deadline, "the engine does not answer"
        time.sleep(0.05)


def _counted(client: Any) -> int:
    memory = client.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_not_counted_for_evict"])


def _fill(client: Any) -> None:
    for i in range(KEYS):
        client.set(f"lasting:{i}", "x")


def _empty(client: Any, seconds: float = 30) -> None:
    """Delete all keys, and wait until their memory is free: a thread frees it, later on a busy machine."""
    client.config_set("maxmemory", 0)
    client.flushall()
    deadline = time.monotonic() + seconds
    while int(client.info("memory")["lazyfree_pending_objects"]):
        assert time.monotonic() < deadline, "the memory of what was flushed is not free"
        time.sleep(0.01)


def _limit(client: Any, policy: str) -> int:
    """Leave ROOM bytes above what is used now."""
    _empty(client)
    client.config_set("maxmemory-policy", policy)
    limit = _counted(client) + ROOM
    client.config_set("maxmemory", limit)
    return limit


@pytest.mark.parametrize("policy", ALL_KEYS + VOLATILE)
def test_eviction_keeps_the_limit(server: Any, policy: str) -> None:
    limit = _limit(server, policy)
    for i in range(100):
        server.set(f"lasting:{i}", "x")
    evicted = int(server.info("stats")["evicted_keys"])
    for i in range(KEYS):
        server.setex(f"passing:{i}", 10_000, "x")
    assert _counted(server) <= limit + SLACK
    assert int(server.info("stats")["evicted_keys"]) > evicted
    assert 100 < server.dbsize() < KEYS
    if policy in VOLATILE:
        assert server.exists(*(f"lasting:{i}" for i in range(100))) == 100


@pytest.mark.parametrize("policy", ["noeviction", *VOLATILE])
def test_without_anything_to_evict_writes_are_refused(server: Any, policy: str) -> None:
    limit = _limit(server, policy)
    with pytest.raises(valkey.exceptions.OutOfMemoryError):
        _fill(server)
    assert _counted(server) <= limit + SLACK
    assert server.get("lasting:0") == b"x"


def test_the_replication_buffer_evicts_nothing(server: Any) -> None:
    """What the log has yet to read comes on top of maxmemory: it must not push out anybody's keys."""
    _empty(server)
    server.set("kept", "x")
    server.config_set("maxmemory-policy", "allkeys-random")
    server.config_set("maxmemory", _counted(server) + ROOM)
    for _ in range(400):
        server.set("again", "x" * 10_000)  # 4 MB of stream, 10 KB of data
    assert int(server.info("memory")["mem_total_replication_buffers"]) > 10 * ROOM
    assert server.get("kept") == b"x"
