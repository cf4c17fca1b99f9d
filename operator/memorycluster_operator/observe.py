"""From the cache, the agents and the log services to a snapshot of one cluster."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from memorycluster.pod.config import API_TOKEN, LOG_PASSWORD
from memorycluster_operator import agents, logs
from memorycluster_operator.agents import Agents
from memorycluster_operator.cache import Cache, ClusterKey, controller
from memorycluster_operator.facts import claim_facts, cluster_facts, pod_facts
from memorycluster_operator.identity import Identity
from memorycluster_operator.jobs import Jobs
from memorycluster_operator.kube import Kube
from memorycluster_operator.logs import Logs
from memorycluster_operator.makings import Asked, asked_facts, making_facts, takers
from memorycluster_operator.objects import API_VERSIONS, names, wanted_keys
from memorycluster_operator.objects.credentials import decoded
from memorycluster_operator.objects.store import with_default_store
from memorycluster_operator.plan.identity import known_identity
from memorycluster_operator.settings import Settings
from memorycluster_operator.snapshot import Cluster, Component, Key, Manifest, Pod, Snapshot, Source

CLAIM = "PersistentVolumeClaim"

FIRST_ANSWER_WITHIN = 5.0
"""Seconds that a snapshot waits for agents and log services that have never been asked."""


async def gather(
    kube: Kube, cache: Cache, key: ClusterKey, settings: Settings, *, failures: tuple[str, ...] = ()
) -> Snapshot | None:
    """Return what Kubernetes knows of a cluster, or None if there is no such MemoryCluster (any more).

    The API server is only asked for what should be there and is not known: it may be somebody else's, or have
    lost its label.

    :raises pydantic.ValidationError: its spec is not valid.
    :raises kube.API_ERRORS:
    """
    obj = cache.cluster(key)
    if obj is None:
        return None
    children = dict(cache.children(key))
    cluster = _with_store(key, obj, children)
    wanted = wanted_keys(key.name, cluster.spec)
    if not cluster.going:
        claims = (Key(CLAIM, names.claim_name(key.name, index)) for index in range(len(cluster.spec.zones)))
        missing = [each for each in (*sorted(wanted), *claims) if each not in children]
        asked = await asyncio.gather(*(kube.get(each.kind, key.namespace, each.name) for each in missing))
        for each, found in zip(missing, asked, strict=True):
            if found is not None:
                cache.put(found)
                children[each] = found
    cluster = _with_store(key, obj, children)  # a claim may have been among what was asked for
    snapshots = map(asked_facts, _of_kind("MemorySnapshot", children))
    by_age = sorted(snapshots, key=lambda each: (each.created, each.name))
    objects = {
        each: child
        for each, child in children.items()
        if each.kind in API_VERSIONS and (controller(child) or {}).get("uid") == cluster.uid
    }
    pods = (pod_facts(key.name, obj, cache.nodes()) for obj in _of_kind("Pod", children))
    claim_objects = (claim_facts(key.name, obj) for obj in _of_kind(CLAIM, children))
    return Snapshot(
        now=datetime.now(UTC),
        cluster=cluster,
        settings=settings.facts,
        entropy=secrets.token_bytes(32),
        objects=objects,
        foreign={each: _owner(children[each]) for each in wanted if each in children and each not in objects},
        pods=tuple(sorted((pod for pod in pods if pod), key=lambda pod: pod.name)),
        claims=tuple(sorted((claim for claim in claim_objects if claim), key=lambda claim: claim.index)),
        asked=tuple(by_age),
        makings=tuple(making_facts(children.values(), [cluster.uid, *(each.uid for each in by_age)])),
        source=_source(cache, cluster),
        readers=_readers(cache, key),
        restored_from=_restored_from(cache, key),
        takers=_takers(cache, key),
        failures=failures,
        secrets_seen=cache.secrets_seen(cluster.uid),
    )


def _with_store(key: ClusterKey, obj: Manifest, children: Mapping[Key, Manifest]) -> Cluster:
    """Return the cluster in ``obj``, with the store that is its by default.

    :raises pydantic.ValidationError: its spec is not valid.
    """
    cluster = cluster_facts(obj)
    claims = [claim for each in _of_kind(CLAIM, children) if (claim := claim_facts(key.name, each))]
    return with_default_store(cluster, known_identity(cluster.status, claims))


def _source(cache: Cache, cluster: Cluster) -> Source | None:
    """Return the cluster that is to be restored, if it is named, and is there with its logs."""
    wanted = cluster.spec.restore_from
    if wanted is None or wanted.cluster is None:
        return None
    key = ClusterKey(cluster.namespace, wanted.cluster)
    obj = cache.cluster(key)
    if obj is None:
        return None
    try:
        found = _with_store(key, obj, cache.children(key))
        identity = Identity.model_validate(found.status.get("identity"))
    except ValidationError:
        return None
    if len(identity.created) < len(identity.shards):
        return None
    return Source(found.name, found.spec, tuple(identity.generations))


def _readers(cache: Cache, key: ClusterKey) -> tuple[str, ...]:
    """Return the clusters of the namespace that are being restored from the log service of this one."""
    found = []
    for obj, wanted in _restoring(cache, key.namespace):
        if wanted.get("cluster") == key.name and (wanted.get("time") or not _elsewhere(obj)):
            found.append(obj["metadata"]["name"])
    return tuple(sorted(found))


def _restored_from(cache: Cache, key: ClusterKey) -> frozenset[str]:
    """Return the names of this cluster's snapshots of which others of the namespace are being restored."""
    return frozenset(
        str(name)
        for _, wanted in _restoring(cache, key.namespace)
        if (name := wanted.get("snapshot")) and (wanted.get("cluster") or key.name) == key.name
    )


