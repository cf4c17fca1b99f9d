"""Carries out what a plan asks for. Each action is guarded: on what has changed since, it is refused."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

from kubernetes.aio.client.exceptions import ApiException

from memorycluster.api.manifest import API_VERSION, KIND
from memorycluster.log.interface import LogError
from memorycluster_operator import metrics
from memorycluster_operator.actions import (
    Action,
    ApplyObject,
    CreateLog,
    DeletePod,
    Discard,
    Event,
    EvictPod,
    FailOver,
    GrowClaim,
    GrowLog,
    LabelPod,
    OwnClaim,
    SaveIdentity,
    SetFinalizers,
    SetParameters,
    StampClaim,
    StepDown,
    TellSnapshot,
)
from memorycluster_operator.agents import AgentError, Agents
from memorycluster_operator.cache import Cache, ClusterKey
from memorycluster_operator.identity import ANNOTATION
from memorycluster_operator.kube import API_ERRORS, ConflictError, Kube, status_of
from memorycluster_operator.lease import brief
from memorycluster_operator.logs import Logs
from memorycluster_operator.snapshot import LAST_SNAPSHOT_FINALIZER, Cluster, Key

logger = logging.getLogger(__name__)

REFUSALS = (404, 409, 429)
"""HTTP statuses by which the API server says that it is not what it was, or not the time: no errors."""

CLAIM = "PersistentVolumeClaim"


class Outcome(StrEnum):
    """What became of an action."""

    DONE = "done"
    REFUSED = "refused"
    """By a guard: the next snapshot shows why."""
    FAILED = "failed"


class Applier:
    """Does things."""

    def __init__(self, kube: Kube, cache: Cache, agents: Agents, logs: Logs) -> None:
        self._kube = kube
        self._cache = cache
        self._agents = agents
        self._logs = logs

    async def apply(self, key: ClusterKey, action: Action) -> tuple[Outcome, str]:
        """Carry out one action for a cluster; return what became of it, and what is wrong if it failed."""
        what = describe(action)
        try:
            await self._do(key, action)
        except (*API_ERRORS, LogError, AgentError) as error:
            refused = status_of(error) in REFUSALS
            outcome = Outcome.REFUSED if refused else Outcome.FAILED
            message = f"{what}: {explain(error)}"
            logger.log(logging.INFO if refused else logging.WARNING, "%s: %s: %s", key, outcome, message)
        else:
            outcome, message = Outcome.DONE, ""
            logger.info("%s: %s (%s)", key, what, action.reason)
        metrics.ACTIONS.labels(type(action).__name__, outcome).inc()
        return outcome, message

    async def _do(self, key: ClusterKey, action: Action) -> None:
        kube, namespace = self._kube, key.namespace
        match action:
            case ApplyObject(create=True):
                self._cache.put(await kube.create(action.manifest))
            case ApplyObject():
                guards = {"uid": action.uid, "resourceVersion": action.resource_version}
                metadata = {**action.manifest["metadata"], **{k: v for k, v in guards.items() if v}}
                # What we have not seen, we don't take over: then fields of others stay theirs.
                known = bool(action.uid)
                self._cache.put(await kube.apply({**action.manifest, "metadata": metadata}, force=known))
            case SaveIdentity():
                patch = {
                    "metadata": {"resourceVersion": action.resource_version},
                    "status": {
                        "identity": action.identity.model_dump(mode="json", by_alias=True, exclude_none=True)
                    },
                }
                self._cache.put(
                    await kube.patch("MemoryCluster", namespace, key.name, patch, subresource="status")
                )
            case StampClaim():
                metadata = {
                    "uid": action.uid,
                    "resourceVersion": action.resource_version,
                    "annotations": {ANNOTATION: action.identity.dump()},
                }
                self._cache.put(await kube.patch(CLAIM, namespace, action.name, {"metadata": metadata}))
            case OwnClaim():
                if action.cluster_uid:
                    await self._check_owner(key, action.cluster_uid)
                metadata = {
                    "uid": action.uid,
                    "resourceVersion": action.resource_version,
                    "ownerReferences": [dict(owner) for owner in action.owners],
                }
                self._cache.put(await kube.patch(CLAIM, namespace, action.name, {"metadata": metadata}))
            case GrowClaim():
                patch = {
                    "metadata": {"uid": action.uid, "resourceVersion": action.resource_version},
                    "spec": {"resources": {"requests": {"storage": str(action.size)}}},
                }
                self._cache.put(await kube.patch(CLAIM, namespace, action.name, patch))
            case LabelPod():
                patch = {"metadata": {"uid": action.uid, "labels": dict(action.labels)}}
                self._cache.put(await kube.patch("Pod", namespace, action.name, patch))
            case EvictPod():
                await kube.evict(namespace, action.name, uid=action.uid)
            case DeletePod():
                left = await kube.delete(
                    "Pod",
                    namespace,
                    action.name,
                    uid=action.uid,
                    resource_version=action.resource_version,
                )
                if left is not None:
                    self._cache.put(left)
            case Discard():
                kind, name = action.key
                left = await kube.delete(
                    kind, namespace, name, uid=action.uid, resource_version=action.resource_version
                )
                if left is not None:
                    self._cache.put(left)
            case SetFinalizers():
                kind, name = action.key
                patch = {
                    "metadata": {
                        "uid": action.uid,
                        "resourceVersion": action.resource_version,
                        "finalizers": list(action.finalizers),
                    }
                }
                self._cache.put(await kube.patch(kind, namespace, name, patch))
            case TellSnapshot():
                patch = {
                    "metadata": {"uid": action.uid, "resourceVersion": action.resource_version},
                    "status": merge_patch(action.before, action.status),
                }
                told = await kube.patch("MemorySnapshot", namespace, action.name, patch, subresource="status")
                self._cache.put(told)
            case CreateLog():
                generation = action.identity.shards[action.shard].generation
                await self._logs.create(
                    key, action.shard, generation, max_bytes=action.max_bytes, seed=action.seed
                )
            case GrowLog():
                await self._logs.grow(key, action.shard, max_bytes=action.max_bytes)
            case StepDown():
                await self._logs.step_down(key, action.shard)
            case FailOver():
                await self._agents.fail_over(
                    key, action.primary, action.pod_uid, successor=action.successor, epoch=action.epoch
                )
            case SetParameters():
                await self._agents.set_parameters(
                    key,
                    action.node,
                    action.pod_uid,
                    revision=action.revision,
                    parameters=action.parameters,
                )

    async def _check_owner(self, key: ClusterKey, uid: str) -> None:
        """Check that the MemoryCluster is there, that what it owns is to go with it, and that it says so.

        What is cached may be old: a claim whose owner is gone is deleted at once, by Kubernetes.

        :raises ConflictError:
        """
        found = await self._kube.get("MemoryCluster", key.namespace, key.name)
        metadata = found["metadata"] if found else {}
        spec: Mapping[str, Any] = (found or {}).get("spec") or {}
        wanted = spec.get("deletionPolicy") == "Delete"
        if "deletionTimestamp" in metadata:  # nobody can take it back, and it goes when the operator lets it
            sure = LAST_SNAPSHOT_FINALIZER in (metadata.get("finalizers") or ())
        else:
            said = ((found or {}).get("status") or {}).get("deletionPolicy")
            sure = said == "Delete" and not (spec.get("snapshots") or {}).get("beforeDelete")
        if metadata.get("uid") != uid or not wanted or not sure:
            reason = f"{key} is not there any more, or is not to take its volumes along"
            raise ConflictError(ApiException(status=409, reason=reason))

    async def write_status(self, cluster: Cluster, status: Mapping[str, Any]) -> bool:
        """Make the MemoryCluster's status be ``status``, on exactly the version that was seen.

        The identity in it is not touched: see SaveIdentity.

        :return: whether it was; if it was not, the object has changed meanwhile.
        :raises kube.API_ERRORS:
        """
        patch = {
            "metadata": {"resourceVersion": cluster.resource_version},
            "status": merge_patch(_without_identity(cluster.status), _without_identity(status)),
        }
        try:
            written = await self._kube.patch(
                "MemoryCluster", cluster.namespace, cluster.name, patch, subresource="status"
            )
        except ApiException as error:
            if error.status not in REFUSALS:
                raise
            return False
        self._cache.put(written)
        return True

    async def post(self, cluster: Cluster, event: Event) -> None:
        """Tell who looks at the MemoryCluster what has happened. A lost event is no error."""
        await self.tell(Key(KIND, cluster.name), cluster.namespace, cluster.uid, event)

    async def tell(self, key: Key, namespace: str, uid: str, event: Event) -> None:
        """Tell who looks at an object of ours what has happened. A lost event is no error."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        manifest = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{key.name}.{uuid4().hex[:16]}", "namespace": namespace},
            "eventTime": now,
            "reportingController": "memorycluster.io/operator",
            "reportingInstance": os.environ.get("POD_NAME") or socket.gethostname(),
            "type": event.type,
            "reason": event.reason,
            "action": "Reconcile",
            "note": event.message[:1024],
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": key.kind,
                "name": key.name,
                "namespace": namespace,
                "uid": uid,
            },
        }
        try:
            await self._kube.create(manifest)
        except API_ERRORS as error:
            logger.warning("%s/%s: can't post an event: %s", namespace, key.name, brief(error))


