"""What the pods of engines and of the log have in common: the restricted Pod Security Standard, where they
may run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memorycluster.api.spec import Spec
from memorycluster_operator.objects.inputs import Inputs
from memorycluster_operator.objects.names import ZONE_LABEL

USER = 10001
"""The uid and gid of every process."""

CONTAINER_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}

POD_SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_spec(inputs: Inputs, **content: Any) -> dict[str, Any]:
    """Return the spec of a pod."""
    spec = inputs.spec
    scheduling = spec.scheduling.as_written()
    secrets = [secret.as_written() for secret in spec.image_pull_secrets]
    affinity = {"nodeAffinity": _in_zones(spec), **content.pop("affinity", {})}
    return {
        "serviceAccountName": inputs.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": POD_SECURITY,
        "affinity": affinity,
        **({"imagePullSecrets": secrets} if secrets else {}),
        **{key: value for key, value in scheduling.items() if value},
        **content,
    }


def container(
    name: str,
    image: str,
    pull_policy: str | None,
    *,
    command: Sequence[str],
    env: Sequence[Mapping[str, Any]],
    ports: Mapping[str, int],
    mounts: Sequence[Mapping[str, Any]],
    resources: Mapping[str, Any],
    probes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a container."""
    return {
        "name": name,
        "image": image,
        **({"imagePullPolicy": pull_policy} if pull_policy else {}),
        "command": list(command),
        "env": list(env),
        "ports": [{"name": each, "containerPort": port, "protocol": "TCP"} for each, port in ports.items()],
        "volumeMounts": list(mounts),
        "resources": dict(resources),
        "securityContext": CONTAINER_SECURITY,
        **probes,
    }


def from_pod(name: str, path: str) -> dict[str, Any]:
    """Return an environment variable that says a field of the pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def probe(
    *,
    http: tuple[str, int] | None = None,
    tcp: int | None = None,
    period: int,
    failures: int,
    timeout: int = 3,
) -> dict[str, Any]:
    """Return a probe: ``period`` seconds between two tries, ``failures`` of them in a row count."""
    how: dict[str, Any] = (
        {"httpGet": {"path": http[0], "port": http[1]}} if http else {"tcpSocket": {"port": tcp}}
    )
    return {**how, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": timeout}


def _in_zones(spec: Spec) -> dict[str, Any]:
    expression = {"key": ZONE_LABEL, "operator": "In", "values": list(spec.zones)}
    terms = [{"matchExpressions": [expression]}]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
