"""Snapshots in a bucket, by Jobs; and new clusters from them, and from a moment before a mistake."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.e2e.cluster import KIND as CLUSTER
from tests.e2e.cluster import Cluster, identities, restarts
from tests.e2e.kube import Kube, condition
from tests.e2e.release import Operator
from tests.e2e.scenario import Stage
from tests.e2e.site import Site
from tests.lab.docker import docker
from tests.lab.node import debian_image
from tests.snapshot import s3

SECRET = "vault-keys"
BUCKET, BUCKET_NAME = "memorycluster-e2e-s3", "snapshots"
SERVE = """
mkdir -p /data/snapshots /meta
while true; do
    [ -e /away ] || exec /programs/versitygw --access "$(cat /access)" --secret "$(cat /secret)" \\
        --port :9000 --quiet posix --sidecar /meta /data &
    echo $! > /pid
    wait $!
    sleep 0.2
done
"""
"""A server that comes back with the credentials that there are by then, unless it is to stay away."""
WITHIN = 180.0
"""Seconds within which a snapshot must be made."""
SNAPSHOT = "memorysnapshot"
DIGEST = """
local digest = ''
for i = 1, redis.call('DBSIZE') do digest = redis.sha1hex(digest .. redis.call('GET', '{v}:' .. i)) end
return digest
"""

pytestmark = [pytest.mark.long]


@pytest.fixture(scope="module")
def store(site: Site, namespace: str) -> Iterator[dict[str, Any]]:
    """A bucket in a container beside the nodes, with its Secret; as ``spec.snapshots.store`` names it."""
    if site.lab.given:
        pytest.skip("the bucket is a container beside the lab's nodes")
    programs = s3.program().parent
    docker("rm", "-f", BUCKET)
    keys = f"printf %s {s3.ACCESS} > /access; printf %s {s3.SECRET} > /secret"
    docker(
        *("run", "-d", "--network", "kind", "--name", BUCKET, "-v", f"{programs}:/programs:ro"),
        *(debian_image(), "sh", "-c", f"{keys}\n{SERVE}"),
    )
    try:
        address = docker("inspect", "-f", "{{.NetworkSettings.Networks.kind.IPAddress}}", BUCKET)
        tell_keys(site.kube, namespace, s3.ACCESS, s3.SECRET)
        endpoint = f"http://{address}:9000"
        yield {
            "s3": {"bucket": BUCKET_NAME, "region": "us-east-1", "endpoint": endpoint},
            "credentials": {"secretName": SECRET},
        }
    finally:
        docker("rm", "-f", BUCKET)


def tell_keys(kube: Kube, namespace: str, access: str, secret: str) -> None:
    """Put credentials into the Secret."""
    keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    kube.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys},
        namespace=namespace,
    )


def in_bucket(command: str) -> None:
    """Run a command where the store is, which it ends: it comes back by itself."""
    docker("exec", BUCKET, "sh", "-c", f"{command}; kill -9 $(cat /pid)")


@pytest.fixture(scope="module")
def vault(
    site: Site, stage: Stage, operator: Operator, namespace: str, store: dict[str, Any]
) -> Iterator[Cluster]:
    """One shard of two nodes, with a thousand keys."""
    cluster = site.cluster(namespace, "vault", shards=1, replicasPerShard=1, snapshots={"store": store})
    try:
        stage.created("vault: 1 shard, 2 nodes, with a store", cluster)
        fill = "for i = 1, 1000 do redis.call('SET', '{v}:' .. i, i) end"
        told(cluster, "EVAL", fill, "0")
        yield cluster
    finally:
        site.kube.delete(SNAPSHOT, "--all", namespace=namespace)
        cluster.delete()


def told(cluster: Cluster, *command: str, shard: int = 0) -> str:
    """Return what the engine of a shard's primary answers."""
    where = (cluster.primary(shard), "valkey-cli", "--raw", *command)
    return cluster.kube.execute(*where, namespace=cluster.namespace, container="engine").strip()


def complete(kube: Kube, name: str, namespace: str) -> dict[str, Any]:
    """Wait until a MemorySnapshot is, and return its status."""

    def lacks() -> str:
        status = kube.get(SNAPSHOT, name, namespace).get("status", {})
        return "" if status.get("phase") == "Completed" else f"{status}"

    kube.until_holds(lacks, f"snapshot {name} complete", seconds=WITHIN)
    status: dict[str, Any] = kube.get(SNAPSHOT, name, namespace)["status"]
    return status


