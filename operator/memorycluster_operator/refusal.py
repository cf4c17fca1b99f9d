"""What the status says without a plan: the spec can't be used, the operator failed, or others come first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from memorycluster.api.spec import Spec
from memorycluster_operator.actions import Event
from memorycluster_operator.plan.conditions import OVERDUE
from memorycluster_operator.snapshot import Cluster, Manifest
from memorycluster_operator.turns import AT_ONCE

INVALID, FAILED, QUEUED = "InvalidSpec", "InternalError", "Queued"

JUDGED = ("Ready", "Redundant", "LogIntact", "ParametersApplied")
"""Conditions that nobody judges meanwhile."""

LAST = {"Ready": "Degraded", "Degraded": "Degraded", "Unavailable": "Unavailable"}
"""The phase, by what it was: what it says now was true once."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A MemoryCluster for which there is no plan, and what its status is to be."""

    cluster: Cluster
    """With a spec that means nothing."""
    status: Mapping[str, Any]
    events: tuple[Event, ...] = ()


def refuse(obj: Manifest, error: ValidationError, now: datetime) -> Refusal:
    """Return the status with which the spec is refused."""
    found = "; ".join(f"{_path(each['loc'])}: {each['msg']}" for each in error.errors()[:5])
    message = f"the spec can't be used, so nothing is changed until it is mended: {found}"
    return _without_plan(obj, INVALID, message, now)


def admit(obj: Manifest, error: Exception, now: datetime) -> Refusal:
    """Return the status that says that the operator itself has failed."""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    message = (
        f"the operator failed over this MemoryCluster, changes nothing, and tries again: {what}. This "
        "is a bug: report it with the operator's log"
    )
    return _without_plan(obj, FAILED, message, now)


def postpone(obj: Manifest, until: datetime, now: datetime) -> Refusal:
    """Return the status that says that the turn of a cluster that is being made has not come yet.

    What was judged stays. How many come first is not said: that would be news all the time.
    """
    message = (
        f"waits for its turn: new MemoryClusters are made {AT_ONCE} at a time, the oldest first; it comes by "
        "itself. If it does not, the operator or the API server is short of CPU, or does not answer"
    )
    before: Mapping[str, Any] = obj.get("status") or {}
    events: tuple[Event, ...] = ()
    progressing = ("True", QUEUED, message)
    if now >= until:
        progressing = ("True", OVERDUE, f"this takes longer than it should: {message}")
        reasons = {each["type"]: each["reason"] for each in before.get("conditions") or []}
        if reasons.get("Progressing") != OVERDUE:
            events = (Event("Warning", *progressing[1:]),)
    status = {
        **before,
        "phase": "Pending",
        "conditions": _conditions(obj, {"Progressing": progressing}, now),
        "blocked": {"reason": QUEUED, "message": message, "until": _written(until)},
        "message": message,
    }
    return Refusal(_cluster(obj), status, events)


def _without_plan(obj: Manifest, reason: str, message: str, now: datetime) -> Refusal:
    """Return a status that judges nothing; engines go on as they were."""
    before = obj.get("status") or {}
    judged = dict.fromkeys(JUDGED, ("Unknown", reason, message))
    status = {
        **before,
        "phase": LAST.get(before.get("phase", ""), "Pending"),
        "observedGeneration": obj["metadata"]["generation"],
        "conditions": _conditions(obj, {**judged, "Progressing": ("False", reason, message)}, now),
        "blocked": {"reason": reason, "message": message},
        "message": message,
    }
    return Refusal(_cluster(obj), status)


def _conditions(
    obj: Manifest, judged: Mapping[str, tuple[str, str, str]], now: datetime
) -> list[Mapping[str, Any]]:
    """Return the conditions that there are, but those in ``judged`` with that status, reason and message."""
    found = (obj.get("status") or {}).get("conditions") or []
    conditions: dict[str, Mapping[str, Any]] = {each["type"]: each for each in found}
    for kind, (status, reason, message) in judged.items():
        old = conditions.get(kind, {})
        conditions[kind] = {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == status else _written(now),
            "observedGeneration": obj["metadata"]["generation"],
        }
    return list(conditions.values())


def _cluster(obj: Manifest) -> Cluster:
    metadata = obj["metadata"]
    return Cluster(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        spec=Spec(),
        status=obj.get("status") or {},
    )


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _path(location: tuple[int | str, ...]) -> str:
    return "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
