"""The conditions of a MemoryCluster, judged by the facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from memorycluster.api.status import Condition, ConditionType
from memorycluster_operator.actions import ROUTINE, LabelPod, Wait
from memorycluster_operator.plan import calm
from memorycluster_operator.plan.makings import Makings
from memorycluster_operator.plan.step import Step
from memorycluster_operator.plan.view import Node, View
from memorycluster_operator.snapshot import LogState

OVERDUE = "Overdue"
"""Reason of Progressing once what is waited for should have come."""


class Judgement(NamedTuple):
    """A condition but for its times."""

    type: ConditionType
    status: str
    reason: str
    message: str


def judge(view: View, step: Step, blocked: Wait | None, makings: Makings) -> list[Condition]:
    """Return all conditions; one whose status is as before keeps its time of transition."""
    before = {each["type"]: each for each in view.snapshot.cluster.status.get("conditions") or []}
    judgements = [
        _ready(view),
        _redundant(view),
        _log_intact(view),
        _parameters_applied(view),
        *_snapshots_current(makings),
        _progressing(view, step, blocked),
        _paused(view),
    ]
    return [_condition(view, each, before.get(each.type)) for each in judgements]


def _condition(view: View, judgement: Judgement, before: Mapping[str, str] | None) -> Condition:
    now = view.snapshot.now
    kept = before is not None and before["status"] == judgement.status
    since = datetime.fromisoformat(before["lastTransitionTime"]) if before and kept else now
    return Condition(
        type=judgement.type,
        status=judgement.status,
        reason=judgement.reason,
        message=judgement.message,
        last_transition_time=since.replace(microsecond=0),
        observed_generation=view.snapshot.cluster.generation,
    )


def _ready(view: View) -> Judgement:
    unserved = [shard for shard in view.shards if shard.primary is None]
    if not unserved:
        return Judgement(
            ConditionType.READY, "True", "AllShardsServe", "every shard has a primary that serves"
        )
    numbers = ", ".join(str(shard.index) for shard in unserved)
    return Judgement(ConditionType.READY, "False", "ShardNotServing", f"no primary serves shard {numbers}")


def missing_parts(view: View) -> list[str]:
    """Return what the next failure may find missing."""
    lines = [calm.describe_node(node) for shard in view.shards for node in shard.nodes if not node.ready]
    return lines + [calm.describe_member(member) for member in view.missing_members]


def _redundant(view: View) -> Judgement:
    missing = missing_parts(view)
    if missing:
        return Judgement(ConditionType.REDUNDANT, "False", "PartsMissing", _listed(missing))
    message = "every node and every member of the log is current"
    return Judgement(ConditionType.REDUNDANT, "True", "AllPartsCurrent", message)


def _log_intact(view: View) -> Judgement:
    identity = view.settled.identity
    logs = [shard.log for shard in view.shards]
    for log in logs:
        made = identity is not None and log.shard in identity.created
        if log.state is LogState.UNFIT or (log.state is LogState.MISSING and made):
            message = f"the log of shard {log.shard}: {log.message or 'it was made, and is gone'}"
            return Judgement(ConditionType.LOG_INTACT, "False", f"Log{log.state}", message)
    if view.snapshot.log.trouble:
        return Judgement(ConditionType.LOG_INTACT, "False", "RottenCopy", view.snapshot.log.trouble)
    if heal := view.inputs.heal:
        message = f"{heal.member}: its rotten copy of the log is being made anew from the others"
        return Judgement(ConditionType.LOG_INTACT, "False", "RottenCopy", message)
    if silent := [str(log.shard) for log in logs if log.state is not LogState.INTACT]:
        message = f"the log of shard {', '.join(silent)} does not answer, or is not made yet"
        return Judgement(ConditionType.LOG_INTACT, "Unknown", "LogUnavailable", message)
    return Judgement(ConditionType.LOG_INTACT, "True", "NoDamageFound", "every log is the one that was made")


def _parameters_applied(view: View) -> Judgement:
    asked = [(node, node.report) for node in _nodes(view) if node.report is not None]
    refused = [
        f"{node.name}: {report.parameters_message}" for node, report in asked if report.parameters_message
    ]
    newest = [report for _, report in asked if report.parameters_revision == view.parameters_revision]
    waiting = sorted({name for report in newest for name in report.parameters_pending})
    kind = ConditionType.PARAMETERS_APPLIED
    if refused:
        return Judgement(kind, "False", "Refused", _listed(refused))
    if waiting:
        message = f"{', '.join(waiting)}: takes a new start of each engine, one at a time; all others are set"
        return Judgement(kind, "False", "RestartNeeded", message)
    if not asked:
        return Judgement(kind, "Unknown", "NoEngine", "no engine has been asked yet")
    if len(newest) < len(asked) or not all(report.parameters_applied for report in newest):
        return Judgement(kind, "False", "Applying", "engines are being told")
    return Judgement(kind, "True", "Applied", "every engine has the parameters of the spec")


def _snapshots_current(makings: Makings) -> Iterator[Judgement]:
    """Yield what is to be said of the snapshots, if it is known where they are to be."""
    kind, schedule = ConditionType.SNAPSHOTS_CURRENT, makings.status
    if makings.missing:
        yield Judgement(kind, "False", "NoStore", makings.missing)
    if not makings.shards:
        return
    troubles = [each.message for each in makings.shards.values() if each.message]
    coming = (
        f"; the schedule's next is at {schedule.next:%Y-%m-%dT%H:%MZ}" if schedule and schedule.next else ""
    )
    if troubles:
        message = f"{_listed(troubles)}; it is tried again, and the log is kept meanwhile{coming}"
        yield Judgement(kind, "False", "SnapshotFailed", message)
        return
    newest = [
        max((each.created_at for each in found.kept), default=None) for found in makings.shards.values()
    ]
    times = [each for each in newest if each is not None]
    if len(times) < len(newest):
        yield Judgement(kind, "True", "NoneDue", f"not every shard has one yet: none was due{coming}")
    else:
        yield Judgement(
            kind, "True", "Taken", f"every shard has one of {min(times):%Y-%m-%dT%H:%MZ} or later{coming}"
        )


def _nodes(view: View) -> Iterator[Node]:
    for shard in view.shards:
        yield from shard.nodes


def _progressing(view: View, step: Step, blocked: Wait | None) -> Judgement:
    kind = ConditionType.PROGRESSING
    if blocked is not None:
        overdue = view.snapshot.now >= blocked.until
        reason = OVERDUE if overdue else blocked.reason
        message = f"this takes longer than it should: {blocked.message}" if overdue else blocked.message
        return Judgement(kind, "True", reason, message)
    if any(not isinstance(action, (LabelPod, *ROUTINE)) for action in step.actions):
        return Judgement(kind, "True", "Applying", "the spec is being put into effect")
    return Judgement(kind, "False", "UpToDate", "everything is as the spec says")


def _paused(view: View) -> Judgement:
    if view.inputs.spec.paused:
        message = "nothing is changed, because spec.paused is true; failover works as ever"
        return Judgement(ConditionType.PAUSED, "True", "SpecPaused", message)
    return Judgement(ConditionType.PAUSED, "False", "NotPaused", "spec.paused is false")


def _listed(lines: Sequence[str]) -> str:
    """Return ``lines`` in one, the first few of them."""
    shown = "; ".join(lines[:5])
    return shown if len(lines) <= 5 else f"{shown}; and {len(lines) - 5} more"
