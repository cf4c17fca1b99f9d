"""What an action makes sure of just before it is carried out: what was seen may be no longer so."""

from __future__ import annotations

from typing import Any, cast

import pytest

from memorycluster_operator.actions import OwnClaim
from memorycluster_operator.agents import Agents
from memorycluster_operator.apply import Applier, Outcome
from memorycluster_operator.cache import Cache, ClusterKey
from memorycluster_operator.kube import Kube
from memorycluster_operator.logs import Logs

KEY = ClusterKey("shop", "orders")


class ApiServer:
    """Holds one MemoryCluster, and takes any patch."""

    def __init__(self, cluster: dict[str, Any] | None) -> None:
        self.cluster = cluster
        self.patched: list[str] = []

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace, name) == ("MemoryCluster", *KEY)
        return self.cluster

    async def patch(self, kind: str, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        self.patched.append(name)
        return {"kind": kind, "metadata": {"name": name, "namespace": namespace, "uid": "claim-1"}}


class Store:
    """A cache that nobody reads."""

    def put(self, obj: dict[str, Any]) -> None:
        """Forget it."""


def cluster(
    uid: str = "cluster-1", policy: str | None = "Delete", told: str = "Delete", **metadata: str
) -> dict[str, Any]:
    spec = {"deletionPolicy": policy} if policy else {}
    return {"metadata": {"uid": uid, **metadata}, "spec": spec, "status": {"deletionPolicy": told}}


async def own(server: ApiServer, cluster_uid: str) -> Outcome:
    applier = Applier(cast(Kube, server), cast(Cache, Store()), cast(Agents, None), cast(Logs, None))
    action = OwnClaim("data-orders-log-0", "claim-1", "7", (), "why", cluster_uid=cluster_uid)
    return (await applier.apply(KEY, action))[0]


@pytest.mark.parametrize(
    "found",
    [
        None,
        cluster(uid="another"),
        cluster(deletionTimestamp="2026-01-01T00:00:00Z"),
        cluster(policy="Retain"),
        cluster(policy=None),
        cluster(told="Retain"),
        {**cluster(), "status": None},
    ],
    ids=["gone", "another", "being deleted", "to retain", "default", "not told", "no status"],
)
async def test_no_volume_is_given_to_a_cluster_that_is_not_there_as_it_was_seen(
    found: dict[str, Any] | None,
) -> None:
    server = ApiServer(found)
    assert await own(server, "cluster-1") is Outcome.REFUSED
    assert server.patched == []


async def test_a_volume_is_given_to_a_cluster_that_says_so() -> None:
    server = ApiServer(cluster())
    assert await own(server, "cluster-1") is Outcome.DONE
    assert server.patched == ["data-orders-log-0"]


async def test_a_volume_is_released_whatever_became_of_the_cluster() -> None:
    server = ApiServer(None)
    assert await own(server, "") is Outcome.DONE
    assert server.patched == ["data-orders-log-0"]