def describe(action: Action) -> str:
    """Return in a few words what an action does."""
    match action:
        case ApplyObject():
            return f"apply {action.key}"
        case SaveIdentity():
            return "save the identity"
        case StampClaim():
            return f"stamp the identity on {action.name}"
        case OwnClaim():
            return f"set who owns {action.name}"
        case GrowClaim():
            return f"grow {action.name} to {action.size} bytes"
        case Discard():
            return f"delete {action.key}"
        case SetFinalizers():
            return f"set the finalizers of {action.key}"
        case TellSnapshot():
            return f"tell how far MemorySnapshot {action.name} is"
        case CreateLog():
            return f"create the log of shard {action.shard}"
        case GrowLog():
            return f"grow the log of shard {action.shard} to {action.max_bytes} bytes"
        case StepDown():
            return f"have another member lead the log of shard {action.shard}"
        case FailOver():
            return f"fail over shard {action.shard} from {action.primary} to {action.successor}"
        case SetParameters():
            return f"set the parameters of {action.node}"
        case LabelPod():
            changes = ", ".join(f"{key}={value or ''}" for key, value in action.labels.items())
            return f"label pod {action.name} {changes}"
        case EvictPod():
            return f"evict pod {action.name}"
        case DeletePod():
            return f"delete pod {action.name}"


def _without_identity(status: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if key != "identity"}


def merge_patch(old: Any, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch from ``old`` to ``new``."""
    before = old if isinstance(old, Mapping) else {}
    patch: dict[str, Any] = {key: None for key in before if key not in new}
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(before.get(key), Mapping):
            if below := merge_patch(before[key], value):
                patch[key] = below
        elif key not in before or before[key] != value:
            patch[key] = value
    return patch


def explain(error: BaseException) -> str:
    """Return what the server said, in one line."""
    if isinstance(error, ApiException) and error.body:
        body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body)
        return f"HTTP {error.status}: {_message(body)}"
    return " ".join(brief(error).split())


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(body.split())[:300]
