"""From Kubernetes' objects to the facts of a snapshot. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from memorycluster.api.spec import Spec
from memorycluster_operator import quantity
from memorycluster_operator.cache import controller
from memorycluster_operator.identity import ANNOTATION
from memorycluster_operator.objects.names import (
    COMPONENT_LABEL,
    ROLE_LABEL,
    SHARD_LABEL,
    TEMPLATE_ANNOTATION,
    ZONE_LABEL,
)
from memorycluster_operator.snapshot import Claim, Cluster, Component, Manifest, Pod

REVISION_LABEL = "controller-revision-hash"

_NUMBERED = re.compile(r"(.+)-([0-9]+)")


def cluster_facts(obj: Manifest) -> Cluster:
    """Return the MemoryCluster in ``obj``. Raises pydantic.ValidationError if its spec is not valid."""
    metadata = obj["metadata"]
    return Cluster(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        spec=Spec.model_validate(obj.get("spec") or {}),
        status=obj.get("status") or {},
        deleting="deletionTimestamp" in metadata,
        finalizers=tuple(metadata.get("finalizers") or ()),
        created=time_of(metadata["creationTimestamp"]) if "creationTimestamp" in metadata else None,
    )


def pod_facts(cluster: str, obj: Manifest, nodes: Mapping[str, Manifest]) -> Pod | None:
    """Return the pod in ``obj``, or None if it is not one of the cluster's StatefulSets'."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    labels = metadata.get("labels") or {}
    owner = controller(obj)
    match = _NUMBERED.fullmatch(metadata["name"])
    if owner is None or owner.get("kind") != "StatefulSet" or match is None or owner["name"] != match[1]:
        return None
    component, shard = labels.get(COMPONENT_LABEL), None
    if component == Component.ENGINE:
        prefix = _NUMBERED.fullmatch(match[1])
        if prefix is None or prefix[1] != cluster or labels.get(SHARD_LABEL) != prefix[2]:
            return None
        shard = int(prefix[2])
    elif component != Component.LOG or match[1] != f"{cluster}-log":
        return None
    node = nodes.get(spec.get("nodeName") or "")
    node_labels = node["metadata"].get("labels") or {} if node else {}
    waiting, message = _waiting(status)
    deleted = metadata.get("deletionTimestamp")
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        component=Component(component),
        shard=shard,
        index=int(match[2]),
        created=time_of(metadata["creationTimestamp"]),
        template=(metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""),
        revision=labels.get(REVISION_LABEL, ""),
        role=labels.get(ROLE_LABEL, ""),
        kubernetes_node=spec.get("nodeName") or "",
        node_ready=_node_ready(spec.get("nodeName") or "", node, nodes),
        node_gone=bool(spec.get("nodeName")) and bool(nodes) and node is None,
        zone=labels.get(ZONE_LABEL) or node_labels.get(ZONE_LABEL) or "",
        zone_labelled=ZONE_LABEL in labels,
        ip=status.get("podIP") or "",
        phase=status.get("phase") or "Pending",
        ready=_condition(status, "Ready").get("status") == "True",
        running=_running(status, "engine" if component == Component.ENGINE else "log"),
        waiting=waiting,
        message=message,
        restarts=sum(each.get("restartCount", 0) for each in status.get("containerStatuses") or []),
        terminating=deleted is not None,
    )


def claim_facts(cluster: str, obj: Manifest) -> Claim | None:
    """Return the volume claim in ``obj``, or None if it is not one of the cluster's log."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    match = _NUMBERED.fullmatch(metadata["name"])
    if match is None or match[1] != f"data-{cluster}-log":
        return None
    capacity = (status.get("capacity") or {}).get("storage")
    return Claim(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        index=int(match[2]),
        size=_bytes(spec.get("resources", {}).get("requests", {}).get("storage")) or 0,
        phase=status.get("phase") or "Pending",
        created=time_of(metadata["creationTimestamp"]),
        owners=tuple(metadata.get("ownerReferences") or ()),
        capacity=_bytes(capacity),
        identity=(metadata.get("annotations") or {}).get(ANNOTATION),
        terminating="deletionTimestamp" in metadata,
        message=next((each["message"] for each in status.get("conditions") or [] if each.get("message")), ""),
    )


def time_of(text: str) -> datetime:
    """Return the time that Kubernetes writes as ``text``."""
    return datetime.fromisoformat(text)


def _bytes(amount: object) -> int | None:
    found = quantity.parse(amount)
    return None if found is None else int(found)


def _node_ready(name: str, node: Manifest | None, nodes: Mapping[str, Manifest]) -> bool | None:
    if not name or not nodes:
        return None
    if node is None:
        return False
    return bool(_condition(node.get("status") or {}, "Ready").get("status") == "True")


def _running(status: Mapping[str, Any], container: str) -> bool:
    return any(
        "running" in (each.get("state") or {})
        for each in status.get("containerStatuses") or []
        if each.get("name") == container
    )


def _waiting(status: Mapping[str, Any]) -> tuple[str, str]:
    for each in _containers(status):
        state = each.get("state") or {}
        if waiting := state.get("waiting"):
            return waiting.get("reason") or "", waiting.get("message") or ""
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return scheduled.get("reason") or "", scheduled.get("message") or ""
    return "", ""


def _containers(status: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def _condition(status: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    return next((each for each in status.get("conditions") or [] if each.get("type") == type_), {})
