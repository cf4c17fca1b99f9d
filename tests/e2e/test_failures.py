"""What fate and people do to a cluster that serves: it goes on by itself, and nothing is lost."""

from __future__ import annotations

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.kube import Kube
from tests.e2e.release import Operator
from tests.e2e.scenario import LAPSE, Stage
from tests.e2e.site import Site


@pytest.fixture
def cluster(orders: Cluster) -> Cluster:
    """The shared cluster of two shards, whole before a case. Each case must leave it so."""
    orders.whole()
    return orders


@pytest.mark.long
def test_the_primarys_pod_is_deleted(stage: Stage, cluster: Cluster) -> None:
    """In order: leadership is handed over before the engine ends, so no lease has to lapse."""
    with stage.case("primary's pod deleted", cluster) as scene:
        primary = cluster.primary()
        cluster.kube.delete("pod", primary, namespace=cluster.namespace)
        other_than(cluster, primary)
    assert scene.pause < LAPSE, f"writes paused {scene.pause:.1f} s: leadership was not handed over"


def test_the_primarys_pod_is_killed(stage: Stage, cluster: Cluster) -> None:
    with stage.case("primary's pod killed", cluster):
        primary = cluster.primary()
        cluster.kube.delete("pod", primary, namespace=cluster.namespace, force=True)
        other_than(cluster, primary)


def test_all_engines_are_killed_at_once(stage: Stage, cluster: Cluster) -> None:
    """All memory is gone; the log holds everything."""
    with stage.case("all engine pods killed", cluster):
        names = [pod["metadata"]["name"] for pod in cluster.pods("engine")]
        cluster.kube.delete("pod", *names, namespace=cluster.namespace, force=True)


@pytest.mark.long
def test_the_primarys_node_is_killed(stage: Stage, cluster: Cluster, site: Site) -> None:
    node = cluster.node_of(cluster.primary())
    with stage.case("primary's node killed", cluster) as scene, site.dead(node):
        scene.load.served_again()


def test_a_zone_is_killed(stage: Stage, cluster: Cluster, site: Site) -> None:
    """The zone of the primary, with the member of the log that leads: an election and a lease at once."""
    primary = cluster.move_primary(cluster.node_of(cluster.log_leader()))
    node = cluster.node_of(primary)
    with stage.case("zone of primary and log's leader killed", cluster) as scene, site.dead(node):
        scene.load.served_again()


def test_the_primary_is_cut_off(stage: Stage, cluster: Cluster) -> None:
    """By NetworkPolicy, from everything. It must stop serving, and lose nothing but its role.

    What the operator's policies allow, another policy can't forbid; so they are made to leave the primary
    out, while the operator is paused and doesn't heal them.
    """
    kube, policy = cluster.kube, f"{cluster.name}-engine"
    cluster.change(paused=True)
    kube.until_holds(lambda: cluster.lacks("Paused"), f"{cluster.name} paused")
    try:
        with stage.case("primary cut off by a NetworkPolicy", cluster) as scene:
            primary = cluster.primary()
            others = {"key": CUT_OFF, "operator": "DoesNotExist"}
            kube.patch(
                "networkpolicy",
                policy,
                {"spec": {"podSelector": {"matchExpressions": [others]}}},
                cluster.namespace,
            )
            kube.apply(NOBODY, namespace=cluster.namespace)
            label(cluster, primary, "yes")
            try:
                other_than(cluster, primary)
                scene.load.served_again()
            finally:
                label(cluster, primary, None)
                kube.delete("networkpolicy", CUT_OFF, namespace=cluster.namespace)
                cluster.change(paused=False)
        kube.until_holds(
            lambda: "still patched" if CUT_OFF in str(policy_of(kube, cluster, policy)) else "",
            "the operator heals its NetworkPolicy",
        )
    finally:
        cluster.change(paused=False)


@pytest.mark.long
def test_failover_without_the_operator(stage: Stage, cluster: Cluster, operator: Operator) -> None:
    with operator.down(), stage.case("failover without the operator", cluster, whole=False) as scene:
        primary = cluster.primary()
        cluster.kube.delete("pod", primary, namespace=cluster.namespace, force=True)
        scene.load.served_again()
    cluster.whole()


def test_a_node_is_drained(stage: Stage, cluster: Cluster) -> None:
    kube = cluster.kube
    with stage.case("node of the primary drained", cluster) as scene:
        node = cluster.node_of(cluster.primary())
        try:
            how = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s")
            kube("drain", node, *how, seconds=160)
            scene.load.served_again()
        finally:
            kube("uncordon", node)
    assert scene.pause < LAPSE, f"writes paused {scene.pause:.1f} s: leadership was not handed over"


CUT_OFF = "cut-off"
"""A label of our own: Cilium knows no pods by the labels that Kubernetes gives them."""
NOBODY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": CUT_OFF},
    "spec": {"podSelector": {"matchLabels": {CUT_OFF: "yes"}}, "policyTypes": ["Ingress", "Egress"]},
}
"""Under it a pod of that label talks to nobody."""


def other_than(cluster: Cluster, primary: str) -> None:
    """Wait until a shard that `primary` led has another primary."""
    shard = int(primary.rsplit("-", 2)[1])
    cluster.kube.until(
        lambda: cluster.primary(shard) != primary, f"a primary of shard {shard} other than {primary}"
    )


def label(cluster: Cluster, pod: str, value: str | None) -> None:
    """Label a pod to be cut off, or no more."""
    cluster.kube.patch("pod", pod, {"metadata": {"labels": {CUT_OFF: value}}}, cluster.namespace)


def policy_of(kube: Kube, cluster: Cluster, name: str) -> object:
    return kube.get("networkpolicy", name, cluster.namespace)["spec"]
