"""Clusters side by side: who may connect to whom, proved by connections that succeed and that don't."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest
from tests.e2e.client import client_pod
from tests.e2e.cluster import CLIENTS, Cluster, identities
from tests.e2e.kube import Kube
from tests.e2e.release import Operator
from tests.e2e.scenario import Stage
from tests.e2e.site import Site

Target = tuple[str, int]
CLIENT, BUS, FOLLOW, AGENT = 6379, 16379, 6380, 8080
LOG, ROUTES, MONITOR = 4222, 6222, 8222
OTHERS = {"memorycluster-e2e": "other"}
"""Labels of pods that may connect to `other` only."""

TRY = """
import json, socket, sys
def connects(host, port):
    try:
        socket.create_connection((host, port), 2).close()
        return True
    except OSError:
        return False
print(json.dumps([connects(*each) for each in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def other(site: Site, stage: Stage, operator: Operator, namespace: str) -> Iterator[Cluster]:
    """A second cluster in the namespace of the first, for other clients."""
    peers = [{"podSelector": {"matchLabels": OTHERS}}]
    cluster = site.cluster(namespace, "other", shards=1, replicasPerShard=0, networkPolicy={"from": peers})
    try:
        stage.created("other: 1 shard, 1 node", cluster)
        yield cluster
    finally:
        cluster.delete()


@pytest.fixture(scope="module")
def pods(site: Site, namespace: str) -> Iterator[dict[str, str]]:
    """A client of each cluster, and a pod that is nobody's client."""
    kube, sleep = site.kube, ["sleep", "infinity"]
    labels = {"client": CLIENTS, "other-client": OTHERS, "stranger": {"app": "stranger"}}
    try:
        for name, each in labels.items():
            kube.apply(client_pod(name, site.images.client, sleep, labels=each), namespace=namespace)
        kube("wait", "pod", *labels, "-n", namespace, "--for=condition=Ready", "--timeout=60s", seconds=70)
        yield dict.fromkeys(labels, namespace)
    finally:
        kube.delete("pod", *labels, namespace=namespace, force=True)


def reached(
    kube: Kube, pod: str, targets: Sequence[Target], namespace: str, container: str = ""
) -> list[Target]:
    """Return those of the targets that a pod can connect to."""
    command = ("python3", "-c", TRY, json.dumps(targets))
    said = kube.execute(pod, *command, namespace=namespace, container=container, seconds=120)
    return [target for target, yes in zip(targets, json.loads(said), strict=True) if yes]


def address(cluster: Cluster, component: str) -> str:
    """Return the address of one pod of a component."""
    found: str = cluster.pods(component)[0]["status"]["podIP"]
    return found


def test_who_reaches_whom(orders: Cluster, other: Cluster, pods: dict[str, str], operator: Operator) -> None:
    kube, namespace = orders.kube, orders.namespace
    engine, log = address(orders, "engine"), address(orders, "log")
    theirs, their_log = address(other, "engine"), address(other, "log")
    mine = [(engine, CLIENT), (engine, BUS), (engine, FOLLOW), (engine, AGENT)]
    mine += [(log, LOG), (log, ROUTES), (log, MONITOR)]
    foreign = [(theirs, CLIENT), (theirs, BUS), (theirs, FOLLOW), (theirs, AGENT)]
    foreign += [(their_log, LOG), (their_log, ROUTES), (their_log, MONITOR)]
    everything = mine + foreign

    assert reached(kube, "client", everything, namespace) == [(engine, CLIENT)]
    assert reached(kube, "other-client", everything, namespace) == [(theirs, CLIENT)]
    assert reached(kube, "stranger", everything, namespace) == []

    # Each port that was refused above is open to whom it is for.
    [first, second, *_] = [pod["metadata"]["name"] for pod in orders.pods("engine", 0)]
    peer = kube.get("pod", second, namespace)["status"]["podIP"]
    targets = [(peer, CLIENT), (peer, BUS), (peer, FOLLOW), (peer, AGENT), *mine[4:], *foreign]
    assert reached(kube, first, targets, namespace, "agent") == [(peer, CLIENT), (peer, BUS), (log, LOG)]
    allowed = [
        (engine, AGENT),
        (log, LOG),
        (log, MONITOR),
        (theirs, AGENT),
        (their_log, LOG),
        (their_log, MONITOR),
    ]
    assert reached(kube, operator.pod(), everything, operator.namespace) == allowed


def test_a_client_that_is_let_in_later(orders: Cluster, other: Cluster, pods: dict[str, str]) -> None:
    """A change of the peers takes effect, and nothing is replaced for it."""
    kube, namespace = other.kube, other.namespace
    target = (address(other, "engine"), CLIENT)
    before = [pod["metadata"]["uid"] for pod in other.pods()]
    peers = other.spec["networkPolicy"]["from"]
    other.change(networkPolicy={"from": [*peers, {"podSelector": {"matchLabels": {"app": "stranger"}}}]})
    kube.until(lambda: reached(kube, "stranger", [target], namespace), "the stranger is let in")
    other.change(networkPolicy={"from": peers})
    kube.until(lambda: not reached(kube, "stranger", [target], namespace), "the stranger is shut out")
    assert [pod["metadata"]["uid"] for pod in other.pods()] == before


@pytest.mark.long
def test_two_clusters_in_one_namespace(stage: Stage, orders: Cluster, other: Cluster) -> None:
    """What one of them suffers, the other does not notice; nor does any object belong to both."""
    before = identities(orders.pods())
    with stage.case("the other cluster deleted and made again", orders):
        other.delete()
        other.apply()
        other.whole()
    assert identities(orders.pods()) == before
