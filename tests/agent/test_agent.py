"""The agent between a real engine and a real log: what its machine decides, as processes do it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import redis
import yaml
from tests.local.harness import Cluster, short_directory, until

from memorycluster.log.wire import Link

LEASE = 2.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with short_directory() as directory:
        made = Cluster(
            directory, name="agent", zones=1, replicasPerShard=1, failover={"lease": f"{LEASE:g}s"}
        )
        try:
            made.start()
            yield made
            made.stop()
        finally:
            made.end()


def port_of(cluster: Cluster, node: str) -> int:
    endpoints = {each["name"]: each["endpoint"] for each in cluster.ready()["shards"][0]["nodes"]}
    return int(endpoints[node].rpartition(":")[2])


def primary(cluster: Cluster) -> str:
    return str(cluster.ready()["shards"][0]["primary"])


def replica(cluster: Cluster) -> str:
    shard = cluster.ready()["shards"][0]
    return next(node["name"] for node in shard["nodes"] if node["name"] != shard["primary"])


def connect(cluster: Cluster, node: str) -> redis.Redis:
    return redis.Redis("127.0.0.1", port_of(cluster, node), socket_timeout=30)


def process(cluster: Cluster, node: str, part: str) -> psutil.Process:
    return next(each for each in cluster.processes(node) if part in " ".join(each.cmdline()))


def agent_log(cluster: Cluster, node: str) -> str:
    return (Path(cluster.data) / "nodes" / node / "agent.log").read_text()


def suppress_errors(call: Callable[[], object]) -> None:
    with suppress(redis.RedisError):
        call()


def value(size: int) -> bytes:
    return (b"%016x" % size) * (size // 16)


def test_a_value_larger_than_many_records_survives_a_failover(cluster: Cluster) -> None:
    big = value(20 << 20)
    with connect(cluster, primary(cluster)) as client:
        assert client.set("big", big)
    before = primary(cluster)
    cluster.succeed("failover", "0", "--data-dir", str(cluster.data))
    assert primary(cluster) != before
    with connect(cluster, primary(cluster)) as client:
        assert client.get("big") == big
        assert client.delete("big")


def test_a_unit_torn_by_a_death_is_nowhere_or_everywhere(cluster: Cluster) -> None:
    """Both processes of the leader die while a unit of many records is being appended."""
    leader = primary(cluster)
    agent, engine = process(cluster, leader, "memorycluster.agent"), process(cluster, leader, "valkey-server")
    with connect(cluster, leader) as client, connect(cluster, leader) as watcher:
        client.set("torn", "old")
        writing = Thread(target=lambda: suppress_errors(lambda: client.set("torn", value(48 << 20))))
        writing.start()
        until(lambda: watcher.info("txlog")["txlog_uncommitted_bytes"] > 1 << 20, "the unit is under way")
        agent.kill()
        engine.kill()
        writing.join()
    until(lambda: cluster.status()["shards"][0]["primary"] not in (None, leader), "another primary")
    with connect(cluster, primary(cluster)) as client:
        assert client.get("torn") in (b"old", value(48 << 20))
        assert client.set("after", "1")
        seen = client.get("torn")
    with connect(cluster, replica(cluster)) as client:
        client.readonly()
        assert client.get("torn") == seen
        assert client.get("after") == b"1"


def test_a_restarted_agent_of_a_follower_resumes_without_a_full_sync(cluster: Cluster) -> None:
    follower = replica(cluster)
    with connect(cluster, primary(cluster)) as client:
        client.set("resumed", "1")
    full_syncs = agent_log(cluster, follower).count("full sync")
    engine = process(cluster, follower, "valkey-server").pid
    process(cluster, follower, "memorycluster.agent").kill()
    until(lambda: re.search(r"resumes at offset \d+", agent_log(cluster, follower)), "the engine resumes")
    with connect(cluster, primary(cluster)) as client:
        client.set("resumed", "2")
    cluster.ready()
    with connect(cluster, follower) as client:
        client.readonly()
        until(lambda: client.get("resumed") == b"2", "the follower goes on")
    assert agent_log(cluster, follower).count("full sync") == full_syncs
    assert process(cluster, follower, "valkey-server").pid == engine


def test_a_frozen_engine_loses_its_lease_though_its_agent_lives(cluster: Cluster) -> None:
    leader = primary(cluster)
    with connect(cluster, leader) as client:
        client.set("frozen", "1")
        engine = process(cluster, leader, "valkey-server")
        engine.send_signal(signal.SIGSTOP)
        until(lambda: cluster.status()["shards"][0]["primary"] not in (None, leader), "another primary")
        until(
            lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE,
            "the frozen engine is ended",
        )
    with connect(cluster, primary(cluster)) as client:
        assert client.get("frozen") == b"1"
        assert client.set("frozen", "2")
    with connect(cluster, leader) as client:
        client.readonly()
        until(lambda: client.get("frozen") == b"2", "the ended engine follows")


def test_a_node_that_lost_engine_and_agent_says_so_long_before_its_lease_ends() -> None:
    """The agent's successor finds that the engine which was promoted has exited: 1.2 leases are 72 s here."""
    with short_directory() as directory:
        cluster = Cluster(directory, name="both", zones=1, replicasPerShard=1, failover={"lease": "60s"})
        try:
            cluster.start()
            for turn in range(2):
                leader = primary(cluster)
                with connect(cluster, leader) as client:
                    assert client.set(f"both:{turn}", "1")
                process(cluster, leader, "memorycluster.agent").kill()
                process(cluster, leader, "valkey-server").kill()
                until(
                    lambda leader=leader: cluster.status()["shards"][0]["primary"] not in (None, leader),
                    "another primary",
                    patience=40,
                )
                with connect(cluster, primary(cluster)) as client:
                    assert client.get(f"both:{turn}") == b"1"
            cluster.stop()
        finally:
            cluster.end()


