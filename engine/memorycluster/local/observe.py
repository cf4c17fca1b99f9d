"""From what the agents say to the status of the whole. Pure but for ``observe``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from memorycluster.api.status import (
    Condition,
    LogMemberStatus,
    LogStatus,
    MemoryClusterStatus,
    NodeStatus,
    Phase,
    Role,
    RottenRecord,
    ShardStatus,
)
from memorycluster.api.topology import Node, Shard, Topology
from memorycluster.local.agents import agent_statuses
from memorycluster.local.layout import Layout
from memorycluster.local.plan import LOG_SERVER_PREFIX

Answer = Mapping[str, Any]
"""What an agent says of itself at /v1/status."""

_NO_ROT = ("NoRotFound", "no rotten copy is known")
_SNAPSHOTS = ("SnapshotsKept", "snapshots are taken when they are due")

ROLES = {
    "leader": Role.PRIMARY,
    "follower": Role.REPLICA,
    "starting": Role.STARTING,
    "frozen": Role.FROZEN,
}


async def observe(
    topology: Topology,
    layout: Layout,
    *,
    generation: int,
    before: MemoryClusterStatus | None = None,
    log_trouble: str | None = None,
    snapshot_trouble: str | None = None,
) -> MemoryClusterStatus:
    """Ask all agents, and return the status of the cluster; see ``build_status``."""
    nodes = topology.nodes
    answers = await agent_statuses([layout.node(node).agent_socket for node in nodes])
    said = {node.name: answer for node, answer in zip(nodes, answers, strict=True) if answer is not None}
    return build_status(
        topology,
        said,
        generation=generation,
        before=before,
        now=datetime.now(UTC),
        log_trouble=log_trouble,
        snapshot_trouble=snapshot_trouble,
    )


def load_status(layout: Layout) -> MemoryClusterStatus | None:
    """Return the status that the supervisor saw last, or None."""
    try:
        return MemoryClusterStatus.model_validate_json(layout.status.read_text())
    except (OSError, ValidationError):
        return None


def build_status(
    topology: Topology,
    said: Mapping[str, Answer],
    *,
    generation: int,
    before: MemoryClusterStatus | None,
    now: datetime,
    log_trouble: str | None = None,
    snapshot_trouble: str | None = None,
) -> MemoryClusterStatus:
    """Return the status of a cluster of which the agents ``said`` what they say, by node name.

    A condition that is as it was ``before`` keeps its time of transition. ``log_trouble``: what is wrong with
    the copies that the log's members hold, "" if nothing is; None: not known here, so as ``before``. Likewise
    ``snapshot_trouble``.
    """
    shards = [_shard(shard, said) for shard in topology.shards]
    unserved = [shard for shard in shards if shard.primary is None]
    problems = [line for shard in shards for line in _problems(shard)]
    was_ready = before is not None and any(
        c.type == "Ready" and c.status == "True" for c in before.conditions
    )
    if unserved:
        phase = (
            Phase.UNAVAILABLE
            if was_ready or (before and before.phase is not Phase.PENDING)
            else Phase.PENDING
        )
        ready = ("False", "ShardNotServing", _unserved_message(unserved))
    else:
        phase = Phase.DEGRADED if problems else Phase.READY
        ready = ("True", "AllShardsServe", f"{len(shards)} of {len(shards)} shards serve")
    redundant = (
        ("False", "PartsMissing", "; ".join(problems))
        if problems
        else ("True", "AllPartsCurrent", "every node and every member of the log is current")
    )
    return MemoryClusterStatus(
        observed_generation=generation,
        phase=phase,
        conditions=[
            _condition("Ready", ready, before, now),
            _condition("Redundant", redundant, before, now),
            *_condition_of("LogIntact", log_trouble, "RottenCopy", _NO_ROT, before, now),
            *_condition_of("SnapshotsCurrent", snapshot_trouble, "SnapshotFailed", _SNAPSHOTS, before, now),
        ],
        endpoints=[node.endpoint for node in topology.nodes],
        shards=shards,
    )


def _shard(shard: Shard, said: Mapping[str, Answer]) -> ShardStatus:
    nodes = [_node(node, said.get(node.name)) for node in shard.nodes]
    serving = [node for node in nodes if node.role is Role.PRIMARY and node.ready]
    primary = max(serving, key=lambda node: node.epoch, default=None)
    return ShardStatus(
        index=shard.index,
        slots=[f"{first}-{last}" for first, last in shard.slots],
        primary=primary.name if primary else None,
        zone=primary.zone if primary else None,
        epoch=max((node.epoch for node in nodes), default=0),
        nodes=nodes,
        log=_log([said[node.name] for node in shard.nodes if node.name in said]),
    )


def _node(node: Node, answer: Answer | None) -> NodeStatus:
    if answer is None:
        return NodeStatus(
            name=node.name,
            zone=node.zone,
            role=Role.UNKNOWN,
            endpoint=node.endpoint,
            message="the agent does not answer",
        )
    role = ROLES.get(str(answer.get("role")), Role.UNKNOWN)
    lease = answer.get("lease")
    return NodeStatus(
        name=node.name,
        zone=node.zone,
        role=role,
        endpoint=node.endpoint,
        epoch=answer.get("epoch") or 0,
        committed_offset=answer.get("committed") or 0,
        applied_offset=answer.get("applied"),
        lag=answer.get("lag"),
        lease=round(float(lease), 3) if lease is not None and role is Role.PRIMARY else None,
        ready=bool(answer.get("ready")) and role in (Role.PRIMARY, Role.REPLICA),
        message=answer.get("message") or "",
    )


def _log(answers: Sequence[Answer]) -> LogStatus | None:
    """Return the newest view that an agent has of its log, the leader's if it has one."""
    views = [answer for answer in answers if answer.get("log")]
    if not views:
        return None
    view = max(
        views, key=lambda answer: (answer.get("role") == "leader", answer["log"].get("lastSequence", 0))
    )
    log = view["log"]
    rotten = {each["member"]: each for answer in answers for each in answer.get("rotten", [])}
    return LogStatus(
        first_sequence=log.get("firstSequence", 0),
        last_sequence=log.get("lastSequence", 0),
        bytes=log.get("bytes", 0),
        max_bytes=log.get("maxBytes", 0),
        members=[
            LogMemberStatus(
                name=member.get("name", ""),
                zone=member.get("zone") or member.get("name", "").removeprefix(LOG_SERVER_PREFIX),
                leader=bool(member.get("leader")),
                current=bool(member.get("current")),
                lag=member.get("lag") or 0,
                rotten=_rotten(rotten.get(member.get("name"))),
            )
            for member in sorted(log.get("members", []), key=lambda member: str(member.get("name")))
        ],
    )


