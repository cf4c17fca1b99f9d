"""The disk of one log server rots under a running cluster: whoever meets it says so, and it is healed."""

from __future__ import annotations

import os
from pathlib import Path

import redis
from tests.local.harness import Cluster, until

WRITES, SIZE = 40, 500_000
"""Two blocks of the log and more."""


def test_what_an_agent_finds_rotten_is_healed_at_once(directory: Path) -> None:
    cluster = Cluster(directory, name="rot", replicasPerShard=1)
    try:
        cluster.start()
        shard = cluster.ready()["shards"][0]
        leader = next(member["name"] for member in shard["log"]["members"] if member["leader"])
        victim = next(member["zone"] for member in shard["log"]["members"] if member["name"] != leader)
        follower = next(node["name"] for node in shard["nodes"] if node["name"] != shard["primary"])
        write(cluster)
        (server,) = cluster.processes(f"log/{victim}/server.conf")
        server.kill()  # So that it keeps nothing in memory; it has not looked at the block when that rots.
        until(lambda: cluster.processes(f"log/{victim}/server.conf"), "the log server is started again")
        cluster.ready()
        blocks = (cluster.data / "log" / victim / "store").rglob("msgs/*.blk")
        rot(min(blocks, key=lambda path: (path.parent.parent.parent.name != "streams", int(path.stem))))
        while "wiping" not in cluster.log():  # A reader is put on any member of the log.
            for engine in cluster.processes(f"nodes/{follower}/valkey.conf"):
                engine.kill()
            until(lambda: ready(cluster, follower) or "wiping" in cluster.log(), "the follower is back")
        assert victim in cluster.log().partition("wiping")[2].splitlines()[0]
        until(lambda: cluster.status()["phase"] == "Ready", "it is copied anew")
        assert {each["type"]: each["status"] for each in cluster.status()["conditions"]}[
            "LogIntact"
        ] == "True"
        cluster.stop()
    finally:
        cluster.end()


def write(cluster: Cluster) -> None:
    port = next(
        node["endpoint"].rpartition(":")[2]
        for node in cluster.status()["shards"][0]["nodes"]
        if node["role"] == "primary"
    )
    with redis.Redis("127.0.0.1", int(port)) as client:
        for number in range(WRITES):
            assert client.set(f"rot:{number}", os.urandom(SIZE))


def ready(cluster: Cluster, name: str) -> bool:
    nodes = {node["name"]: node for node in cluster.status()["shards"][0]["nodes"]}
    return bool(nodes[name]["ready"])


def rot(block: Path) -> None:
    with block.open("r+b") as file:
        file.seek(block.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
