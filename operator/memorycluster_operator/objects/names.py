"""What everything that belongs to a cluster is called, and labelled."""

from __future__ import annotations

from collections.abc import Mapping

from memorycluster.api.manifest import API_VERSION, KIND
from memorycluster_operator.snapshot import Cluster, Component, Key, Manifest

API_VERSIONS: Mapping[str, str] = {
    "ConfigMap": "v1",
    "Secret": "v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "StatefulSet": "apps/v1",
    "Job": "batch/v1",
}
"""The kinds of the objects that are made for a cluster."""

CLUSTER_LABEL = "memorycluster.io/cluster"
SHARD_LABEL = "memorycluster.io/shard"
ROLE_LABEL = "memorycluster.io/role"
COMPONENT_LABEL = "app.kubernetes.io/component"
ZONE_LABEL = "topology.kubernetes.io/zone"

TEMPLATE_ANNOTATION = "memorycluster.io/template"
"""On a pod: the hash of what it was made of; see objects.template."""
DEFAULT_IMAGE_ANNOTATION = "memorycluster.io/default-image"
"""On a StatefulSet: ``<version> <image>``, the image that an operator chose for a version; see
objects.images."""
HEAL_ANNOTATION = "memorycluster.io/heal"
"""On the template of the log's pods: ``<member> <uid of its pod>``, while its copy is made anew; see
plan.healing."""
CREDENTIALS_ANNOTATION = "memorycluster.io/credentials"
"""On a Secret: the hash of the credentials that it was made with."""
APPLIED_ANNOTATION = "memorycluster.io/applied"
"""On an object: the hash of what was applied, so that what is no longer wanted of it is noticed; see
drift."""


def node_name(cluster: str, shard: int, index: int) -> str:
    """Return the name of a node, which is its pod's."""
    return f"{cluster}-{shard}-{index}"


def member_name(cluster: str, index: int) -> str:
    """Return the name of a member of the log, which is its pod's."""
    return f"{cluster}-log-{index}"


def claim_name(cluster: str, index: int) -> str:
    """Return the name of the volume claim of a member of the log."""
    return f"data-{member_name(cluster, index)}"


def shard_set(cluster: str, shard: int) -> Key:
    """Return the StatefulSet of a shard."""
    return Key("StatefulSet", f"{cluster}-{shard}")


def log_set(cluster: str) -> Key:
    """Return the StatefulSet of the log."""
    return Key("StatefulSet", f"{cluster}-log")


def config_key(cluster: str) -> Key:
    """Return the ConfigMap that every engine pod reads."""
    return Key("ConfigMap", f"{cluster}-config")


def internal_secret(cluster: str) -> Key:
    """Return the Secret that every engine pod reads."""
    return Key("Secret", f"{cluster}-internal")


def log_secret(cluster: str) -> Key:
    """Return the Secret that every member of the log reads."""
    return Key("Secret", f"{cluster}-log")


def host(cluster: Cluster, service: str, domain: str) -> str:
    """Return the DNS name of a Service of the cluster."""
    return f"{service}.{cluster.namespace}.svc.{domain}"


def selector(cluster: str, component: Component, shard: int | None = None) -> dict[str, str]:
    """Return the labels by which pods are found."""
    labels = {CLUSTER_LABEL: cluster, COMPONENT_LABEL: str(component)}
    return labels if shard is None else {**labels, SHARD_LABEL: str(shard)}


def labels(cluster: str, component: Component | None = None, shard: int | None = None) -> dict[str, str]:
    """Return all labels of an object."""
    common = {
        "app.kubernetes.io/name": "memorycluster",
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/managed-by": "memorycluster-operator",
        CLUSTER_LABEL: cluster,
    }
    return common if component is None else {**common, **selector(cluster, component, shard)}


def make(
    cluster: Cluster,
    key: Key,
    *,
    component: Component | None = None,
    shard: int | None = None,
    **content: object,
) -> Manifest:
    """Return the manifest of an object that the cluster owns."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": cluster.name,
        "uid": cluster.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": API_VERSIONS[key.kind],
        "kind": key.kind,
        "metadata": {
            "name": key.name,
            "namespace": cluster.namespace,
            "labels": labels(cluster.name, component, shard),
            "ownerReferences": [owner],
        },
        **content,
    }
