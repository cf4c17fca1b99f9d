"""The disk of the log's member that leads rots under load: it is found and healed, and nobody helps."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator

import pytest
from tests.e2e.client import client_pod
from tests.e2e.cluster import HEALED, Cluster, identities, ready
from tests.e2e.kube import Failed, condition
from tests.e2e.release import Operator
from tests.e2e.scenario import Stage
from tests.e2e.site import Site

VALUES, SIZE = 50, 500_000
"""Three blocks of the log."""
FOUND = 300.0
"""Seconds within which some reader must have met what is rotten: each is put on any member."""
SPOILER = "spoiler"
SPOIL = """
import os, pathlib
blocks = pathlib.Path("/data/jetstream").glob("*/streams/*/msgs/*.blk")
first, *others = sorted(blocks, key=lambda path: int(path.stem))
assert others, "it is not written to any more"
with first.open("r+b") as file:
    file.seek(first.stat().st_size // 2)
    byte = file.read(1)
    file.seek(-1, os.SEEK_CUR)
    file.write(bytes([byte[0] ^ 1]))
"""
"""Flips a bit in the middle of the oldest block, while the server runs."""

pytestmark = [pytest.mark.long]


@pytest.fixture
def brittle(site: Site, stage: Stage, operator: Operator, namespace: str) -> Iterator[Cluster]:
    """One shard of two nodes."""
    cluster = site.cluster(namespace, "brittle", shards=1, replicasPerShard=1)
    try:
        stage.created("brittle: 1 shard, 2 nodes", cluster)
        yield cluster
    finally:
        cluster.delete()
        cluster.kube("delete", "pvc", "-n", namespace, "-l", cluster.selector, "--wait=false")


def test_a_rotten_copy_of_the_log_is_healed(stage: Stage, brittle: Cluster, site: Site) -> None:
    kube = brittle.kube
    written = fill(brittle)
    with stage.case("copy of the log's leader rotten", brittle) as scene:
        victim = brittle.log_leader()
        before = identities(brittle.pods("log"))
        volumes = {name: volume_of(brittle, name) for name in before}
        spoil(brittle, victim, site.images.client)
        meet(brittle)
        kube.until_holds(lambda: not_replaced(brittle, victim, before[victim]), "healing", seconds=HEALED)
        kube.until_holds(lambda: brittle.lacks("LogIntact"), f"{victim} healed", seconds=HEALED)
        brittle.whole()
        scene.load.served_again()
        after = identities(brittle.pods("log"))
        assert {name for name in before if before[name] != after[name]} == {victim}
        assert {name: volume_of(brittle, name) for name in before} == volumes, "the volume is the same"
        assert events(brittle, "LogHealed")
        # All memory is gone: what is there then was read from the log, the new copy included.
        nodes = [pod["metadata"]["name"] for pod in brittle.pods("engine")]
        kube.delete("pod", *nodes, namespace=brittle.namespace, force=True)
    assert {key: digest(brittle, key) for key in written} == written


def fill(cluster: Cluster) -> dict[str, str]:
    """Write until the log has several blocks; return the digest of each value."""
    primary, written = cluster.primary(), {}
    for number in range(VALUES):
        key, value = f"brittle:{number}", os.urandom(SIZE // 2).hex()
        said = cluster.kube(
            *("exec", "-i", primary, "-n", cluster.namespace, "-c", "engine"),
            *("--", "valkey-cli", "-x", "SET", key),
            stdin=value,
        )
        assert said.strip() == "OK"
        written[key] = hashlib.sha1(value.encode()).hexdigest()
    return written


def digest(cluster: Cluster, key: str) -> str:
    """Return the digest of a key's value, as the primary has it."""
    script = "return redis.sha1hex(redis.call('GET', KEYS[1]) or '')"
    command = (cluster.primary(), "valkey-cli", "--raw", "EVAL", script, "1", key)
    return cluster.kube.execute(*command, namespace=cluster.namespace, container="engine").strip()


def spoil(cluster: Cluster, member: str, image: str) -> None:
    """Flip a bit on the volume of a member, from a pod beside it."""
    kube = cluster.kube
    pod = client_pod(SPOILER, image, ["python3", "-c", SPOIL])
    spec = pod["spec"]
    spec["affinity"] = {}
    spec["nodeName"] = cluster.node_of(member)
    spec["volumes"].append(
        {"name": "data", "persistentVolumeClaim": {"claimName": f"data-{member}"}},
    )
    spec["containers"][0]["volumeMounts"].append({"name": "data", "mountPath": "/data"})
    kube.apply(pod, namespace=cluster.namespace)
    try:
        kube.until_holds(lambda: not_done(cluster), f"a block of {member} rotten")
    finally:
        kube.delete("pod", SPOILER, namespace=cluster.namespace, force=True)


def not_done(cluster: Cluster) -> str:
    status = cluster.kube.get("pod", SPOILER, cluster.namespace)["status"]
    return "" if status["phase"] == "Succeeded" else str(status)


def meet(cluster: Cluster) -> None:
    """Have replicas read the log anew, one after the other, until one has met what is rotten."""
    kube, deadline = cluster.kube, time.monotonic() + FOUND
    while not known(cluster):
        if time.monotonic() > deadline:
            raise Failed(f"not within {FOUND:g} s: a copy of the log is known to be rotten")
        primary = cluster.primary()
        [replica] = [
            pod["metadata"]["name"] for pod in cluster.pods("engine") if pod["metadata"]["name"] != primary
        ]
        before = identities(cluster.pods("engine"))[replica]
        kube.delete("pod", replica, namespace=cluster.namespace)
        kube.until_holds(lambda: unready(cluster, replica, before), f"{replica} back")  # noqa: B023


def known(cluster: Cluster) -> bool:
    """Whether a copy of the log is known to be rotten, or was a moment ago."""
    found = condition(cluster.resource(), "LogIntact")
    return found.get("reason") == "RottenCopy" or bool(events(cluster, "LogHealed"))


def unready(cluster: Cluster, name: str, before: str) -> str:
    """Return what is wrong if a pod is not another one, and ready."""
    pod = cluster.kube.get("pod", name, cluster.namespace)
    if pod["metadata"]["uid"] == before:
        return f"{name} is still the same"
    return "" if ready(pod) else f"{name} is not ready"


def not_replaced(cluster: Cluster, name: str, uid: str) -> str:
    """Return what is wrong if there is no other pod of a name; only somebody else may have replaced it."""
    found = identities(cluster.pods("log")).get(name)
    return "" if found not in (None, uid) else f"{name} is the same: {cluster.status().get('message')}"


def volume_of(cluster: Cluster, member: str) -> str:
    uid: str = cluster.kube.get("pvc", f"data-{member}", cluster.namespace)["metadata"]["uid"]
    return uid


def events(cluster: Cluster, reason: str) -> list[str]:
    """Return the events of a reason."""
    said = cluster.kube("get", "events", "-n", cluster.namespace, "--field-selector", f"reason={reason}")
    return [line for line in said.splitlines() if cluster.name in line]