def test_a_live_engine_is_never_taken_for_an_exited_one(cluster: Cluster) -> None:
    """Its agent dies while it stands still: it may go on with its lease, so the followers wait that out."""
    leader = primary(cluster)
    engine = process(cluster, leader, "valkey-server")
    engine.send_signal(signal.SIGSTOP)
    process(cluster, leader, "memorycluster.agent").kill()
    until(lambda: cluster.status()["shards"][0]["primary"] not in (None, leader), "another primary")
    assert "has exited" not in agent_log(cluster, leader).rpartition("-> leading")[2]
    engine.send_signal(signal.SIGCONT)
    until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, "it is ended")


def test_no_ordinary_client_can_pose_as_the_engine_at_the_agent(cluster: Cluster) -> None:
    config = Path(cluster.data) / "nodes" / replica(cluster) / "agent.yaml"
    port = yaml.safe_load(config.read_text())["follow_port"]
    with redis.Redis("127.0.0.1", port) as client, pytest.raises(redis.AuthenticationError):
        client.execute_command("PSYNC", "?", "-1")
    guess = redis.Redis("127.0.0.1", port, username="txlog-agent", password="guess")
    with guess as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_a_full_log_refuses_writes_serves_reads_and_can_grow() -> None:
    with short_directory() as directory:
        nowhere = {"store": {"directory": {"path": "/proc/nowhere"}}}  # Else snapshots would make room.
        spec = {"replicasPerShard": 0, "snapshots": nowhere}
        cluster = Cluster(directory, name="full", zones=1, log={"maxBytes": "64Mi"}, **spec)
        try:
            cluster.start()
            with connect(cluster, primary(cluster)) as client:
                written = fill(client)
                assert written > 64 * 0.8, "most of the limit can be used"
                with pytest.raises(redis.ResponseError, match=r"^TXLOGFULL .*raise its limit"):
                    client.set("more", "1")
                assert client.get("fill:0") == value(1 << 20), "reads go on"
                assert "raise its limit" in str(cluster.status())
            cluster.stop()
            cluster.change(log={"maxBytes": "96Mi"}, **spec)
            cluster.start()
            with connect(cluster, primary(cluster)) as client:
                assert client.set("more", "1")
                assert client.get(f"fill:{written - 1}") == value(1 << 20), "nothing acknowledged is missing"
            cluster.stop()
        finally:
            cluster.end()


def test_a_log_that_is_gone_is_told_and_never_made_anew() -> None:
    with short_directory() as directory:
        cluster = Cluster(directory, name="gone", zones=1, replicasPerShard=1, failover={"lease": "1s"})
        try:
            cluster.start()
            leader, follower = primary(cluster), replica(cluster)
            client = connect(cluster, leader)
            config = yaml.safe_load((Path(cluster.data) / "nodes" / leader / "agent.yaml").read_text())
            asyncio.run(ask_log(config, f"STREAM.DELETE.{config['stream']}"))

            def told(node: str) -> bool:
                nodes = {each["name"]: each for each in cluster.status()["shards"][0]["nodes"]}
                return "stream not found" in nodes[node]["message"]

            until(lambda: told(leader), "the leader's agent says so")
            until(lambda: told(follower), "the follower's agent says so")
            until(lambda: cluster.status()["phase"] == "Unavailable", "it serves no more")
            assert "stream not found" in cluster.status()["conditions"][0]["message"]
            with client, pytest.raises(redis.ResponseError, match="lease"):
                client.set("gone", "1")
            answer = asyncio.run(ask_log(config, f"STREAM.INFO.{config['stream']}"))
            assert answer["error"]["description"] == "stream not found"
        finally:
            cluster.end()


async def ask_log(config: dict[str, Any], what: str) -> dict[str, Any]:
    """Ask the log service what only a careless human would."""
    link = Link(
        config["log_servers"], user=config["log_user"], password=config["log_password"], name="careless"
    )
    try:
        return await link.ask(what, within=10)
    finally:
        await link.close()


def fill(client: redis.Redis) -> int:
    """Write values of 1 MiB until the log is full; return how many were acknowledged."""
    for number in range(100):
        with suppress(redis.ResponseError):
            client.set(f"fill:{number}", value(1 << 20))
            continue
        return number
    raise AssertionError("it is never full")
