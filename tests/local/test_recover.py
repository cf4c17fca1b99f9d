"""The log loses what was acknowledged: the shard freezes, and `memorycluster recover` puts it back."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
import redis
from tests.local.harness import Cluster, until

LOST = 300


@pytest.fixture
def cluster(directory: Any) -> Iterator[Cluster]:
    made = Cluster(directory, name="lost", zones=1, replicasPerShard=1, failover={"lease": "1s"})
    try:
        made.start()
        yield made
    finally:
        made.end()


def nodes(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in cluster.status()["shards"][0]["nodes"]}


@contextmanager
def a_log_that_forgets(cluster: Cluster) -> Iterator[None]:
    """Let the log's only server go back to what it had on disk when this began."""
    store = next((cluster.data / "log").iterdir()) / "store"
    kept = store.with_name("kept")
    (server,) = cluster.processes("server.conf")
    server.send_signal(signal.SIGSTOP)
    shutil.copytree(store, kept)
    server.send_signal(signal.SIGCONT)
    yield
    supervisor = cluster.supervisor()
    supervisor.send_signal(signal.SIGSTOP)  # It must not start the server again before that has forgotten.
    server.kill()
    until(lambda: not any(map(alive, cluster.processes("server.conf"))), "the log server is gone")
    shutil.rmtree(store)
    kept.rename(store)
    supervisor.send_signal(signal.SIGCONT)


def process(cluster: Cluster, node: str, part: str) -> psutil.Process:
    return next(each for each in cluster.processes(node) if part in " ".join(each.cmdline()))


def alive(process: Any) -> bool:
    return bool(process.status() != "zombie")


def trim(cluster: Cluster, client: Any) -> None:
    """Have snapshots taken, and the log trimmed behind them."""

    def trimmed() -> bool:
        return bool(cluster.status()["shards"][0]["log"]["firstSequence"] > 2)

    for number in range(3):
        assert client.set(f"snapshot:{number}", "1")
        cluster.succeed("snapshot", "--data-dir", str(cluster.data))
    until(trimmed, "the log is trimmed")


@pytest.mark.parametrize("trimmed", [False, True])
def test_what_the_log_has_lost_is_put_back(cluster: Cluster, trimmed: bool) -> None:
    shard = cluster.ready()["shards"][0]
    leader = shard["primary"]
    port = int(nodes(cluster)[leader]["endpoint"].rpartition(":")[2])
    with redis.Redis("127.0.0.1", port) as client:
        assert client.set("before", "1")
        if trimmed:
            trim(cluster, client)
        with a_log_that_forgets(cluster):
            for number in range(LOST):
                assert client.set(f"lost:{number}", os.urandom(2000))
            digest = {f"lost:{number}": client.get(f"lost:{number}") for number in range(LOST)}
    until(lambda: nodes(cluster)[leader]["role"] == "frozen", "the leader freezes")
    assert f"memorycluster recover {0}" in cluster.succeed("status", "--data-dir", str(cluster.data))

    engine = process(cluster, leader, "valkey-server")
    for _ in range(2):  # Whoever comes after a frozen agent is frozen, too, and knows as much.
        killed = process(cluster, leader, "memorycluster.agent")
        killed.kill()
        killed.wait(30)
        until(lambda: nodes(cluster)[leader]["role"] == "frozen", "its successor is frozen")
        assert engine.is_running()

    refused = cluster.command("stop", "--data-dir", str(cluster.data))
    assert refused.returncode == 2
    assert f"{leader} holds, in memory alone" in refused.stderr

    asked = ("recover", "0", "--data-dir", str(cluster.data))
    shown = cluster.succeed(*asked)
    assert "it can put back" in shown
    assert "--yes" in shown
    assert nodes(cluster)[leader]["role"] == "frozen", "nothing is done unless it is asked for"

    assert f"{leader}: has put back" in cluster.succeed(*asked, "--yes")
    until(lambda: cluster.status()["phase"] == "Ready", "it serves again, and all follow")
    for node in nodes(cluster).values():
        with redis.Redis("127.0.0.1", int(node["endpoint"].rpartition(":")[2])) as client:
            with suppress(redis.ResponseError):
                client.readonly()
            assert client.get("before") == b"1"
            assert {key: client.get(key) for key in digest} == digest
    assert "no node is frozen" in cluster.succeed(*asked, "--yes")
    cluster.stop()
