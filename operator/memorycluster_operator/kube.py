"""The API server, as far as it is needed: objects as JSON data, server-side apply, guarded deletes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import ConflictError, NotFoundError

from memorycluster_operator import metrics
from memorycluster_operator.snapshot import Manifest

FIELD_MANAGER = "memorycluster-operator"

REQUEST_TIMEOUT = 15.0
"""Seconds for one request."""

CONNECTIONS = 32
"""To the API server at once, beside the watches."""

UNAVAILABLE = (aiohttp.ClientError, TimeoutError, OSError)
"""The API server did not answer."""

API_ERRORS = (ApiException, *UNAVAILABLE)
"""It did not answer, or it refused."""


class Resource(NamedTuple):
    """Where objects of a kind are found."""

    api_version: str
    plural: str
    namespaced: bool = True


RESOURCES: Mapping[str, Resource] = {
    "MemoryCluster": Resource("memorycluster.io/v1alpha1", "memoryclusters"),
    "MemorySnapshot": Resource("memorycluster.io/v1alpha1", "memorysnapshots"),
    "ConfigMap": Resource("v1", "configmaps"),
    "Deployment": Resource("apps/v1", "deployments"),
    "Event": Resource("events.k8s.io/v1", "events"),
    "Job": Resource("batch/v1", "jobs"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "Node": Resource("v1", "nodes", namespaced=False),
    "PersistentVolumeClaim": Resource("v1", "persistentvolumeclaims"),
    "Pod": Resource("v1", "pods"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
    "Secret": Resource("v1", "secrets"),
    "Service": Resource("v1", "services"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "StatefulSet": Resource("apps/v1", "statefulsets"),
}
"""Every kind that the operator touches, or `memorycluster plan` reads."""


def path(kind: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Return the path of an object, or of all objects of a kind, in a namespace or everywhere."""
    resource = RESOURCES[kind]
    root = "apis" if "/" in resource.api_version else "api"
    parts = [root, resource.api_version]
    if namespace and resource.namespaced:
        parts += ["namespaces", namespace]
    return "/" + "/".join([*parts, resource.plural, *(part for part in (name, subresource) if part)])


async def configuration(kubeconfig: str | None = None) -> client.Configuration:
    """Return how to reach the API server: from the pod's service account, else from a kubeconfig.

    :param kubeconfig: its path; None: in a pod the service account, else KUBECONFIG or ``~/.kube/config``.
    :raises config.ConfigException: there is neither.
    """
    found = client.Configuration()
    found.connection_pool_maxsize = CONNECTIONS
    if kubeconfig is None:
        try:
            config.load_incluster_config(found)
        except config.ConfigException:
            pass
        else:
            return found
    await config.load_kube_config(kubeconfig, client_configuration=found, persist_config=False)
    return found


