"""The cache: the newest version wins, whoever tells of it first; what is gone stays gone."""

from __future__ import annotations

import base64
from typing import Any

from memorycluster_operator.cache import Cache, ClusterKey
from memorycluster_operator.snapshot import Key

WHERE = ClusterKey("shop", "orders")
OWNER = {"kind": "MemoryCluster", "name": "orders", "uid": "owner", "controller": True}


def thing(
    version: int, *, kind: str = "Service", name: str = "orders", uid: str = "a", **more: Any
) -> dict[str, Any]:
    metadata = {
        "namespace": "shop",
        "name": name,
        "uid": uid,
        "resourceVersion": str(version),
        "labels": {"memorycluster.io/cluster": "orders"},
        "ownerReferences": [OWNER],
        "managedFields": ["much"],
    }
    return {"kind": kind, "metadata": metadata, **more}


def version(cache: Cache) -> str | None:
    found = cache.children(WHERE).get(Key("Service", "orders"))
    return found["metadata"]["resourceVersion"] if found else None


def test_the_newest_version_wins() -> None:
    cache = Cache()
    assert cache.put(thing(9))
    assert not cache.put(thing(9)), "no news"
    assert not cache.put(thing(8)), "an older one"
    assert cache.put(thing(10)), "also where 10 is less than 9 as text"
    assert version(cache) == "10"
    assert "managedFields" not in cache.children(WHERE)[Key("Service", "orders")]["metadata"]


def test_late_news_of_a_deleted_object_do_not_bring_it_back() -> None:
    cache = Cache()
    cache.put(thing(5))
    assert cache.remove(thing(7))
    assert not cache.put(thing(6))
    assert version(cache) is None


def test_a_successor_of_the_same_name_is_not_removed_with_it() -> None:
    cache = Cache()
    cache.put(thing(5))
    cache.put(thing(8, uid="b"))
    assert not cache.remove(thing(7))
    assert version(cache) == "8"


def test_an_object_that_got_its_label_back_is_there_again() -> None:
    """A watch by label tells of a lost label as of a deletion."""
    cache = Cache()
    cache.put(thing(5))
    cache.remove(thing(6))
    assert cache.put(thing(7))
    assert version(cache) == "7"


def test_what_an_audit_removed_stays_away_whatever_was_known_of_it() -> None:
    cache = Cache()
    cache.put(thing(5))
    assert cache.remove(thing(5), "100")
    assert not cache.put(thing(50))


def test_clusters_are_those_that_exist() -> None:
    cache = Cache()
    cache.put(thing(1))
    assert cache.clusters() == []
    memory_cluster = thing(2, kind="MemoryCluster", uid="owner")
    cache.put(memory_cluster)
    assert cache.clusters() == [WHERE]
    assert Key("MemoryCluster", "orders") not in cache.children(WHERE)
    cache.remove(memory_cluster)
    assert cache.clusters() == []
    assert version(cache) == "1"


def test_objects_without_the_label_are_nobodys() -> None:
    cache = Cache()
    stranger = thing(1)
    stranger["metadata"]["labels"] = {}
    assert not cache.put(stranger)
    assert cache.children(WHERE) == {}


def test_secrets_are_remembered_as_long_as_their_owner_lives() -> None:
    cache = Cache()
    owner = thing(1, kind="MemoryCluster", uid="owner")
    cache.put(owner)
    data = {"password": base64.b64encode(b"old").decode(), "binary": base64.b64encode(b"\xff").decode()}
    secret = thing(2, kind="Secret", name="orders-internal", uid="s", data=data)
    cache.put(secret)
    cache.put(thing(3, kind="Secret", name="orders-internal", uid="s", data={}))
    cache.remove(thing(4, kind="Secret", name="orders-internal", uid="s"))
    assert cache.secrets_seen("owner") == {"orders-internal": {"password": "old"}}
    cache.remove(owner)
    assert cache.secrets_seen("owner") == {}


def test_of_a_node_only_what_matters_is_news() -> None:
    def node(version: int, ready: str) -> dict[str, Any]:
        conditions = [{"type": "Ready", "status": ready, "lastHeartbeatTime": version}]
        metadata = {"name": "n", "uid": "n", "resourceVersion": str(version)}
        return {"kind": "Node", "metadata": metadata, "status": {"conditions": conditions}}

    cache = Cache()
    assert cache.put(node(1, "True"))
    assert not cache.put(node(2, "True")), "a heartbeat"
    assert cache.put(node(3, "Unknown"))
    assert cache.nodes()["n"]["metadata"]["resourceVersion"] == "3"
