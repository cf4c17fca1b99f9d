"""How pods reach the store of the snapshots: its credentials, or an identity; the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from memorycluster.api.snapshots import SMALLEST, LogStore, SnapshotStore
from memorycluster.api.spec import Spec
from memorycluster.pod.config import CONFIG_DIR, STORES
from memorycluster.snapshot.store import CREDENTIALS
from memorycluster_operator.identity import Identity
from memorycluster_operator.snapshot import Cluster

_STORES = f"{CONFIG_DIR}/{STORES}"

IDENTITY_PORTS = (80, 988)
"""Of the clouds' services that tell a pod who it is, at link-local addresses."""


def store_of(spec: Spec) -> SnapshotStore | None:
    """Return the store of a cluster's snapshots, or None if it has none (that all its machines reach)."""
    store = spec.snapshots.store
    if store.log is not None:  # How large it may be is no matter of those who read it.
        return store.model_copy(update={"log": LogStore()})
    return store if store.s3 or store.azure or store.gcs else None


def making_store(spec: Spec, *, grow: bool = True) -> SnapshotStore:
    """Return the store as those who make snapshots need it: with what the log service's may hold.

    :param grow: False: that it may not be made to hold more than it may already.
    """
    store = spec.snapshots.store
    if store.log is None:
        return store
    log = LogStore.model_validate({"maxBytes": spec.snapshot_bytes if grow else SMALLEST})
    return store.model_copy(update={"log": log})


def room_of(spec: Spec) -> int | None:
    """Return how many bytes the snapshots of a shard may take; None: there is no limit."""
    store = spec.snapshots.store
    return None if store.log is None or store.chosen else spec.snapshot_bytes // spec.shards


def with_default_store(cluster: Cluster, identity: Identity | None) -> Cluster:
    """Return a cluster whose spec says that its log service has room for snapshots, if it has.

    It has if the cluster was made so; of one that is not made yet, if it names no other store, and the
    volumes that it asks for are large enough. So volumes that an older operator made stay as they are.
    """
    store = cluster.spec.snapshots.store
    if store.log or (identity is not None and not identity.log_store):
        return cluster
    snapshots = cluster.spec.snapshots.model_copy(
        update={"store": store.model_copy(update={"log": LogStore()})}
    )
    spec = cluster.spec.model_copy(update={"snapshots": snapshots})
    if identity is None and (store.chosen or spec.log_volume_bytes < spec.log_bytes):
        return cluster
    return replace(cluster, spec=spec)


def store_volumes(*stores: SnapshotStore | None) -> list[dict[str, Any]]:
    """Return the volumes with the stores' credentials.

    Optional: an engine must start without them, and whoever needs the store says what it answers.
    """
    return [
        {"name": f"store-{index}", "secret": {"secretName": name, "defaultMode": 0o440, "optional": True}}
        for index, name in enumerate(_secrets(*stores))
    ]


def store_mounts(*stores: SnapshotStore | None) -> list[dict[str, Any]]:
    """Return where ``store_volumes`` are. (No subPath: what is rotated must arrive.)"""
    return [
        {"name": f"store-{index}", "mountPath": f"{_STORES}/{name}", "readOnly": True}
        for index, name in enumerate(_secrets(*stores))
    ]


def store_env(*stores: SnapshotStore | None) -> list[dict[str, str]]:
    """Return the environment that tells where ``store_mounts`` are."""
    return [{"name": CREDENTIALS, "value": _STORES}] if _secrets(*stores) else []


def _secrets(*stores: SnapshotStore | None) -> list[str]:
    found = [each.credentials.secret_name for each in stores if each and each.credentials]
    return list(dict.fromkeys(found))


def identity_labels(store: SnapshotStore | None) -> dict[str, str]:
    """Return the labels of pods that get their identity from the cloud: Azure asks for one."""
    azure = store is not None and store.azure is not None and store.credentials is None
    return {"azure.workload.identity/use": "true"} if azure else {}


def store_egress(store: SnapshotStore) -> list[dict[str, Any]]:
    """Return the rules that let a pod reach a store: its port, as NetworkPolicies can't say where it is."""
    chosen = store.chosen
    if chosen is None:
        return []  # It is a log service, which pods reach anyway.
    endpoint = urlsplit(getattr(chosen, "endpoint", None) or "https://")
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    except ValueError:
        port = 443
    rules: list[dict[str, Any]] = [{"ports": [{"port": port, "protocol": "TCP"}]}]
    if store.credentials is None:
        if port != 443:
            rules.append({"ports": [{"port": 443, "protocol": "TCP"}]})
        local = [{"ipBlock": {"cidr": "169.254.0.0/16"}}, {"ipBlock": {"cidr": "fd00:ec2::/32"}}]
        ports = [{"port": each, "protocol": "TCP"} for each in IDENTITY_PORTS]
        rules.append({"to": local, "ports": ports})
    return rules