class Kube:
    """A connection to the API server. What fails raises one of API_ERRORS."""

    def __init__(self, configuration: client.Configuration) -> None:
        self._api = client.ApiClient(configuration)
        # Only its requests are used: every path is known, so nothing has to be discovered, or kept on a disk.
        self._client = DynamicClient(self._api)
        # Requests wait here, and not for a connection: their time runs from when they are sent.
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.close()

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """Return the object as it is now, or None if there is none."""
        try:
            return await self._ask("get", kind, path(kind, namespace, name))
        except NotFoundError:
            return None

    async def list(
        self,
        kind: str,
        namespace: str = "",
        *,
        labels: str = "",
        metadata_only: bool = False,
        cached: bool = False,
    ) -> tuple[list[dict[str, Any]], str]:
        """Return objects, and the resourceVersion of the list.

        :param labels: a label selector.
        :param metadata_only: leave out everything else (PartialObjectMetadata).
        :param cached: the API server may answer from its memory, perhaps with what was a moment ago.
        """
        accept = "application/json"
        if metadata_only:
            accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        answer = await self._ask(
            "list",
            kind,
            path(kind, namespace),
            label_selector=labels or None,
            resource_version="0" if cached else None,
            header_params={"Accept": accept},
        )
        items = [{**each, "kind": kind} for each in answer.get("items") or []]
        return items, answer["metadata"].get("resourceVersion", "")

    async def create(self, manifest: Manifest) -> dict[str, Any]:
        """Create an object. Raises ConflictError if there is one of its name."""
        kind, where = _whose(manifest)
        return await self._ask(
            "create", kind, path(kind, where), body=dict(manifest), field_manager=FIELD_MANAGER
        )

    async def apply(self, manifest: Manifest, *, force: bool = True) -> dict[str, Any]:
        """Make the object be as ``manifest`` says, made if it is not there, and return it.

        With a uid or resourceVersion in ``manifest``: raises ConflictError if that is not what is there.

        :param force: take over fields that somebody else has set; otherwise that is a ConflictError.
        """
        kind, where = _whose(manifest)
        body = {"apiVersion": RESOURCES[kind].api_version, "kind": kind, **manifest}
        return await self._ask(
            "apply",
            kind,
            path(kind, where, manifest["metadata"]["name"]),
            body=body,
            content_type="application/apply-patch+yaml",
            field_manager=FIELD_MANAGER,
            force_conflicts="true" if force else "false",
        )

    async def patch(
        self, kind: str, namespace: str, name: str, patch: Manifest, *, subresource: str = ""
    ) -> dict[str, Any]:
        """Change an object by a JSON merge patch, and return it.

        With a uid or resourceVersion in the patch: raises ConflictError if that is not what is there.
        """
        return await self._ask(
            "patch",
            kind,
            path(kind, namespace, name, subresource),
            body=dict(patch),
            content_type="application/merge-patch+json",
            field_manager=FIELD_MANAGER,
        )

    async def replace(self, manifest: Manifest) -> dict[str, Any]:
        """Replace an object. With a resourceVersion: raises ConflictError if it has changed since."""
        kind, where = _whose(manifest)
        return await self._ask(
            "update",
            kind,
            path(kind, where, manifest["metadata"]["name"]),
            body=dict(manifest),
            field_manager=FIELD_MANAGER,
            method="put",
        )

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str, resource_version: str = ""
    ) -> dict[str, Any] | None:
        """Delete that very object, with its own grace period; return it if it is still there, in terminating.

        :raises ConflictError: another one has its name, or it has changed. :raises NotFoundError: it is gone.
        """
        answer = await self._ask(
            "delete",
            kind,
            path(kind, namespace, name),
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": _preconditions(uid, resource_version),
                "propagationPolicy": "Background",
            },
        )
        return answer if answer.get("kind") == kind else None

    async def evict(self, namespace: str, pod: str, *, uid: str) -> None:
        """Ask for that very pod to go. Raises TooManyRequestsError if its budget does not allow it now."""
        await self._ask(
            "evict",
            "Pod",
            path("Pod", namespace, pod, "eviction"),
            body={
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": pod, "namespace": namespace},
                "deleteOptions": {"preconditions": _preconditions(uid)},
            },
            method="post",
        )

    async def served(self, kind: str) -> bool:
        """Whether the API server knows the kind."""
        api_version, plural, _ = RESOURCES[kind]
        root = "apis" if "/" in api_version else "api"
        try:
            answer = await self._ask("discover", kind, f"/{root}/{api_version}")
        except NotFoundError:
            return False
        return any(each["name"] == plural for each in answer.get("resources", []))

    async def _ask(
        self, verb: str, kind: str, path: str, *, method: str = "", **arguments: Any
    ) -> dict[str, Any]:
        async with self._turns:
            return await self._send(verb, kind, path, method, arguments)

    async def _send(
        self, verb: str, kind: str, path: str, method: str, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        with metrics.api_call(verb, kind):
            answer: dict[str, Any] = await self._client.request(
                method or METHODS[verb],
                path,
                serializer=_plain,
                _request_timeout=REQUEST_TIMEOUT,
                **arguments,
            )
        return answer


METHODS = {
    "get": "get",
    "list": "get",
    "discover": "get",
    "create": "post",
    "apply": "patch",
    "patch": "patch",
    "delete": "delete",
}


def _plain(client: object, data: dict[str, Any]) -> dict[str, Any]:
    return data


def _whose(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"].get("namespace", "")


def _preconditions(uid: str, resource_version: str = "") -> dict[str, str]:
    return {"uid": uid, **({"resourceVersion": resource_version} if resource_version else {})}


def names(objects: Sequence[Manifest]) -> list[str]:
    """Return the objects' names."""
    return [each["metadata"]["name"] for each in objects]


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status with which the API server refused, or None if it did not answer."""
    return error.status if isinstance(error, ApiException) else None


__all__ = [
    "API_ERRORS",
    "FIELD_MANAGER",
    "RESOURCES",
    "UNAVAILABLE",
    "ConflictError",
    "Kube",
    "NotFoundError",
    "configuration",
    "names",
    "path",
    "status_of",
]
