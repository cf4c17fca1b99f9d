"""What is news: whether a status is worth writing, and what is worth an event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memorycluster_operator.actions import Event
from memorycluster_operator.plan.conditions import OVERDUE
from memorycluster_operator.plan.space import LOG_FULL
from memorycluster_operator.plan.status import GRAVE, HEALING

MEASURES = {
    "committedOffset",
    "appliedOffset",
    "lag",
    "lease",
    "firstSequence",
    "lastSequence",
    "bytes",
}
"""Fields that change all the time. They are written along with anything else, never for their own sake."""

APART = {"identity", "lastTransitionTime"}
"""The identity has an action of its own; a time of transition changes with its condition."""


def differs(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether ``wanted`` is worth a write over ``stored``."""
    return bool(_news(stored) != _news(wanted))


def _news(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _news(each) for key, each in value.items() if key not in MEASURES | APART}
    if isinstance(value, list | tuple):
        return [_news(each) for each in value]
    return value


def transitions(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return the events that tell how ``stored`` became ``wanted``: none if it is the same."""
    return tuple(_transitions(stored, wanted))


def _transitions(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Event]:
    yield from _deletion(stored, wanted)
    if stored.get("phase") != wanted["phase"] != "Deleting":
        bad = wanted["phase"] in ("Degraded", "Unavailable")
        yield Event("Warning" if bad else "Normal", wanted["phase"], _why(wanted))
    led = {shard["index"]: shard.get("primary") for shard in stored.get("shards") or []}
    for shard in wanted["shards"]:
        primary = shard.get("primary")
        if primary and primary != led.get(shard["index"]):
            where = f" in {shard['zone']}" if shard.get("zone") else ""
            message = f"shard {shard['index']}: {primary}{where} is primary (epoch {shard['epoch']})"
            yield Event("Normal", "PrimaryChanged", message)
    before, now = stored.get("blocked") or {}, wanted.get("blocked") or {}
    if now.get("reason") in GRAVE and now["reason"] != before.get("reason"):
        yield Event("Warning", now["reason"], now["message"])
    if HEALING == now.get("reason") != before.get("reason"):
        yield Event("Normal", HEALING, now["message"])
    yield from _conditions(stored, wanted)


def _deletion(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Event]:
    before, now = stored.get("deletion") or {}, wanted.get("deletion") or {}
    if now and now["reason"] != before.get("reason"):
        bad = now["reason"] in ("Frozen", "EnginesUnclear", "Uncertain", "VolumesGone", "NoLastSnapshot")
        yield Event("Warning" if bad else "Normal", now["reason"], now["message"])


def _conditions(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Event]:
    before = {each["type"]: each for each in stored.get("conditions") or []}
    for condition in wanted["conditions"]:
        old = before.get(condition["type"], {})
        status, reason, message = condition["status"], condition["reason"], condition["message"]
        match condition["type"]:
            case "Progressing" if reason == OVERDUE != old.get("reason"):
                yield Event("Warning", OVERDUE, message)
            case "LogIntact" if status == "False" != old.get("status"):
                yield Event("Warning", reason, message)
            case "LogIntact" if status == "True" and old.get("reason") == "RottenCopy":
                yield Event(
                    "Normal", "LogHealed", f"no copy of the log is rotten any more; it was: {old['message']}"
                )
            case "SnapshotsCurrent" if status == "False" != old.get("status"):
                yield Event("Warning", reason, message)
            case "SnapshotsCurrent" if status == "True" and old.get("status") == "False":
                yield Event("Normal", "SnapshotsCurrent", message)
            case "ParametersApplied" if reason == "Refused" != old.get("reason"):
                yield Event("Warning", "ParametersRefused", message)
            case "ParametersApplied" if status == "True" and old.get("status") == "False":
                yield Event("Normal", "ParametersApplied", message)
            case "Paused" if old and status != old.get("status"):
                yield Event("Normal", "Paused" if status == "True" else "Resumed", message)


def _why(status: Mapping[str, Any]) -> str:
    """Return the message of what makes the phase what it is: a condition, or a log that is full."""
    conditions = {each["type"]: each for each in status["conditions"]}
    if status["phase"] not in ("Ready", "Degraded"):
        return str(conditions["Ready"]["message"])
    bad = [each for each in ("Redundant", "LogIntact") if conditions[each]["status"] != "True"]
    blocked = status.get("blocked") or {}
    if status["phase"] == "Degraded" and not bad and blocked.get("reason") == LOG_FULL:
        return str(blocked["message"])
    return str(conditions[(*bad, "Redundant")[0]]["message"])
