"""A new cluster from what another one has left: snapshots, or a log and a moment."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.local.harness import PROGRAM, Cluster, short_directory, until
from tests.snapshot.test_local import client_of, manifests, running
from tests.snapshot.test_maker import FUTURE, LIBRARY


@pytest.fixture
def other() -> Any:
    """Make a second cluster, and end it after all."""
    made: list[Cluster] = []
    with short_directory() as directory:

        def make(**spec: Any) -> Cluster:
            defaults = {"replicasPerShard": 0, "failover": {"lease": "2s"}}
            made.append(Cluster(directory, name="new", zones=1, **(defaults | spec)))
            return made[-1]

        try:
            yield make
        finally:
            for cluster in made:
                cluster.end()


def taken(cluster: Cluster) -> list[dict[str, Any]]:
    """Take a snapshot; return all that were taken so, not those that a shard took by itself meanwhile."""
    cluster.succeed("snapshot", "--data-dir", str(cluster.data))
    listed = json.loads(cluster.succeed("snapshots", "-o", "json", "--data-dir", str(cluster.data)))
    return [each for each in listed if each["reason"] == "user"]


def store(directory: Path) -> dict[str, Any]:
    return {"directory": {"path": str(directory)}}


def test_wiped_and_restored_the_data_is_the_same(other: Any) -> None:
    with running(shards=2, replicasPerShard=0) as cluster, short_directory() as kept:
        with client_of(cluster) as client:
            for number in range(300):
                client.set(f"k{number}", number)
            client.zadd("{z}set", {"a": 1.5})
        snapshots = taken(cluster)
        shutil.copytree(cluster.data / "snapshots", kept / "store")
        cluster.stop()
        shutil.rmtree(cluster.data)
        new = other(shards=2, restoreFrom={"snapshot": snapshots[0]["name"], "store": store(kept / "store")})
        new.start()
        with client_of(new) as client:
            assert client.dbsize(target_nodes="primaries") in (301, [301])
            assert client.get("k299") == b"299"
            assert client.zscore("{z}set", "a") == 1.5
            client.set("k0", "changed")
        digests = {each["shard"]: each["digest"] for each in snapshots}
        for each in json.loads(new.succeed("snapshots", "-o", "json", "--data-dir", str(new.data))):
            assert (each["sequence"], each["offset"]) == (1, 0)
            assert each["digest"] == digests[each["shard"]]
        # What it began with is needed until it has two snapshots of its own; its restarts use it.
        new.stop()
        new.start()
        with client_of(new) as client:
            assert client.get("k0") == b"changed"
            assert client.get("k1") == b"1"
        new.stop()


def fill(client: Any) -> None:
    with client.pipeline() as pipe:
        for number in range(300):
            pipe.set(f"k{number}", number)
            pipe.set(f"{{tag}}{number}", number)
        pipe.set("lasting", 1, pxat=FUTURE)
        pipe.hset("fields", mapping={"stays": "1", "goes": "2"})
        pipe.xadd("stream", {"a": "1"}, id="5-1")
        pipe.set("big", "x" * 5_000_000)
        pipe.execute()
    client.hpexpireat("fields", FUTURE, "goes")
    client.xgroup_create("stream", "group", "0")
    client.function_load(LIBRARY)


def check(client: Any) -> None:
    """Check that what ``fill`` wrote is there, whichever shards have it."""
    sizes = client.dbsize(target_nodes="primaries")
    assert (sum(sizes) if isinstance(sizes, list) else sizes) == 604
    with client.pipeline() as pipe:
        for number in range(300):
            pipe.get(f"k{number}")
            pipe.get(f"{{tag}}{number}")
        assert pipe.execute() == [str(number).encode() for number in range(300) for _ in range(2)]
    assert client.pexpiretime("lasting") == FUTURE
    assert client.hpexpiretime("fields", "stays", "goes") == [-1, FUTURE]
    assert client.xinfo_groups("stream")[0]["name"] == b"group"
    assert len(client.get("big")) == 5_000_000
    for node in client.get_primaries():
        assert client.execute_command("FUNCTION", "LIST", target_nodes=node), "functions are in every shard"


def union(cluster: Cluster) -> tuple[int, int]:
    """Return keys and expiries of the newest snapshots of all shards."""
    listed = json.loads(cluster.succeed("snapshots", "-o", "json", "--data-dir", str(cluster.data)))
    listed = list({each["shard"]: each for each in reversed(listed)}.values())
    return sum(each["keys"] for each in listed), sum(each["expires"] for each in listed)


@pytest.mark.parametrize(("shards", "others"), [(1, 3), (3, 2)])
def test_other_shards_than_it_had(other: Any, shards: int, others: int) -> None:
    with running(shards=shards, replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            fill(client)
        name = taken(cluster)[0]["name"]
        of = union(cluster)
        new = other(shards=others, restoreFrom={"snapshot": name, "store": store(cluster.data / "snapshots")})
        new.start()
        assert union(new) == of
        with client_of(new) as client:
            check(client)
            client.set("k0", "changed")
        new.stop()
        assert not list((new.data / "work").glob("restore*/*"))
        new.start()
        with client_of(new) as client:
            assert client.get("k0") == b"changed"
            assert client.get("k299") == b"299"


def test_other_shards_at_a_moment(other: Any) -> None:
    with running(shards=2, replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            fill(client)
            time.sleep(0.05)
            before = datetime.now(UTC)
            time.sleep(0.05)
            client.flushall(target_nodes="primaries")
        new = other(shards=3, restoreFrom={"cluster": "snap", "time": before.isoformat()})
        new.succeed(*new.run_arguments, "--restore-source", str(cluster.data), "--detach")
        with client_of(new) as client:
            check(client)


def test_an_interrupted_restore_into_other_shards_is_made_anew_and_serves_nothing_before(other: Any) -> None:
    """Killed at each step, and also between the shards' snapshots: of all, or none, the cluster is made."""
    with running(shards=2, replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            fill(client)
        name = taken(cluster)[0]["name"]
        new = other(shards=3, restoreFrom={"snapshot": name, "store": store(cluster.data / "snapshots")})
        made: set[Path] = set()
        for step in ("split", "join", "upload", "verify", "restoring shard 1", "restoring shard 2"):
            process = subprocess.Popen(
                [*PROGRAM, *new.run_arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            assert process.stdout
            try:
                assert any(step in line for line in process.stdout), f"it gets to {step}"
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
            assert not [
                each
                for each in json.loads((new.data / "cluster.json").read_text())["shards"]
                if each["created"]
            ]
            made |= set(new.data.glob("snapshots/new/*/*/*/manifest.json"))
        assert made, "it was killed when some shards had theirs"
        new.start()
        assert len(list(new.data.glob("snapshots/new/*/*/*/manifest.json"))) == 3
        assert not made & set(new.data.glob("snapshots/new/*/*/*/manifest.json"))
        with client_of(new) as client:
            check(client)


def test_what_can_not_be_restored_is_said(other: Any) -> None:
    with running(shards=2, replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            client.set("a", "1")
            client.set("b", "1")
        name = taken(cluster)[0]["name"]
        shutil.rmtree(cluster.data / "snapshots/snap/1")
        wanted = {"snapshot": name, "store": store(cluster.data / "snapshots")}
        for shards in (2, 3):
            new = other(shards=shards, restoreFrom=wanted)
            refused = new.command(*new.run_arguments, "--detach")
            assert refused.returncode == 2
            assert "has the shards 0, which are not all that there were" in refused.stderr
            shutil.rmtree(new.data)
        new.change(
            replicasPerShard=0, restoreFrom={"snapshot": "none", "store": store(cluster.data / "snapshots")}
        )
        refused = new.command(*new.run_arguments, "--detach")
        assert "has no snapshot none" in refused.stderr


def test_back_to_before_a_mistake(other: Any) -> None:
    with running(replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            client.set("a", "1")
            taken(cluster)
            for number in range(100):
                client.set(f"k{number}", number)
            time.sleep(0.05)
            before = datetime.now(UTC)
            time.sleep(0.05)
            client.flushall(target_nodes="primaries")
            client.set("a", "2")
        taken(cluster)
        new = other(restoreFrom={"cluster": "snap", "time": before.isoformat()})
        new.succeed(*new.run_arguments, "--restore-source", str(cluster.data), "--detach")
        with client_of(new) as client:
            assert client.dbsize(target_nodes="primaries") in (101, [101])
            assert (client.get("a"), client.get("k99")) == (b"1", b"99")
        with client_of(cluster) as client:
            assert client.get("a") == b"2"


def test_an_interrupted_restore_is_completed(other: Any) -> None:
    """Killed at any time: what is there is whole, or is made again."""
    with running(replicasPerShard=0) as cluster:
        with client_of(cluster) as client:
            for number in range(1000):
                client.set(f"k{number}", "x" * 1000)
        name = taken(cluster)[0]["name"]
        new = other(restoreFrom={"snapshot": name, "store": store(cluster.data / "snapshots")})
        for pause in (0.5, 1.0, 1.5, 2.0):
            process = subprocess.Popen(
                [*PROGRAM, *new.run_arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            until(lambda: (new.data / "cluster.json").exists(), "it has begun")
            time.sleep(pause)
            process.kill()
            process.wait()
        new.start()
        with client_of(new) as client:
            assert client.dbsize(target_nodes="primaries") in (1000, [1000])
        assert manifests(cluster)
