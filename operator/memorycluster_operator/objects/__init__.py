"""The objects of a cluster, as they should be: pure builders from what is wanted to manifests."""

from __future__ import annotations

from collections.abc import Iterator

from memorycluster.api.spec import Spec
from memorycluster_operator.objects import engine, log, names, network
from memorycluster_operator.objects.credentials import internal_secret
from memorycluster_operator.objects.inputs import Inputs
from memorycluster_operator.objects.names import API_VERSIONS, make
from memorycluster_operator.objects.store import store_of
from memorycluster_operator.snapshot import Key, Manifest

__all__ = ["API_VERSIONS", "build_objects", "wanted_keys"]


def build_objects(inputs: Inputs) -> dict[Key, Manifest]:
    """Return all objects that can be built from ``inputs``, in the order in which they are needed."""
    return dict(_build(inputs))


def _build(inputs: Inputs) -> Iterator[tuple[Key, Manifest]]:
    account = Key("ServiceAccount", inputs.name)
    yield account, _account(inputs, account)
    yield from network.network_policies(inputs)
    yield from network.services(inputs)
    yield from network.disruption_budgets(inputs)
    if inputs.credentials is not None:
        yield internal_secret(inputs, inputs.credentials)
        yield log.log_secret(inputs, inputs.credentials)
    if inputs.identity is not None:
        yield engine.config_map(inputs, inputs.identity)
    yield log.log_stateful_set(inputs)
    for shard in range(inputs.spec.shards):
        yield engine.shard_stateful_set(inputs, shard)


def _account(inputs: Inputs, key: Key) -> Manifest:
    manifest = make(inputs.cluster, key, automountServiceAccountToken=False)
    annotations = dict(inputs.spec.snapshots.service_account_annotations)
    if not annotations:
        return manifest
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


def wanted_keys(cluster: str, spec: Spec) -> frozenset[Key]:
    """Return every object that a cluster of this name and spec has."""
    shards = [f"{cluster}-{shard}" for shard in range(spec.shards)]
    endings = ["", "-replicas", "-nodes", "-log", *(["-primary"] if spec.shards == 1 else [])]
    policies = ["engine", "log", *(["snapshot"] if store_of(spec) else [])]
    return frozenset(
        [
            Key("ServiceAccount", cluster),
            names.config_key(cluster),
            names.internal_secret(cluster),
            names.log_secret(cluster),
            *(Key("NetworkPolicy", f"{cluster}-{each}") for each in policies),
            *(Key("Service", cluster + ending) for ending in endings),
            *(Key("PodDisruptionBudget", name) for name in (*shards, f"{cluster}-log")),
            *(Key("StatefulSet", name) for name in (*shards, f"{cluster}-log")),
        ]
    )