def take(cluster: Cluster, name: str) -> dict[str, Any]:
    """Take a snapshot as a user does; return its status."""
    ask(cluster, name)
    return complete(cluster.kube, name, cluster.namespace)


def ask(cluster: Cluster, name: str) -> None:
    """Ask for a snapshot as a user does."""
    cluster.kube.apply(
        {
            "apiVersion": "memorycluster.io/v1alpha1",
            "kind": "MemorySnapshot",
            "metadata": {"name": name},
            "spec": {"cluster": cluster.name},
        },
        namespace=cluster.namespace,
    )


def said_of(cluster: Cluster, name: str, what: str, seconds: float = WITHIN) -> str:
    """Wait until the status of the first shard of a MemorySnapshot has a field; return that."""

    def field() -> str:
        status = cluster.kube.get(SNAPSHOT, name, cluster.namespace).get("status", {})
        return str((status.get("shards") or [{}])[0].get(what) or "")

    return cluster.kube.until(field, f"{what} of snapshot {name}", seconds=seconds)


def test_a_snapshot_and_new_clusters_from_it(
    site: Site, stage: Stage, vault: Cluster, store: dict[str, Any]
) -> None:
    """Restored by name, and to the moment before a FLUSHALL."""
    kube, namespace = vault.kube, vault.namespace
    [shard] = take(vault, "vault-first")["shards"]
    assert shard["keys"] == 1000
    assert shard["sha256"]
    assert shard["digest"]
    head, line = kube("get", "memorysnapshots", "vault-first", "-n", namespace).splitlines()
    assert "Completed" in line, f"{head}\n{line}"
    assert condition(vault.resource(), "SnapshotsCurrent").get("status") == "True"

    told(vault, "SET", "later", "yes")
    time.sleep(1)  # Moments are compared with the log's, in milliseconds of other machines' clocks.
    moment = datetime.now(UTC)
    time.sleep(1)
    told(vault, "FLUSHALL")
    assert told(vault, "DBSIZE") == "0"

    sources = {
        "vault-named": ({"snapshot": "vault-first"}, "1000"),
        "vault-then": ({"cluster": vault.name, "time": moment.isoformat()}, "1001"),
    }
    for name, (source, size) in sources.items():
        cluster = site.cluster(
            namespace,
            name,
            shards=1,
            replicasPerShard=0,
            snapshots={"store": store},
            restoreFrom=source,
        )
        try:
            stage.created(f"{name}: 1 shard, 1 node, restored", cluster)
            assert told(cluster, "DBSIZE") == size
            assert told(cluster, "GET", "{v}:777") == "777"
            assert told(cluster, "SET", "new", "life") == "OK"
        finally:
            cluster.delete()
    assert told(vault, "DBSIZE") == "0", "what they were restored from goes on as it was"


def test_into_other_numbers_of_shards(
    site: Site, stage: Stage, vault: Cluster, store: dict[str, Any]
) -> None:
    """From one into three, by name; from these into two, to a moment; and back: nothing has changed."""
    namespace = vault.namespace
    flags = "#!lua flags=allow-cross-slot-keys"
    fill = (
        "for i = 1, 3000 do redis.call('SET', 'key:' .. i, i) end redis.call('SET', 'lasts', 1, 'EX', 86400)"
    )
    told(vault, "FLUSHALL")
    told(vault, "EVAL", f"{flags}\n{fill}", "0")
    told(
        vault, "FUNCTION", "LOAD", "#!lua name=lib\nserver.register_function('one', function() return 1 end)"
    )
    [before] = take(vault, "vault-one")["shards"]
    assert before["keys"] == 3001

    def restored(name: str, shards: int, source: dict[str, Any]) -> Cluster:
        cluster = site.cluster(
            namespace, name, shards=shards, replicasPerShard=0, snapshots={"store": store}, restoreFrom=source
        )
        stage.created(f"{name}: {shards} shards, restored from another number", cluster)
        sizes = [int(told(cluster, "DBSIZE", shard=shard)) for shard in range(shards)]
        assert sum(sizes) == 3001
        assert all(size > 500 for size in sizes)
        for shard in range(shards):
            assert "lib" in told(cluster, "FUNCTION", "LIST", shard=shard)
        return cluster

    made: list[Cluster] = []
    try:
        made.append(restored("vault-three", 3, {"snapshot": "vault-one", "cluster": "vault"}))
        time.sleep(1)  # as above
        moment = datetime.now(UTC)
        time.sleep(1)
        for shard in range(3):
            told(made[0], "FLUSHALL", shard=shard)
        of = {"cluster": "vault-three", "time": moment.isoformat()}
        made.append(restored("vault-two", 2, of))
        made.pop(0).delete()
        assert len(take(made[0], "vault-two-all")["shards"]) == 2
        made.append(restored("vault-again", 1, {"snapshot": "vault-two-all", "cluster": "vault-two"}))
        [after] = take(made[1], "vault-again-all")["shards"]
        assert (after["digest"], after["keys"]) == (before["digest"], before["keys"])
    finally:
        for cluster in made:
            cluster.delete()