def _takers(cache: Cache, key: ClusterKey) -> tuple[str, ...]:
    """Return the Jobs, and their pods, that may yet take what this cluster is being restored from.

    They are of the cluster that it names; of any one of the namespace, if it names none.
    """
    mine = cache.cluster(key)
    wanted = next((wanted for obj, wanted in _restoring(cache, key.namespace) if obj is mine), None)
    if mine is None or wanted is None:
        return ()
    trim = bool(wanted.get("time")) or not _elsewhere(mine)
    found = (
        takers(cache.children(each).values(), str(wanted.get("snapshot") or ""), trim=trim)
        for each in cache.clusters()
        if each.namespace == key.namespace and each != key
        if wanted.get("cluster") in (None, each.name)
    )
    return tuple(name for names in found for name in names)


def _restoring(cache: Cache, namespace: str) -> Iterator[tuple[Manifest, Mapping[str, Any]]]:
    """Yield the clusters of the namespace that are being restored, with what they are made of."""
    for each in cache.clusters():
        obj = cache.cluster(each)
        wanted = ((obj or {}).get("spec") or {}).get("restoreFrom")
        if obj is None or each.namespace != namespace or not wanted:
            continue
        shards = ((obj.get("status") or {}).get("identity") or {}).get("shards") or []
        if not shards or not all(made.get("created") for made in shards):
            yield obj, wanted


def _elsewhere(obj: Manifest) -> bool:
    """Whether the snapshot that a cluster begins with is in no log service."""
    spec = obj.get("spec") or {}
    named = (spec.get("restoreFrom") or {}).get("store") or {}
    own = (spec.get("snapshots") or {}).get("store") or {}
    if not named and own.get("log"):
        return False  # then it is where the other cluster has it
    return any((named or own).get(each) for each in ("s3", "azure", "gcs"))


