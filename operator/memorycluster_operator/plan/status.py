"""The status of a MemoryCluster, from the facts and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memorycluster.api.status import (
    Blocked,
    Condition,
    ConditionType,
    LogMemberStatus,
    LogStatus,
    MemoryClusterStatus,
    NodeStatus,
    Phase,
    Role,
    ShardStatus,
)
from memorycluster.api.topology import shard_slots
from memorycluster_operator.actions import Wait
from memorycluster_operator.objects import names
from memorycluster_operator.objects.engine import PORTS
from memorycluster_operator.plan import calm
from memorycluster_operator.plan.conditions import judge
from memorycluster_operator.plan.deletion import Deletion
from memorycluster_operator.plan.makings import Makings
from memorycluster_operator.plan.space import LOG_FULL, full_shards
from memorycluster_operator.plan.step import Step
from memorycluster_operator.plan.view import Node, Shard, View
from memorycluster_operator.plan.volumes import deletion_policy
from memorycluster_operator.snapshot import Component, LogState

HEALING = "LogHealing"
GRAVE = (
    "IdentityConflict",
    "LogVolumesMissing",
    "LogMissing",
    "LogUnfit",
    "Frozen",
    "LogRotten",
    LOG_FULL,
    "ShardsDiffer",
    "ZonesDiffer",
    "SecretMissing",
    "NameConflict",
    "ClaimTerminating",
    "ActionFailed",
    "RestoreFailed",
    "VolumeTooSmall",
    "NodeLost",
    "PodFailing",
    "PodUnschedulable",
    "AgentUnreachable",
    "ScaleDownUnsafe",
)
"""Reasons to wait that want a human's eye, the worst first. One of these is shown before any other."""

FOLLOWS = ("LogNotMade",)
"""Reasons to wait that follow from another wait, which says more."""

ROLES = {
    "leader": Role.PRIMARY,
    "follower": Role.REPLICA,
    "starting": Role.STARTING,
    "frozen": Role.FROZEN,
}


def build_status(
    view: View, step: Step, makings: Makings, deletion: Deletion | None = None
) -> dict[str, Any]:
    """Return the whole status but ``identity``, as JSON data."""
    cluster, domain = view.snapshot.cluster, view.snapshot.settings.cluster_domain
    blocked = worst(step.waits)
    conditions = judge(view, step, blocked, makings)
    selector = names.selector(cluster.name, Component.ENGINE)
    status = MemoryClusterStatus(
        observed_generation=cluster.generation,
        phase=_phase(view, conditions),
        conditions=conditions,
        blocked=Blocked(reason=blocked.reason, message=blocked.message, until=blocked.until)
        if blocked
        else None,
        version=_version(view),
        endpoints=[f"{names.host(cluster, cluster.name, domain)}:{PORTS.clients}"],
        shards=[_shard(view, shard, makings) for shard in view.shards],
        snapshots=makings.status,
        deletion=deletion.status if deletion else None,
        deletion_policy=deletion_policy(view),
        selector=",".join(f"{label}={value}" for label, value in sorted(selector.items())),
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def worst(waits: Sequence[Wait]) -> Wait | None:
    """Return the wait to show: the gravest, else the first that does not follow from another one."""
    order = {reason: number for number, reason in enumerate(GRAVE)}
    order |= dict.fromkeys(FOLLOWS, len(GRAVE) + 1)
    return min(waits, key=lambda each: order.get(each.reason, len(GRAVE)), default=None)


def _phase(view: View, conditions: Sequence[Condition]) -> Phase:
    if view.snapshot.cluster.deleting:
        return Phase.DELETING
    true = {each.type for each in conditions if each.status == "True"}
    if ConditionType.READY in true:
        whole = {ConditionType.REDUNDANT, ConditionType.LOG_INTACT} <= true and not full_shards(view)
        return Phase.READY if whole else Phase.DEGRADED
    before = view.snapshot.cluster.status.get("phase", Phase.PENDING)
    return Phase.PENDING if before == Phase.PENDING else Phase.UNAVAILABLE


def _version(view: View) -> str | None:
    reports = [node.report for shard in view.shards for node in shard.nodes if node.report]
    versions = [report.engine_version for report in reports if report.engine_version]
    if not versions:
        found = view.snapshot.cluster.status.get("version")
        return str(found) if found else None
    return min(versions, key=lambda version: [int(part) for part in version.split(".")])


def _shard(view: View, shard: Shard, makings: Makings) -> ShardStatus:
    shards, primary = len(view.shards), shard.primary
    first, last = shard_slots(shard.index, shards)
    return ShardStatus(
        index=shard.index,
        slots=[f"{first}-{last}"],
        primary=primary.name if primary else None,
        zone=primary.pod.zone if primary and primary.pod and primary.pod.zone else None,
        epoch=max((node.report.epoch for node in shard.nodes if node.report), default=0),
        nodes=[_node(view, node) for node in shard.nodes],
        log=_log(view, shard),
        snapshots=makings.shards.get(shard.index),
    )


def _node(view: View, node: Node) -> NodeStatus:
    cluster, report = view.snapshot.cluster, node.report
    nodes = names.host(cluster, f"{cluster.name}-nodes", view.snapshot.settings.cluster_domain)
    endpoint = f"{node.name}.{nodes}:{PORTS.clients}"
    zone, uid = (node.pod.zone, node.pod.uid) if node.pod else ("", None)
    if report is None:
        role = Role.FROZEN if node.frozen else Role.UNKNOWN
        return NodeStatus(
            name=node.name,
            zone=zone,
            role=role,
            endpoint=endpoint,
            pod_uid=uid,
            message=calm.describe_node(node),
        )
    return NodeStatus(
        name=node.name,
        zone=zone,
        role=Role.FROZEN if node.frozen else ROLES.get(report.role, Role.UNKNOWN),
        endpoint=endpoint,
        pod_uid=uid,
        epoch=report.epoch,
        committed_offset=report.committed,
        applied_offset=report.applied,
        lag=report.lag,
        lease=report.lease,
        ready=node.ready,
        message=report.message if node.ready else calm.describe_node(node),
    )


def _log(view: View, shard: Shard) -> LogStatus | None:
    log = shard.log
    if log.state is not LogState.INTACT:
        return None
    zones = {member.name: member.pod.zone if member.pod else "" for member in view.members}
    return LogStatus(
        first_sequence=log.first_sequence,
        last_sequence=log.last_sequence,
        bytes=log.bytes,
        max_bytes=log.max_bytes,
        members=[
            LogMemberStatus(
                name=each.name,
                zone=zones.get(each.name, ""),
                leader=each.leader,
                current=each.current,
                lag=each.lag,
            )
            for each in sorted(log.members, key=lambda each: each.name)
        ],
    )