def test_a_store_that_hangs_and_how_far_it_is(vault: Cluster) -> None:
    """The operator reaches the Job, and tells what it waits with."""
    told(vault, "SET", "hangs", "1")
    docker("pause", BUCKET)
    try:
        ask(vault, "vault-hangs")
        step = said_of(vault, "vault-hangs", "step")
        assert step in ("load", "replay", "save", "upload", "verify")
    finally:
        docker("unpause", BUCKET)
    [shard] = complete(vault.kube, "vault-hangs", vault.namespace)["shards"]
    assert "step" not in shard


def test_a_store_that_is_away_for_a_while(vault: Cluster) -> None:
    """What runs goes on, and what was asked for is made when it is back."""
    before, restarted = identities(vault.pods()), restarts(vault.pods())
    in_bucket("touch /away")
    try:
        ask(vault, "vault-away")
        vault.kube.until(
            lambda: f"//{BUCKET_NAME}/" in said_of(vault, "vault-away", "message"), "the store is missed"
        )
        vault.kube.until(
            lambda: condition(vault.resource(), "SnapshotsCurrent").get("status") == "False",
            "the cluster says that a snapshot failed",
        )
        for number in range(120):
            assert told(vault, "SET", "meanwhile", str(number)) == "OK"
            time.sleep(1)
        assert vault.kube.get(SNAPSHOT, "vault-away", vault.namespace)["status"]["phase"] == "Running"
    finally:
        docker("exec", BUCKET, "rm", "-f", "/away")
    [shard] = complete(vault.kube, "vault-away", vault.namespace)["shards"]
    assert shard["keys"] == int(told(vault, "DBSIZE")), "it has what was written meanwhile"
    vault.kube.until(
        lambda: condition(vault.resource(), "SnapshotsCurrent").get("status") == "True", "all is well again"
    )
    assert (identities(vault.pods()), restarts(vault.pods())) == (before, restarted), "nothing was restarted"


def test_credentials_that_are_rotated(vault: Cluster) -> None:
    """The old ones are worth nothing any more; nothing is restarted, and no word of a secret is said."""
    before, restarted = identities(vault.pods()), restarts(vault.pods())
    in_bucket("printf %s keeper > /access; printf %s rotated-secret-of-the-test > /secret")
    try:
        ask(vault, "vault-rotated")
        said = said_of(vault, "vault-rotated", "message")
        assert s3.SECRET not in said
    finally:
        tell_keys(vault.kube, vault.namespace, "keeper", "rotated-secret-of-the-test")
    complete(vault.kube, "vault-rotated", vault.namespace)
    assert (identities(vault.pods()), restarts(vault.pods())) == (before, restarted), "nothing was restarted"
    assert told(vault, "SET", "goes", "on") == "OK"
    [replica] = [name for name in before if name.startswith("vault-0-") and name != vault.primary()]
    vault.kube.delete("pod", replica, namespace=vault.namespace)
    vault.kube.until(
        lambda: identities(vault.pods()).get(replica) not in (None, before[replica]), "a new pod"
    )
    vault.whole()  # one that starts anew reads the store with what is in the Secret now


def test_the_schedule(vault: Cluster) -> None:
    """Each minute, here: they are called by their moments, and the first of them is whole."""
    kube, namespace = vault.kube, vault.namespace
    vault.change(snapshots={"schedule": "* * * * *"})
    try:
        name = kube.until(
            lambda: next(
                (
                    each["metadata"]["name"]
                    for each in kube.select(SNAPSHOT, namespace, vault.selector)
                    if each["metadata"]["name"].startswith("vault-2")
                ),
                "",
            ),
            "the schedule's first snapshot",
        )
        complete(kube, name, namespace)
    finally:
        vault.change(snapshots={"schedule": None})


