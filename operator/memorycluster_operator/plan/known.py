"""What is known of a cluster's snapshots: by the status, by what Jobs have said since, by MemorySnapshots."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from memorycluster.api.memorysnapshot import MemorySnapshotStatus, SnapshotPhase, SnapshotShard
from memorycluster.api.status import Condition, KeptSnapshot, ShardSnapshots
from memorycluster.snapshot.policy import KEPT_ANYWAY
from memorycluster_operator.actions import Discard
from memorycluster_operator.makings import KEEP, MAKE, Asked, Making
from memorycluster_operator.objects.making import job_key
from memorycluster_operator.objects.template import digest
from memorycluster_operator.plan.view import View
from memorycluster_operator.snapshot import Key

LOST_AFTER = timedelta(seconds=30)
"""From the end of a Job until its pod must have been seen, or what it said is lost."""

FINISHED = (SnapshotPhase.COMPLETED, SnapshotPhase.FAILED)

SETTLED = (SnapshotPhase.COMPLETED, SnapshotPhase.DELETED, SnapshotPhase.RETAINED)
"""Phases of a shard's part that no Job that makes one changes any more."""


def found_of(view: View, shard: int) -> ShardSnapshots:
    """Return what is known of a shard's snapshots: what the status says, and what has come since."""
    found = ShardSnapshots()
    for each in view.snapshot.cluster.status.get("shards") or []:
        if each.get("index") == shard and each.get("snapshots"):
            found = _parsed(each["snapshots"])
    mine = [
        each
        for each in view.snapshot.makings
        if each.shard == shard and each.finished and each.kind in (MAKE, KEEP)
    ]
    for making in sorted(mine, key=lambda each: each.finished or each.created):
        assert making.finished is not None
        if found.looked_at is None or making.finished > found.looked_at:
            found = _after(view, found, making)
    return found


def _parsed(stored: Mapping[str, Any]) -> ShardSnapshots:
    try:
        return ShardSnapshots.model_validate(stored)
    except ValidationError:
        return ShardSnapshots()


def _after(view: View, found: ShardSnapshots, making: Making) -> ShardSnapshots:
    """Return what is known once a Job is finished."""
    if not making.failed and making.result is None and not lost(view, making):
        return found  # its pod has not been seen yet
    if (said := making.result) is not None and not making.failed:
        kept = said.get("kept")
        if kept is None:  # it could not look any more
            kept = [said["manifest"]] if "manifest" in said else []
            kept += [each.model_dump(mode="json", by_alias=True) for each in found.kept]
        return ShardSnapshots(
            kept=[KeptSnapshot.model_validate(each) for each in kept[:KEPT_ANYWAY]],
            waits=bool(said.get("waits")),
            message=said.get("trouble") or "",
            looked_at=making.finished,
        )
    text = f"shard {making.shard}: no snapshot: {failure(making)}"
    return found.model_copy(update={"message": text, "looked_at": making.finished})


def lost(view: View, making: Making) -> bool:
    """Whether a Job has done what it should, but nobody knows what that was."""
    late = making.finished is not None and view.snapshot.now - making.finished > LOST_AFTER
    return late and not making.failed and making.result is None


def failure(making: Making) -> str:
    """Return why a Job that is finished has not done what it should."""
    said = (making.result or {}).get("failed")
    return str(said or making.message or "its pod is gone, and what it said with it")


def complete(
    asked: Asked, before: MemorySnapshotStatus, phase: SnapshotPhase, message: str, now: datetime
) -> Condition:
    """Return the condition that says whether all of a MemorySnapshot is there."""
    status = "True" if phase is SnapshotPhase.COMPLETED else "False"
    return condition(asked, before, "Complete", status, phase, message, now)


def condition(
    asked: Asked,
    before: MemorySnapshotStatus,
    kind: str,
    status: str,
    reason: str,
    message: str,
    now: datetime,
) -> Condition:
    """Return a condition of a MemorySnapshot; one whose status is as before keeps its time of transition."""
    old = next((each for each in before.conditions if each.type == kind), None)
    return Condition(
        type=kind,
        status=status,
        reason=str(reason),
        message=message,
        last_transition_time=old.last_transition_time if old and old.status == status else now,
        observed_generation=asked.generation,
    )


def told_of(asked: Asked) -> MemorySnapshotStatus:
    """Return what a MemorySnapshot was told last."""
    try:
        return MemorySnapshotStatus.model_validate(asked.status)
    except ValidationError:
        return MemorySnapshotStatus(phase=SnapshotPhase.PENDING)


def making_of(view: View, asked: Asked, shard: int) -> Making | None:
    """Return the Job that makes a MemorySnapshot's part of a shard."""
    name = job_key(view.inputs.name, shard, digest(asked.uid)[:8]).name
    return next((each for each in view.snapshot.makings if each.name == name), None)


def part_of(view: View, asked: Asked, index: int, before: SnapshotShard | None) -> SnapshotShard:
    """Return how far the part of one shard is."""
    if before is not None and before.phase in SETTLED:
        return before
    making, started = making_of(view, asked, index), before.started_at if before else None
    failed = before.failed if before else None
    if making is None:
        return before or SnapshotShard(index=index, phase=SnapshotPhase.PENDING)
    if succeeded(making):
        assert making.result is not None
        manifest = making.result["manifest"]
        return SnapshotShard(
            index=index,
            phase=SnapshotPhase.COMPLETED,
            started_at=started,
            failed=failed,
            place=making.result.get("made") or making.result.get("nothing") or "",
            epoch=manifest["epoch"],
            sequence=manifest["sequence"],
            offset=manifest["offset"],
            log_time=manifest["logTime"],
            bytes=manifest["size"],
            sha256=manifest["sha256"],
            digest=manifest["digest"],
            keys=manifest["keys"],
            engine_version=manifest["engineVersion"],
        )
    part = SnapshotShard(index=index, phase=SnapshotPhase.RUNNING, started_at=started, failed=failed)
    if making.failed or lost(view, making):
        return part.model_copy(update={"message": failure(making), "failed": True})
    if (now := making.progress) is not None:
        told = {"message": str(now), "step": now.step, "done": now.done, "total": now.total or None}
        return part.model_copy(update=told)
    said = (making.result or {}).get("failed") or making.message  # its pod has ended, and the Job soon will
    return part.model_copy(update={"message": said or (before.message if before else "")})


def succeeded(making: Making | None) -> bool:
    """Whether a Job has made a snapshot, and said so."""
    return (
        making is not None
        and making.finished is not None
        and not making.failed
        and making.result is not None
        and "manifest" in making.result
    )


def discarded(key: Key, what: Asked | Making, reason: str) -> Discard:
    """Return what deletes a Job, or a MemorySnapshot, as it was seen."""
    return Discard(key, what.uid, what.resource_version, reason)
