"""What is left when everything else is deleted: the log's volumes, and with them all data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.release import Operator
from tests.e2e.scenario import Stage
from tests.e2e.site import Site

EVERYTHING = (
    "statefulsets,pods,services,secrets,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies"
)
"""All that the operator makes for a cluster, but the volumes, which the StatefulSet's claims are for."""


@pytest.fixture
def keeper(site: Site, stage: Stage, operator: Operator, namespace: str) -> Iterator[Cluster]:
    """One shard of two nodes."""
    cluster = site.cluster(namespace, "keeper", shards=1, replicasPerShard=1)
    try:
        stage.created("keeper: 1 shard, 2 nodes", cluster)
        yield cluster
    finally:
        cluster.delete()
        cluster.kube("delete", "pvc", "-n", namespace, "-l", cluster.selector, "--wait=false")


def volumes(cluster: Cluster) -> dict[str, str]:
    """Return the uid of each volume claim of a cluster."""
    found = cluster.kube.select("pvc", cluster.namespace, cluster.selector)
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in found}


def test_deleted_and_made_again(stage: Stage, keeper: Cluster, operator: Operator) -> None:
    """The clients go on all the while: what they were told before must be there afterwards."""
    before = volumes(keeper)
    assert len(before) == 3
    with stage.case("deleted and applied again", keeper) as scene:
        keeper.delete()
        assert volumes(keeper) == before, "the volumes stay"
        keeper.apply()
        keeper.whole()
        scene.load.served_again()
    assert volumes(keeper) == before, "and are the same"

    with stage.case("all but the log's volumes deleted", keeper) as scene:
        with operator.down():
            keeper.delete(wait=False)
            keeper.kube(
                *("delete", EVERYTHING, "-n", keeper.namespace, "-l", keeper.selector),
                *("--force", "--grace-period=0", "--wait=false"),
            )
            keeper.kube.until_holds(keeper.pods_left, "all pods gone")
            keeper.kube.gone("memoryclusters.memorycluster.io", keeper.name, namespace=keeper.namespace)
        assert volumes(keeper) == before, "the volumes stay"
        keeper.apply()
        keeper.whole()
        scene.load.served_again()


@pytest.mark.long
def test_deletion_policy_delete(keeper: Cluster) -> None:
    keeper.change(deletionPolicy="Delete")
    keeper.kube.until_holds(lambda: unowned(keeper), "volumes owned")
    keeper.delete()
    keeper.kube.until_holds(lambda: ", ".join(volumes(keeper)), "volumes gone")


@pytest.mark.long
def test_volumes_stay_although_that_was_said_a_moment_before(keeper: Cluster) -> None:
    """Who is faster than the operator is refused until that has released the volumes."""
    keeper.change(deletionPolicy="Delete")
    keeper.kube.until_holds(lambda: unowned(keeper), "volumes owned")
    before = volumes(keeper)
    keeper.change(deletionPolicy="Retain")

    def deleted() -> bool:
        keeper.delete(wait=False)
        return True

    keeper.kube.until(deleted, "its deletion is accepted", every=0.1)
    keeper.delete()
    assert volumes(keeper) == before, "the volumes stay"
    keeper.apply()
    keeper.whole()
    assert volumes(keeper) == before


def unowned(cluster: Cluster) -> str:
    """Return what is wrong if its volumes do not go with a cluster."""
    uid = cluster.resource()["metadata"]["uid"]
    found = cluster.kube.select("pvc", cluster.namespace, cluster.selector)
    kept = [
        each["metadata"]["name"]
        for each in found
        if uid not in [owner["uid"] for owner in each["metadata"].get("ownerReferences", [])]
    ]
    return f"not owned: {kept}" if kept or not found else ""