def test_a_last_snapshot_before_it_is_deleted(
    site: Site, stage: Stage, operator: Operator, namespace: str, store: dict[str, Any]
) -> None:
    """The deletion waits for it, says until when, and takes the volumes along only once it is whole."""
    kube = site.kube
    cluster = site.cluster(
        namespace,
        "farewell",
        shards=1,
        replicasPerShard=1,
        deletionPolicy="Delete",
        snapshots={"store": store, "beforeDelete": True},
    )
    try:
        stage.created("farewell: 1 shard, 2 nodes, with a last snapshot", cluster)
        told(cluster, "EVAL", "for i = 1, 1000 do redis.call('SET', '{v}:' .. i, i) end", "0")
        digest = told(cluster, "EVAL", DIGEST, "0")
        in_bucket("touch /away")
        cluster.delete(wait=False)
        told_of: dict[str, Any] = {}

        def taking() -> bool:
            told_of.update(cluster.status().get("deletion") or {})
            return told_of.get("reason") == "TakingSnapshot" and bool(told_of.get("snapshot"))

        kube.until(taking, "its last snapshot is being taken", seconds=WITHIN)
        assert datetime.fromisoformat(told_of["deadline"]) > datetime.now(UTC)
        assert not cluster.pods("engine"), "nothing is written any more"
        name = told_of["snapshot"]
        kube.until(lambda: f"//{BUCKET_NAME}/" in said_of(cluster, name, "message"), "the store is missed")
        assert len(kube.select("pvc", namespace, cluster.selector)) == 3
        docker("exec", BUCKET, "rm", "-f", "/away")
        [shard] = complete(kube, name, namespace)["shards"]
        assert shard["keys"] == 1000
        kube.gone(CLUSTER, cluster.name, namespace=namespace)
        kube.until(lambda: not kube.select("pvc", namespace, cluster.selector), "the volumes are gone, too")
        other = site.cluster(
            namespace,
            "farewell-again",
            shards=1,
            replicasPerShard=0,
            snapshots={"store": store},
            restoreFrom={"snapshot": name, "cluster": cluster.name},
        )
        try:
            stage.created("farewell-again: 1 shard, 1 node, from the last snapshot", other)
            assert told(other, "EVAL", DIGEST, "0") == digest
        finally:
            other.delete()
    finally:
        docker("exec", BUCKET, "rm", "-f", "/away")
        kube.delete(SNAPSHOT, "--all", namespace=namespace)
        cluster.delete()


def test_without_a_store_named_the_log_is_trimmed_and_all_engines_may_go(
    site: Site, stage: Stage, operator: Operator, namespace: str
) -> None:
    """Its snapshots are in its own log service, as nothing else is there."""
    kube = site.kube
    cluster = site.cluster(
        namespace,
        "frugal",
        shards=1,
        replicasPerShard=1,
        log={"maxBytes": "64Mi"},
        snapshots={"maxLogReplay": "1Mi"},
    )
    fill = "for i = 1, 400 do redis.call('SET', '{v}:' .. i, string.rep(ARGV[1] .. i, 300)) end"

    def trimmed() -> str:
        told(cluster, "EVAL", fill, "0", str(time.monotonic_ns()))
        shard = cluster.status()["shards"][0]
        kept = (shard.get("snapshots") or {}).get("kept") or []
        first = (shard.get("log") or {}).get("firstSequence", 0)
        return "" if len(kept) == 2 and first > 1 else f"it begins with {first}, kept: {kept}"

    try:
        stage.created("frugal: 1 shard, 2 nodes, no store named", cluster)
        kube.until_holds(trimmed, "the log trimmed behind two snapshots", seconds=2 * WITHIN)
        take(cluster, "frugal-mine")
        assert "frugal-mine" in kube("get", "memorysnapshots", "-n", namespace)
        digest = told(cluster, "EVAL", DIGEST, "0")
        pods = [each["metadata"]["name"] for each in cluster.pods("engine")]
        kube.delete("pod", *pods, namespace=namespace, force=True)
        cluster.whole()
        assert told(cluster, "EVAL", DIGEST, "0") == digest
        assert condition(cluster.resource(), "LogIntact").get("status") == "True"
        other = site.cluster(
            namespace,
            "frugal-too",
            shards=1,
            replicasPerShard=0,
            restoreFrom={"snapshot": "frugal-mine", "cluster": "frugal"},
        )
        try:
            stage.created("frugal-too: 1 shard, 1 node, from frugal's log service", other)
            assert told(other, "EVAL", DIGEST, "0") == digest
        finally:
            other.delete()
    finally:
        kube.delete(SNAPSHOT, "--all", namespace=namespace)
        cluster.delete()