class Observer:
    """Where snapshots come from."""

    def __init__(
        self, kube: Kube, cache: Cache, agents: Agents, logs: Logs, jobs: Jobs, settings: Settings
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._agents = agents
        self._logs = logs
        self._jobs = jobs
        self._settings = settings

    async def observe(
        self, key: ClusterKey, *, fresh: bool = False, failures: tuple[str, ...] = ()
    ) -> Snapshot | None:
        """Return what is known of a cluster now; see ``gather``.

        :param fresh: ask agents and log service now, rather than take what they said last.
        """
        snapshot = await gather(self._kube, self._cache, key, self._settings, failures=failures)
        if snapshot is None:
            self.forget(key)
            return None
        self._watch_agents(key, snapshot)
        self._watch_log(key, snapshot)
        self._watch_jobs(key, snapshot)
        with suppress(TimeoutError):  # who has never been asked looks as if he did not answer
            async with asyncio.timeout(FIRST_ANSWER_WITHIN):
                await self._agents.asked(key)
                await self._logs.asked(key)
        said = await self._agents.ask(key) if fresh else self._agents.reports(key)
        for report in said.values():
            for finding in report.findings:
                self._logs.suspect(key, *finding)
        progress = self._jobs.progress(key)
        return replace(
            snapshot,
            makings=tuple(replace(each, progress=progress.get(each.name)) for each in snapshot.makings),
            agents=said,
            denied=self._agents.denied(key),
            log=await self._logs.ask(key) if fresh else self._logs.report(key),
        )

    def raw(self, key: ClusterKey) -> Manifest | None:
        """Return the MemoryCluster as the API server says it."""
        return self._cache.cluster(key)

    def forgetting(self, key: ClusterKey) -> list[Asked]:
        """Return a cluster's MemorySnapshots that are being deleted with their data."""
        return self._cache.forgetting(key)

    def forget(self, key: ClusterKey) -> None:
        """Ask nobody of this cluster any more."""
        self._agents.watch(key, {}, "")
        self._logs.watch(key, None)
        self._jobs.watch(key, {}, "")

    def _watch_agents(self, key: ClusterKey, snapshot: Snapshot) -> None:
        token = _token(key, snapshot)
        nodes = {
            pod.name: agents.Node(pod.name, pod.uid, pod.ip)
            for pod in snapshot.pods
            if pod.component is Component.ENGINE and pod.ip and pod.phase == "Running"
        }
        self._agents.watch(key, nodes if token else {}, token)

    def _watch_jobs(self, key: ClusterKey, snapshot: Snapshot) -> None:
        running = {each.name: each.address for each in snapshot.makings if each.address}
        self._jobs.watch(key, running, _token(key, snapshot))

    def _watch_log(self, key: ClusterKey, snapshot: Snapshot) -> None:
        secret = snapshot.objects.get(names.log_secret(key.name))
        password = decoded(secret).get(LOG_PASSWORD, "") if secret else ""
        pods = {pod.name: pod for pod in snapshot.pods if pod.component is Component.LOG}
        if not password or not any(pod.ip for pod in pods.values()):
            self._logs.watch(key, None)
            return
        identity = known_identity(snapshot.cluster.status, snapshot.claims)
        service = names.host(snapshot.cluster, f"{key.name}-log", snapshot.settings.cluster_domain)
        members = [
            _member(names.member_name(key.name, index), service, zone, pods)
            for index, zone in enumerate(snapshot.cluster.spec.zones)
        ]
        self._logs.watch(key, logs.Target(tuple(members), password, _streams(key.name, identity)))


def _token(key: ClusterKey, snapshot: Snapshot) -> str:
    """Return that of the cluster's agents and Jobs; empty: not known."""
    secret = snapshot.objects.get(names.internal_secret(key.name))
    return decoded(secret).get(API_TOKEN, "") if secret else ""


def _member(name: str, service: str, zone: str, pods: Mapping[str, Pod]) -> logs.Member:
    pod = pods.get(name)
    if pod is None or not pod.ip:
        return logs.Member(name, f"{name}.{service}", zone)
    return logs.Member(name, pod.ip, pod.zone or zone, pod.uid, f"{pod.ready} {pod.terminating}")


def _streams(cluster: str, identity: Identity | None) -> tuple[tuple[str, UUID], ...]:
    if identity is None:
        return ()
    return tuple((f"{cluster}-{shard}", each.generation) for shard, each in enumerate(identity.shards))


def _of_kind(kind: str, objects: Mapping[Key, Manifest]) -> Iterator[Manifest]:
    return (obj for key, obj in objects.items() if key.kind == kind)


def _owner(obj: Manifest) -> str:
    owner = controller(obj)
    return f"{owner['kind']} {owner['name']}" if owner else ""
