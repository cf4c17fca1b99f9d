"""`memorycluster run` with snapshots: the log stays small, and what was acknowledged stays."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from tests.local.harness import PROGRAM, Cluster, short_directory, until

REPLAY = 2 << 20
VALUE = "x" * 10_000


@contextmanager
def running(**spec: Any) -> Iterator[Cluster]:
    with short_directory() as directory:
        cluster = Cluster(
            directory,
            name="snap",
            zones=1,
            **{
                "replicasPerShard": 1,
                "log": {"maxBytes": "64Mi"},
                "failover": {"lease": "2s"},
                "snapshots": {"maxLogReplay": "2Mi"},
            }
            | spec,
        )
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.end()


def client_of(cluster: Cluster) -> redis.RedisCluster:
    host, port = cluster.status()["endpoints"][0].split(":")
    return redis.RedisCluster(host, int(port), socket_timeout=30)


def log_of(cluster: Cluster) -> dict[str, Any]:
    """Return what is said of the log, which may not answer at once."""
    log: dict[str, Any] = until(lambda: cluster.status()["shards"][0]["log"], "the log answers")
    return log


def condition(cluster: Cluster, type_: str) -> dict[str, Any]:
    return next(each for each in cluster.status()["conditions"] if each["type"] == type_)


def manifests(cluster: Cluster) -> list[Path]:
    return sorted(cluster.data.glob("snapshots/snap/0/*/*/manifest.json"))


def write(client: redis.RedisCluster, rounds: range) -> None:
    """Write about 5 MB a round through a small key space, and count the rounds."""
    for number in rounds:
        with client.pipeline() as pipe:
            for key in range(500):
                pipe.set(f"key:{key}", f"{number} {VALUE}")
            pipe.incr("rounds")
            pipe.execute()


def trimmed_up_to(cluster: Cluster) -> int:
    return int(log_of(cluster)["firstSequence"]) - 1


@pytest.mark.timeout(900)
def test_the_log_is_trimmed_and_all_that_was_acknowledged_outlives_every_process() -> None:
    with running() as cluster:
        with client_of(cluster) as client:
            for number in range(24):  # 120 MB through a log that holds 64
                write(client, range(number, number + 1))
                until(lambda: log_of(cluster)["bytes"] < 40 << 20, "the log is trimmed as it grows")
            until(lambda: trimmed_up_to(cluster) > 0, "the log has been trimmed")
            assert client.get("rounds") == b"24"
        until(lambda: log_of(cluster)["bytes"] < 8 * REPLAY, "what is left is what a restart replays")
        assert condition(cluster, "SnapshotsCurrent")["status"] == "True"
        supervisor = cluster.supervisor()
        children = supervisor.children(recursive=True)
        supervisor.kill()
        psutil.wait_procs([supervisor, *children], timeout=30)
        cluster.start()
        cluster.ready()
        agents = "".join(path.read_text() for path in cluster.data.glob("nodes/*/agent.log"))
        assert "full sync of the engine, from offset" in agents
        with client_of(cluster) as client:
            assert client.get("rounds") == b"24"
            assert {client.get(f"key:{key}") for key in range(500)} == {f"23 {VALUE}".encode()}
            write(client, range(24, 26))
            assert client.get("rounds") == b"26"
        cluster.stop()


def test_without_a_store_the_log_grows_refuses_at_its_limit_and_says_why() -> None:
    with running(
        replicasPerShard=0,
        snapshots={"maxLogReplay": "2Mi", "store": {"directory": {"path": "/proc/nowhere"}}},
    ) as cluster:
        with client_of(cluster) as client:
            with pytest.raises(redis.ResponseError, match="TXLOGFULL"):
                write_until_full(client)
            rounds = client.get("rounds")
            until(lambda: condition(cluster, "SnapshotsCurrent")["status"] == "False", "it says so")
            found = condition(cluster, "SnapshotsCurrent")
            assert found["reason"] == "SnapshotFailed"
            assert "/proc/nowhere" in found["message"]
            assert trimmed_up_to(cluster) == 0
        cluster.stop()
        cluster.change(
            replicasPerShard=0,
            log={"maxBytes": "64Mi"},
            failover={"lease": "2s"},
            snapshots={"maxLogReplay": "2Mi"},
        )
        cluster.start()
        with client_of(cluster) as client:
            until(lambda: accepts(client), "a second snapshot lets the log be trimmed")
            assert client.get("rounds") == rounds
        cluster.stop()


def write_until_full(client: redis.RedisCluster) -> None:
    for number in range(40):
        write(client, range(number, number + 1))


def accepts(client: redis.RedisCluster) -> bool:
    try:
        return bool(client.set("again", "1"))
    except redis.ResponseError:
        return False


def test_a_broken_snapshot_is_passed_over_and_told() -> None:
    with running(replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            until_snapshots(cluster, client, 2)
            before = client.get("rounds")
        cluster.stop()
        newest = max(manifests(cluster)).with_name("data.rdb")
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        cluster.start()
        with client_of(cluster) as client:
            assert client.get("rounds") == before
        assert "SHA-256" in json.dumps(cluster.status()["shards"][0]["nodes"])
        cluster.stop()


def test_with_no_good_snapshot_below_the_trim_point_nothing_is_served() -> None:
    with running(replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            until_snapshots(cluster, client, 2)
            until(lambda: trimmed_up_to(cluster) > 0, "the log has been trimmed")
            before = client.get("rounds")
        table = cluster.succeed("snapshots", "--data-dir", str(cluster.data))
        assert re.search(r"any moment since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ can be restored", table)
        cluster.stop()
        assert "any moment" not in cluster.succeed("snapshots", "--data-dir", str(cluster.data))
        kept = {path: path.read_bytes() for path in cluster.data.glob("snapshots/**/data.rdb")}
        for path in kept:
            path.write_bytes(b"REDIS")
        with subprocess.Popen(
            [*PROGRAM, *cluster.run_arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            try:
                until(
                    lambda: "no good snapshot leads on" in json.dumps(cluster.status()),
                    "it says why it serves nothing",
                )
                assert cluster.status()["shards"][0]["primary"] is None
                for path, data in kept.items():
                    path.write_bytes(data)
                cluster.ready()
                with client_of(cluster) as client:
                    assert client.get("rounds") == before
            finally:
                run.send_signal(signal.SIGTERM)
                run.wait(60)


def test_another_store_is_used_once_it_holds_what_the_log_needs() -> None:
    with running(replicasPerShard=0) as cluster:
        spec = {
            "replicasPerShard": 0,
            "log": {"maxBytes": "64Mi"},
            "failover": {"lease": "2s"},
            "snapshots": {
                "maxLogReplay": "2Mi",
                "store": {"directory": {"path": str(cluster.data.parent / "elsewhere")}},
            },
        }
        with client_of(cluster) as client:
            until_snapshots(cluster, client, 2)
            until(lambda: trimmed_up_to(cluster) > 0, "the log has been trimmed")
            before = client.get("rounds")
        cluster.stop()
        cluster.change(**spec)
        refused = cluster.command(*cluster.run_arguments, "--detach")
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "keep the former store, or copy all snapshots to the new one first" in refused.stderr
        shutil.copytree(cluster.data / "snapshots", cluster.data.parent / "elsewhere")
        shutil.rmtree(cluster.data / "snapshots")
        cluster.start()
        with client_of(cluster) as client:
            assert client.get("rounds") == before
        cluster.stop()


def until_snapshots(cluster: Cluster, client: redis.RedisCluster, count: int) -> None:
    """Write until there are so many snapshots."""
    while len(manifests(cluster)) < count:
        have = len(manifests(cluster))
        write(client, range(1))
        until(lambda: len(manifests(cluster)) > have, "a snapshot is taken")  # noqa: B023


def test_a_snapshot_on_demand_is_listed_and_holds_what_was_written() -> None:
    with running(shards=2, replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            for number in range(100):
                client.set(f"k{number}", number)
        said = cluster.succeed("snapshot", "--data-dir", str(cluster.data))
        assert "shard 0: snap-" in said
        assert "shard 1: snap-" in said
        listed = json.loads(cluster.succeed("snapshots", "-o", "json", "--data-dir", str(cluster.data)))
        assert sorted(each["shard"] for each in listed) == [0, 1]
        assert sum(each["keys"] for each in listed) == 100
        assert len({each["name"] for each in listed}) == 1
        table = cluster.succeed("snapshots", "--data-dir", str(cluster.data))
        assert listed[0]["digest"] in table
        assert "any moment since the cluster's beginning can be restored" in table
        with client_of(cluster) as client:
            client.set("k0", "later")  # in one shard
        said = cluster.succeed("snapshot", "--data-dir", str(cluster.data))
        names = set(re.findall(r"^shard \d: (snap-\S+),", said, re.MULTILINE))
        assert len(names) == 1, f"by which both can be restored: {said}"
        assert names != {listed[0]["name"]}
        refused = cluster.command("snapshot", "2", "--data-dir", str(cluster.data))
        assert (refused.returncode, "no shard 2" in refused.stderr) == (2, True)
        cluster.stop()
        refused = cluster.command("snapshot", "--data-dir", str(cluster.data))
        assert (refused.returncode, "is not running" in refused.stderr) == (2, True)
        assert not list(cluster.data.glob("work/*"))


def test_a_follower_that_was_left_behind_the_trim_point_starts_anew() -> None:
    """Its agent was frozen, so nobody waited for it."""
    with running() as cluster, client_of(cluster) as client:
        write(client, range(1))
        shard = cluster.ready()["shards"][0]
        node = next(each["name"] for each in shard["nodes"] if each["name"] != shard["primary"])
        agent = next(
            each for each in cluster.processes(node) if "memorycluster.agent" in " ".join(each.cmdline())
        )
        agent.send_signal(signal.SIGSTOP)
        try:
            behind = log_of(cluster)["lastSequence"]
            rounds = 1
            while trimmed_up_to(cluster) <= behind:
                write(client, range(rounds, rounds + 1))
                rounds += 1
                assert rounds < 60, "the log is trimmed although that one does not get on"
        finally:
            agent.send_signal(signal.SIGCONT)
        cluster.ready()
        log = (cluster.data / "nodes" / node / "agent.log").read_text()
        assert "full sync of the engine, from offset" in log
        endpoint = next(each["endpoint"] for each in shard["nodes"] if each["name"] == node)
        with redis.Redis(*endpoint.split(":"), socket_timeout=30) as replica:
            replica.readonly()
            until(lambda: replica.get("rounds") == str(rounds).encode(), "it has what the others have")
            assert replica.get("key:7") == f"{rounds - 1} {VALUE}".encode()
