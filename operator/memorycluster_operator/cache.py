"""What the API server has told: the objects of all clusters, as the watches and our own writes say.

Kopf's own indexes would not do: they keep what vanished while a watch was interrupted for long, and know
of our own writes only when the watch tells. So Kopf feeds this one, apply adds what it was answered, and an
audit (``audit.py``) removes what is no more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from memorycluster_operator.makings import Asked, asked_facts
from memorycluster_operator.objects.credentials import decoded
from memorycluster_operator.objects.names import CLUSTER_LABEL, ZONE_LABEL
from memorycluster_operator.snapshot import Key, Manifest

REMEMBERED_DEAD = 50_000
"""Deleted objects that are known, with the version at which they went: late news brings none back."""


class ClusterKey(NamedTuple):
    """A MemoryCluster, or where one was."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Cache:
    """The newest version known of each object."""

    def __init__(self) -> None:
        self._objects: dict[ClusterKey, dict[Key, dict[str, Any]]] = {}
        self._nodes: dict[str, dict[str, Any]] = {}
        self._dead: OrderedDict[str, int] = OrderedDict()
        self._secrets: dict[str, dict[str, dict[str, str]]] = {}

    def put(self, obj: Mapping[str, Any]) -> bool:
        """Take in an object; return whether that is news."""
        metadata = obj["metadata"]
        if int(metadata["resourceVersion"]) <= self._dead.get(metadata["uid"], -1):
            return False
        kind, name = obj["kind"], metadata["name"]
        kept = _kept(obj)
        if kind == "Node":
            known = self._nodes.get(name)
            if known is None or _newer(kept, known):
                self._nodes[name] = kept
                return known is None or node_facts(known) != node_facts(kept)
            return False
        if (cluster := cluster_of(obj)) is None:
            return False
        objects = self._objects.setdefault(cluster, {})
        known = objects.get(Key(kind, name))
        if known is not None and not _newer(kept, known):
            return False
        objects[Key(kind, name)] = kept
        if kind == "Secret":
            self._remember(kept)
        return True

    def remove(self, obj: Mapping[str, Any], version: str = "") -> bool:
        """Forget an object that was deleted, or has lost its label; return whether that is news.

        :param version: the resourceVersion at which it was not there any more; by default that of ``obj``.
        """
        metadata = obj["metadata"]
        self._dead[metadata["uid"]] = int(version or metadata["resourceVersion"])
        while len(self._dead) > REMEMBERED_DEAD:
            self._dead.popitem(last=False)
        if obj["kind"] == "Node":
            return self._nodes.pop(metadata["name"], None) is not None
        if (cluster := cluster_of(obj)) is None:
            return False
        objects = self._objects.get(cluster, {})
        key = Key(obj["kind"], metadata["name"])
        known = objects.get(key)
        if known is None or known["metadata"]["uid"] != metadata["uid"]:
            return False
        del objects[key]
        if not objects:
            del self._objects[cluster]
        if obj["kind"] == "MemoryCluster":
            self._secrets.pop(metadata["uid"], None)
        return True

    def clusters(self) -> list[ClusterKey]:
        """Return the MemoryClusters that exist."""
        return [key for key, objects in self._objects.items() if Key("MemoryCluster", key.name) in objects]

    def abandoned(self) -> list[ClusterKey]:
        """Return the clusters that are gone while MemorySnapshots wait for their data to be deleted."""
        return [key for key in self._objects if self.cluster(key) is None and self.forgetting(key)]

    def forgetting(self, key: ClusterKey) -> list[Asked]:
        """Return a cluster's MemorySnapshots that are being deleted with their data."""
        found = (obj for each, obj in self.children(key).items() if each.kind == "MemorySnapshot")
        return [asked for asked in map(asked_facts, found) if asked.forgetting]

    def cluster(self, key: ClusterKey) -> dict[str, Any] | None:
        """Return a MemoryCluster."""
        return self._objects.get(key, {}).get(Key("MemoryCluster", key.name))

    def children(self, key: ClusterKey) -> Mapping[Key, Manifest]:
        """Return all objects that are labelled with a cluster, whoever made them; not the MemoryCluster."""
        return {each: obj for each, obj in self._objects.get(key, {}).items() if each.kind != "MemoryCluster"}

    def nodes(self) -> Mapping[str, Manifest]:
        """Return the Nodes by name; none if they are not watched."""
        return self._nodes

    def all_of(self, kind: str) -> Iterator[Manifest]:
        """Yield every object of a kind."""
        if kind == "Node":
            yield from self._nodes.values()
            return
        for objects in self._objects.values():
            yield from (obj for key, obj in objects.items() if key.kind == kind)

    def secrets_seen(self, uid: str) -> Mapping[str, Mapping[str, str]]:
        """Return what was last in the Secrets of the MemoryCluster of this uid, by Secret and key."""
        return self._secrets.get(uid, {})

    def _remember(self, secret: Manifest) -> None:
        if (owner := controller(secret)) is None or owner.get("kind") != "MemoryCluster":
            return
        known = self._secrets.setdefault(owner["uid"], {}).setdefault(secret["metadata"]["name"], {})
        known |= {key: value for key, value in decoded(secret).items() if value}


def cluster_of(obj: Mapping[str, Any]) -> ClusterKey | None:
    """Return the cluster that an object belongs to, by its label; of a MemoryCluster itself."""
    metadata = obj["metadata"]
    if obj["kind"] == "MemoryCluster":
        return ClusterKey(metadata["namespace"], metadata["name"])
    name = (metadata.get("labels") or {}).get(CLUSTER_LABEL)
    if obj["kind"] == "MemorySnapshot":
        name = (obj.get("spec") or {}).get("cluster")
    return ClusterKey(metadata["namespace"], name) if name else None


def controller(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the reference to the object's controller, or None."""
    owners = obj["metadata"].get("ownerReferences") or []
    return next((each for each in owners if each.get("controller")), None)


def node_facts(node: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what matters of a Node: its heartbeats don't."""
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = [each.get("status") for each in conditions if each.get("type") == "Ready"]
    return (ready, (node["metadata"].get("labels") or {}).get(ZONE_LABEL))


def _kept(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return what somebody asks for: of some kinds that is the smaller part of an object."""
    metadata = {each: value for each, value in obj["metadata"].items() if each != "managedFields"}
    kept = {**obj, "metadata": metadata}
    if obj["kind"] == "Pod":
        kept["spec"] = {"nodeName": (obj.get("spec") or {}).get("nodeName")}
    elif obj["kind"] == "Node":
        kept["metadata"] = {each: metadata[each] for each in ("name", "uid", "resourceVersion")}
        kept["metadata"]["labels"] = {
            key: value for key, value in (metadata.get("labels") or {}).items() if key == ZONE_LABEL
        }
        conditions = (obj.get("status") or {}).get("conditions") or []
        kept["status"] = {"conditions": [each for each in conditions if each.get("type") == "Ready"]}
        kept.pop("spec", None)
    return kept


def _newer(obj: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    mine, theirs = obj["metadata"], known["metadata"]
    return int(mine["resourceVersion"]) > int(theirs["resourceVersion"])
