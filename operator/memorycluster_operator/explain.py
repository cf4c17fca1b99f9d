"""``memorycluster plan NAME``: what the operator would do next, and why.

From outside of the Kubernetes cluster neither agents nor log services can be asked. So of them this takes
what the status says, which is what the operator saw last.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client.exceptions import ApiException
from pydantic import ValidationError

from memorycluster.pod.config import CLUSTER_FILE, ClusterConfig
from memorycluster_operator.actions import TO_CONFIRM, Plan
from memorycluster_operator.apply import describe
from memorycluster_operator.cache import Cache, ClusterKey
from memorycluster_operator.kube import Kube
from memorycluster_operator.objects import names
from memorycluster_operator.objects.log import ordered
from memorycluster_operator.objects.names import CLUSTER_LABEL
from memorycluster_operator.observe import gather
from memorycluster_operator.plan import make_plan
from memorycluster_operator.refusal import refuse
from memorycluster_operator.settings import Settings, parse_labels
from memorycluster_operator.snapshot import (
    AgentReport,
    LogMember,
    LogReport,
    LogState,
    Manifest,
    ShardLog,
    Snapshot,
)
from memorycluster_operator.watches import KINDS, UNLABELLED

ROLES = {"primary": "leader", "replica": "follower"}


OPERATOR_LABEL = "app.kubernetes.io/name=memorycluster-operator"
"""Of the operator's Deployment."""


class Unexplained(Exception):
    """There is no plan: there is no such MemoryCluster, or its spec can't be used."""


def context_namespace(kubeconfig: str | None) -> str:
    """Return the namespace of kubectl's context."""
    try:
        _, active = config.list_kube_config_contexts(kubeconfig)
    except config.ConfigException:
        return "default"
    return str(active["context"].get("namespace") or "default")


async def find_settings(kube: Kube) -> Settings:
    """Return what the operator that runs here was told, as far as its Deployment may be read."""
    try:
        found, _ = await kube.list("Deployment", labels=OPERATOR_LABEL)
    except ApiException as error:
        if error.status != 403:
            raise
        return Settings()
    return settings_of(found[0]) if found else Settings()


def settings_of(deployment: Manifest) -> Settings:
    """Return what an operator's Deployment tells it, by its environment."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each.get("value") or "" for each in container.get("env") or []}
    default = Settings()
    return Settings(
        engine_image=env.get("MEMORYCLUSTER_ENGINE_IMAGE") or default.engine_image,
        log_image=env.get("MEMORYCLUSTER_LOG_IMAGE") or default.log_image,
        cluster_domain=env.get("MEMORYCLUSTER_CLUSTER_DOMAIN") or default.cluster_domain,
        operator_namespace=deployment["metadata"]["namespace"],
        operator_labels=parse_labels(env.get("MEMORYCLUSTER_POD_LABELS") or "") or default.operator_labels,
    )


def recorded_agents(snapshot: Snapshot) -> dict[str, AgentReport]:
    """Return what the agents said last, by the status."""
    uids = {pod.name: pod.uid for pod in snapshot.pods}
    revision = _applied_revision(snapshot)
    found = {}
    for shard in snapshot.cluster.status.get("shards") or []:
        for node in shard.get("nodes") or []:
            name, role = node["name"], node["role"]
            if role == "unknown" or name not in uids:
                continue
            found[name] = AgentReport(
                node=name,
                pod_uid=uids[name],
                role=ROLES.get(role, role),
                epoch=node.get("epoch", 0),
                leader=shard.get("primary") or "",
                committed=node.get("committedOffset", 0),
                applied=node.get("appliedOffset"),
                lag=node.get("lag"),
                serving=shard.get("primary") == name,
                ready=bool(node.get("ready")),
                message=node.get("message") or "",
                parameters_revision=revision,
                parameters_applied=bool(revision),
            )
    return found


def _applied_revision(snapshot: Snapshot) -> str:
    """Return which parameters the engines have, if the status says that they have those of the ConfigMap."""
    conditions = snapshot.cluster.status.get("conditions") or []
    applied = any(each["type"] == "ParametersApplied" and each["status"] == "True" for each in conditions)
    config = snapshot.objects.get(names.config_key(snapshot.cluster.name))
    if config is None or not applied:
        return ""
    return ClusterConfig.model_validate_json(config["data"][CLUSTER_FILE.rpartition("/")[2]]).engine.revision


def recorded_log(snapshot: Snapshot) -> LogReport:
    """Return what the log service said last, by the status."""
    shards, servers = [], dict[str, str]()
    for shard in snapshot.cluster.status.get("shards") or []:
        if not (log := shard.get("log")):
            continue
        members = tuple(
            LogMember(each["name"], each["current"], each["leader"], each.get("lag", 0))
            for each in log.get("members") or []
        )
        servers |= {member.name: "" for member in members}
        shards.append(
            ShardLog(
                shard["index"],
                LogState.INTACT,
                first_sequence=log.get("firstSequence", 0),
                last_sequence=log.get("lastSequence", 0),
                bytes=log.get("bytes", 0),
                max_bytes=log.get("maxBytes", 0),
                members=members,
            )
        )
    conditions = snapshot.cluster.status.get("conditions") or []
    trouble = next((each["message"] for each in conditions if each["reason"] == "RottenCopy"), "")
    order = ordered(snapshot.objects.get(names.log_set(snapshot.cluster.name)), snapshot.now)
    return LogReport(servers, tuple(shards), trouble, rotten=order.member if trouble and order else "")


async def plan_of(kube: Kube, namespace: str, name: str, settings: Settings) -> Plan:
    """Return what the operator would do next about a MemoryCluster.

    :raises Unexplained: :raises kube.API_ERRORS:
    """
    cache = Cache()
    found = await kube.get("MemoryCluster", namespace, name)
    if found is None:
        raise Unexplained(f"there is no MemoryCluster {name} in the namespace {namespace}")
    cache.put(found)
    for kind in KINDS[1:]:
        labels = "" if kind in UNLABELLED else f"{CLUSTER_LABEL}={name}"
        objects, _ = await kube.list(kind, namespace, labels=labels)
        for obj in objects:
            cache.put(obj)
    try:
        for node in (await kube.list("Node"))[0]:
            cache.put(node)
    except ApiException as error:
        if error.status != 403:
            raise
    try:
        snapshot = await gather(kube, cache, ClusterKey(namespace, name), settings)
    except ValidationError as error:
        raise Unexplained(refuse(found, error, datetime.now(UTC)).status["message"]) from error
    assert snapshot is not None
    return make_plan(
        replace(snapshot, agents=recorded_agents(snapshot), log=recorded_log(snapshot)),
    )


def as_data(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON data; passwords that it would set are left out."""
    return {
        "actions": [
            {
                "action": type(action).__name__,
                "what": describe(action),
                "reason": action.reason,
                "confirmedFirst": isinstance(action, TO_CONFIRM),
            }
            for action in plan.actions
        ],
        "waits": [{**asdict(each), "until": each.until.isoformat(timespec="seconds")} for each in plan.waits],
        "status": plan.status,
    }
