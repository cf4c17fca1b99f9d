"""Kopf's part: the watches, which feed the cache and wake the clusters' loops.

Neither daemons, nor timers, nor creation or update handlers: Kopf puts a finalizer on what these look after,
and a finalizer is what gets stuck while an operator is away. Nothing here writes to an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import kopf

from memorycluster_operator.cache import Cache, ClusterKey, cluster_of
from memorycluster_operator.kube import RESOURCES, configuration
from memorycluster_operator.objects.names import CLUSTER_LABEL

KINDS = (
    "MemoryCluster",
    "ConfigMap",
    "Job",
    "MemorySnapshot",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "Pod",
    "PodDisruptionBudget",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet",
)
"""What is watched in the namespaces that are looked after; Nodes beside them."""


UNLABELLED = ("MemoryCluster", "MemorySnapshot", "Node")
"""The kinds that users make, or others: whose cluster they are of, no label says."""


class EndlessBackOff:
    """Seconds between tries of Kopf's requests, without an end: an API server that is away comes back."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay
            delay = min(delay * 2, 15.0)


def make_registry(
    cache: Cache,
    *,
    kinds: tuple[str, ...],
    kubeconfig: str | None,
    wake: Callable[[ClusterKey | None], None],
    listed: Callable[[], None],
) -> kopf.OperatorRegistry:
    """Return the handlers.

    :param wake: called when something about a cluster has changed; None: about a Node.
    :param listed: called when a watch begins, at the start or after a long interruption.
    """
    registry = kopf.OperatorRegistry()
    news: set[str] = set()

    # Asked again whenever the API server does not take the token any more: those of pods are replaced.
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await _credentials(kubeconfig)

    kopf.on.login(registry=registry)(login)
    for kind in kinds:
        # Indexing comes before events: so no loop starts before the cache has all that there is.
        # Both are coroutines, or Kopf would run them in threads.
        async def index(body: Mapping[str, Any], *, kind: str = kind, **_: Any) -> None:
            if cache.put({**body, "kind": kind}):
                news.add(body["metadata"]["uid"])

        async def event(event: Mapping[str, Any], *, kind: str = kind, **_: Any) -> None:
            obj = {**event["object"], "kind": kind}
            uid = obj["metadata"]["uid"]
            if event["type"] is None:
                listed()
            if cache.remove(obj) if event["type"] == "DELETED" else uid in news:
                news.discard(uid)
                wake(None if kind == "Node" else cluster_of(obj))
                if source := _read_by(obj):
                    wake(source)

        where = _where(kind)
        kopf.index(*where, id=f"index {kind}", registry=registry)(index)
        kopf.on.event(*where, id=f"event {kind}", registry=registry)(event)
    return registry


def _read_by(obj: Mapping[str, Any]) -> ClusterKey | None:
    """Return the cluster whose log is read by the one in ``obj``: it has to let that in."""
    if obj["kind"] != "MemoryCluster":
        return None
    source = ((obj.get("spec") or {}).get("restoreFrom") or {}).get("cluster")
    return ClusterKey(obj["metadata"]["namespace"], source) if source else None


def make_settings(kinds: tuple[str, ...]) -> kopf.OperatorSettings:
    """Return how Kopf is to behave."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # see lease.py
    settings.posting.enabled = False
    settings.scanning.disabled = True  # it would need the right to list every CRD and namespace
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = EndlessBackOff()
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = 90  # bookmarks come every minute
    settings.watching.reconnect_backoff = 0.5
    for kind in kinds:
        if kind not in UNLABELLED:
            settings.watching.label_selectors[_where(kind)] = CLUSTER_LABEL
    return settings


def _where(kind: str) -> tuple[str, str] | tuple[str, str, str]:
    api_version, plural, _ = RESOURCES[kind]
    group, _, version = api_version.rpartition("/")
    return (group, version, plural) if group else (version, plural)


async def _credentials(kubeconfig: str | None) -> kopf.ConnectionInfo:
    found = await configuration(kubeconfig)
    scheme, _, token = (await found.get_api_key_with_prefix("BearerToken") or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )
