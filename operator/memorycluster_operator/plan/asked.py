"""MemorySnapshots: which one the schedule asks for, what each of them is told, and which have expired."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from memorycluster.api.manifest import API_VERSION
from memorycluster.api.memorysnapshot import (
    SNAPSHOT_KIND,
    MemorySnapshotStatus,
    SnapshotPhase,
    SnapshotShard,
)
from memorycluster.api.status import SnapshotsStatus
from memorycluster.api.units import format_bytes
from memorycluster.snapshot.manifest import default_name
from memorycluster.snapshot.policy import next_moment, previous_moment
from memorycluster_operator.actions import Make, TellSnapshot
from memorycluster_operator.makings import MOMENT_ANNOTATION, Asked
from memorycluster_operator.objects import names
from memorycluster_operator.plan.forgetting import forgotten
from memorycluster_operator.plan.known import (
    FINISHED,
    complete,
    discarded,
    making_of,
    part_of,
    told_of,
)
from memorycluster_operator.plan.step import NOTHING, Step, do
from memorycluster_operator.plan.view import View
from memorycluster_operator.snapshot import Key, Manifest

RETRY_FOR = timedelta(hours=1)
"""For how long the part of each shard is tried again."""

FAILED_KEPT = 3
"""MemorySnapshots of the schedule that have failed and are kept, for somebody to see."""


def follow_schedule(view: View) -> tuple[Step, SnapshotsStatus | None]:
    """Return the MemorySnapshot that the schedule asks for, and what there is to say of it."""
    schedule, now = view.inputs.spec.snapshots.schedule, view.snapshot.now
    status = schedule_status(view)
    if schedule is None or status is None:
        return NOTHING, None
    moment = previous_moment(schedule, now)
    since = status.last or view.snapshot.cluster.created or now
    busy = any(
        each.moment and not each.deleting and told_of(each).phase not in FINISHED
        for each in view.snapshot.asked
    )
    name = default_name(view.inputs.name, moment)
    if moment <= since or busy or any(each.name == name for each in view.snapshot.asked):
        return NOTHING, status
    key = Key(SNAPSHOT_KIND, name)
    manifest: Manifest = {
        "apiVersion": API_VERSION,
        "kind": SNAPSHOT_KIND,
        "metadata": {
            "name": name,
            "namespace": view.snapshot.cluster.namespace,
            "labels": names.labels(view.inputs.name),
            "annotations": {MOMENT_ANNOTATION: moment.isoformat()},
        },
        "spec": {"cluster": view.inputs.name},
    }
    return do(Make(key, manifest, f"the schedule says {moment:%Y-%m-%d %H:%M}", create=True)), status


def schedule_status(view: View) -> SnapshotsStatus | None:
    """Return what there is to say of the schedule; None: there is none."""
    schedule = view.inputs.spec.snapshots.schedule
    if schedule is None:
        return None
    stored = (view.snapshot.cluster.status.get("snapshots") or {}).get("last")
    moments = [each.moment for each in view.snapshot.asked if each.moment]
    moments += [datetime.fromisoformat(stored)] if stored else []
    # What lies ahead was written by a clock that was wrong; it must not keep the schedule waiting.
    last = max((each for each in moments if each <= view.snapshot.now), default=None)
    return SnapshotsStatus(last=last, next=next_moment(schedule, view.snapshot.now))


def tell_snapshots(view: View, made: Collection[tuple[str, int]], waiting: str) -> Step:
    """Return what is to be written of each MemorySnapshot.

    :param made: for which of them, and which shards, a Job is being made. :param waiting: why none is.
    """
    step = NOTHING
    for asked in view.snapshot.asked:
        before = told_of(asked)
        if asked.forgetting:
            status = forgotten(view, asked, before, waiting)
        elif asked.deleting or before.phase in FINISHED:
            continue
        elif asked.last and asked.last.cluster_uid != view.snapshot.cluster.uid:
            step += give_up(view, asked, "the MemoryCluster that it was asked for is gone")
            continue
        else:
            status = _progress(view, asked, before, made, waiting)
        step += _told(asked, status)
    return step


def give_up(view: View, asked: Asked, why: str) -> Step:
    """Return how a MemorySnapshot is told that it never will be; nothing, if it is finished."""
    before, now = told_of(asked), view.snapshot.now.replace(microsecond=0)
    if before.phase in FINISHED:
        return NOTHING
    phase, message = SnapshotPhase.FAILED, f"given up: {why}"
    changes = {
        "phase": phase,
        "message": message,
        "conditions": [complete(asked, before, phase, message, now)],
    }
    return _told(asked, before.model_copy(update=changes))


def _told(asked: Asked, status: MemorySnapshotStatus) -> Step:
    wanted = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    if wanted == dict(asked.status):
        return NOTHING
    reason = f"it is {status.phase}, {status.progress}"
    version, stored = asked.resource_version, dict(asked.status)
    return do(TellSnapshot(asked.name, asked.uid, version, stored, wanted, reason))


def _progress(
    view: View,
    asked: Asked,
    before: MemorySnapshotStatus,
    made: Collection[tuple[str, int]],
    waiting: str,
) -> MemorySnapshotStatus:
    now = view.snapshot.now.replace(microsecond=0)
    known = {each.index: each for each in before.shards}
    shards = [part_of(view, asked, shard.index, known.get(shard.index)) for shard in view.shards]
    shards = [
        each.model_copy(update={"started_at": now})
        if each.started_at is None
        and (each.phase is not SnapshotPhase.PENDING or (asked.uid, each.index) in made)
        else each
        for each in shards
    ]
    started = before.started_at or (now if any(each.started_at for each in shards) else None)
    done = [each for each in shards if each.phase is SnapshotPhase.COMPLETED]
    troubles = [f"shard {each.index}: {each.message}" for each in shards if each.message]
    if len(done) == len(shards):
        phase, message = SnapshotPhase.COMPLETED, "verified, and in the store"
    elif any(_gave_up(view, asked, each) for each in shards):
        phase, message = SnapshotPhase.FAILED, f"given up: {'; '.join(troubles)}"
    else:
        phase = SnapshotPhase.RUNNING if started else SnapshotPhase.PENDING
        message = "; ".join(troubles[:5]) or waiting or ("" if started else "it waits for its turn")
    size = sum(each.bytes or 0 for each in shards)
    return MemorySnapshotStatus(
        phase=phase,
        conditions=[complete(asked, before, phase, message, now)],
        shards=shards,
        started_at=started,
        completed_at=now if phase is SnapshotPhase.COMPLETED else None,
        size=format_bytes(size).replace(" ", "") if size else "",
        progress=f"{len(done)}/{len(shards)}",
        message=message,
    )


def _gave_up(view: View, asked: Asked, shard: SnapshotShard) -> bool:
    """Whether the last try has failed, so that nothing is under way that could still succeed.

    The last one of a cluster is tried for as long as the deletion waits for it.
    """
    if asked.last or shard.phase is SnapshotPhase.COMPLETED or shard.started_at is None:
        return False
    making = making_of(view, asked, shard.index)
    return making is not None and making.failed and view.snapshot.now - shard.started_at > RETRY_FOR


def discard_expired(view: View) -> Step:
    """Return the MemorySnapshots of the schedule that are no more: their data has expired, or never was."""
    expired = {
        str(name)
        for making in view.snapshot.makings
        if making.finished and making.result
        for name in making.result.get("deleted") or ()
    }
    failed = [
        each for each in view.snapshot.asked if each.moment and told_of(each).phase is SnapshotPhase.FAILED
    ]
    old = failed[:-FAILED_KEPT]
    return do(
        *(
            discarded(
                Key(SNAPSHOT_KIND, each.name),
                each,
                "it has expired" if each.name in expired else "it failed, as newer ones did",
            )
            for each in view.snapshot.asked
            if each.moment
            and not each.deleting
            and told_of(each).phase in FINISHED
            and (each.name in expired or each in old)
        )
    )