def _rotten(found: Answer | None) -> RottenRecord | None:
    return RottenRecord(record=found["record"], reason=found["reason"]) if found else None


def _problems(shard: ShardStatus) -> list[str]:
    """Return what the next failure may find missing."""
    lines = [
        f"{node.name}: {node.message or f'not ready ({node.role})'}" for node in shard.nodes if not node.ready
    ]
    if shard.log is not None:
        lines += [
            f"shard {shard.index}: log member {member.name} is not current"
            for member in shard.log.members
            if not member.current
        ]
        lines += [
            f"shard {shard.index}: log member {member.name} is rotten: {member.rotten.reason}"
            for member in shard.log.members
            if member.rotten
        ]
    return lines


def _unserved_message(shards: Sequence[ShardStatus]) -> str:
    numbers = ", ".join(str(shard.index) for shard in shards)
    reasons = dict.fromkeys(node.message for shard in shards for node in shard.nodes if node.message)
    why = f": {'; '.join(reasons)}" if reasons else ""
    return f"no primary serves shard {numbers}{why}"


def _condition_of(
    type_: str,
    trouble: str | None,
    reason: str,
    well: tuple[str, str],
    before: MemoryClusterStatus | None,
    now: datetime,
) -> list[Condition]:
    if trouble is None:
        return [each for each in before.conditions if each.type == type_] if before else []
    state = ("False", reason, trouble) if trouble else ("True", *well)
    return [_condition(type_, state, before, now)]


def _condition(
    type_: str, state: tuple[str, str, str], before: MemoryClusterStatus | None, now: datetime
) -> Condition:
    status, reason, message = state
    old = next((each for each in before.conditions if each.type == type_), None) if before else None
    since = old.last_transition_time if old and old.status == status else now
    return Condition(type=type_, status=status, reason=reason, message=message, last_transition_time=since)
