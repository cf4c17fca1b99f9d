"""Other manifests, other circumstances; with one zone where the log's elections don't matter."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from tests.local.harness import Cluster, Foreground, short_directory

import valkey
from memorycluster.api.topology import SLOTS


@pytest.fixture
def single(directory: Path) -> Iterator[Cluster]:
    cluster = Cluster(directory, zones=1, replicasPerShard=0)
    yield cluster
    cluster.end()


@pytest.fixture(scope="module")
def two_shards() -> Iterator[Cluster]:
    with short_directory() as directory:
        cluster = Cluster(directory, name="two", zones=1, shards=2, replicasPerShard=1)
        try:
            cluster.start()
            yield cluster
            cluster.stop()
        finally:
            cluster.end()


def test_two_shards_split_the_slots(two_shards: Cluster) -> None:
    status = two_shards.ready()
    assert [shard["slots"] for shard in status["shards"]] == [["0-8191"], ["8192-16383"]]
    assert [shard["primary"].rpartition("-")[0] for shard in status["shards"]] == ["two-0", "two-1"]
    with redis.RedisCluster("127.0.0.1", two_shards.base_port) as client:
        assert sorted(client.cluster_slots()) == [(0, SLOTS // 2 - 1), (SLOTS // 2, SLOTS - 1)]


def test_cluster_clients_reach_both_shards_and_others_are_sent_there(two_shards: Cluster) -> None:
    endpoints = {
        node["name"]: node["endpoint"] for shard in two_shards.ready()["shards"] for node in shard["nodes"]
    }
    primaries = [endpoints[shard["primary"]] for shard in two_shards.status()["shards"]]
    keys = {f"key:{number}": str(number) for number in range(200)}
    with valkey.ValkeyCluster("127.0.0.1", two_shards.base_port, decode_responses=True) as client:
        for key, number in keys.items():
            client.set(key, number)
        assert {key: client.get(key) for key in keys} == keys
    held = 0
    for own, other in (primaries, reversed(primaries)):
        with redis.Redis("127.0.0.1", int(own.rpartition(":")[2])) as node:
            held += int(node.dbsize())
            assert 0 < int(node.dbsize()) < len(keys)
            for key in keys:
                slot = int(node.cluster("KEYSLOT", key))
                if (slot < SLOTS // 2) != (own == primaries[0]):
                    with pytest.raises(redis.exceptions.MovedError, match=f"^{slot} {other}$"):
                        node.get(key)
    assert held == len(keys)


def test_a_changed_manifest_takes_effect_at_the_next_start(single: Cluster) -> None:
    single.start()
    with redis.RedisCluster("127.0.0.1", single.base_port) as client:
        client.set("key", "value")
    single.stop()
    single.change(replicasPerShard=1, engine={"ioThreads": 2, "parameters": {"maxmemory": "321mb"}})
    single.start()
    status = single.ready()
    assert len(status["endpoints"]) == 2
    assert status["endpoints"][0] == f"127.0.0.1:{single.base_port}"
    for endpoint in status["endpoints"]:
        with redis.Redis("127.0.0.1", int(endpoint.rpartition(":")[2])) as node:
            assert node.config_get("maxmemory", "io-threads") == {
                "maxmemory": str(321 << 20),
                "io-threads": "2",
            }
    with redis.RedisCluster("127.0.0.1", single.base_port, decode_responses=True) as client:
        assert client.get("key") == "value"
    single.stop()
    single.change(shards=2)
    done = single.command(*single.run_arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: spec.shards: the cluster was made with 1; this can't be changed yet"
    )


def edit_shard(cluster: Cluster, **fields: object) -> None:
    """Change what the data directory remembers of the shard's log."""
    path = cluster.data / "cluster.json"
    state = json.loads(path.read_text())
    state["shards"][0] |= fields
    path.write_text(json.dumps(state))


def test_an_interrupted_creation_is_completed_and_another_log_refused(single: Cluster) -> None:
    single.start()
    with redis.RedisCluster("127.0.0.1", single.base_port) as client:
        client.set("key", "value")
    single.stop()
    edit_shard(single, created=False)  # as if the supervisor had died right after it made the log
    single.start()
    with redis.RedisCluster("127.0.0.1", single.base_port, decode_responses=True) as client:
        assert client.get("key") == "value"
    single.stop()
    for created in (True, False):
        edit_shard(single, created=created, generation=str(uuid4()))
        done = single.command(*single.run_arguments)
        assert done.returncode == 2
        assert "error: the log of shard 0 is not the one this cluster was made with" in done.stderr
        assert "is of generation" in done.stderr


def test_a_lost_log_is_reported_and_never_made_anew(single: Cluster) -> None:
    single.start()
    single.stop()
    shutil.rmtree(single.data / "log")
    for detach in ([], ["--detach"]):
        done = single.command(*single.run_arguments, *detach)
        assert done.returncode == 2
        assert "error: the log of shard 0 is not the one this cluster was made with" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    assert single.processes() == []


def test_a_missing_compiler_is_named(single: Cluster) -> None:
    tools = single.directory / "bin"
    tools.mkdir()
    for name in ("setpriv", "make", "patch", "nice"):
        (tools / name).symlink_to(shutil.which(name) or "/nowhere")
    env = {**os.environ, "PATH": str(tools), "MEMORYCLUSTER_CACHE": str(single.directory / "cache")}
    for detach in ([], ["--detach"]):
        done = single.command(*single.run_arguments, *detach, env=env)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert "apt-get install gcc" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (single.data / "cluster.json").exists()


def test_an_engine_that_cannot_start_says_why(single: Cluster) -> None:
    single.change(replicasPerShard=0, engine={"parameters": {"maxclients": 0}})
    with Foreground(single) as run:
        run.wait_for("engine demo-0-0 keeps ending (exit status 1)")
        assert run.interrupt() == 0
    assert single.processes() == []


def test_ctrl_c_while_it_starts_leaves_nothing(single: Cluster) -> None:
    with Foreground(single) as run:
        run.wait_for("starting the log")
        assert run.interrupt() == 0
    assert single.processes() == []
    single.start()
    single.stop()
