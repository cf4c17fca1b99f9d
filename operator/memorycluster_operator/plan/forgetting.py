"""MemorySnapshots that take their data along when they are deleted (``deletionPolicy: Delete``).

A finalizer holds them until a Job has deleted the data. What the log still needs is left to retention.
Neither a store that is away nor a log that has lost something holds one for ever: past ``FORGET_WITHIN`` its
data stays, and that is said. So is what nobody can delete: data of which it is not known where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from memorycluster.api.memorysnapshot import (
    SNAPSHOT_KIND,
    MemorySnapshotStatus,
    SnapshotPhase,
    SnapshotShard,
)
from memorycluster.snapshot.alone import KEPT, RETAINED
from memorycluster_operator.actions import Event, SetFinalizers, TellSnapshot
from memorycluster_operator.makings import DATA_FINALIZER, FORGET, Asked, Making
from memorycluster_operator.plan.known import condition, failure, lost, making_of, part_of, told_of
from memorycluster_operator.plan.step import NOTHING, Step, do
from memorycluster_operator.plan.view import View
from memorycluster_operator.snapshot import Key, Snapshot

FORGET_WITHIN = timedelta(hours=1)
"""For how long a MemorySnapshot that is being deleted waits for its data to go."""

CONDITION = "DataDeleted"
WAITS, FAILS, STAYS, DONE = "Waiting", "DeletionFailed", "DataKept", "Deleted"
"""Its reasons."""


def hold_snapshots(snapshot: Snapshot) -> Step:
    """Return which MemorySnapshots are to be held, and which no longer: this is done whatever else is not."""
    step = NOTHING
    for asked in snapshot.asked:
        held = DATA_FINALIZER in asked.finalizers
        if asked.deletes_data and not held and not asked.deleting:
            step += do(_set(asked, (*asked.finalizers, DATA_FINALIZER), "its data is to go with it"))
        elif held and not asked.deletes_data:
            step += do(release(asked, "its data is not to go with it"))
        elif held and asked.deleting and (said := _said(asked)) and said.reason in (STAYS, DONE):
            step += do(release(asked, said.message))
    return step


def release(asked: Asked, reason: str) -> SetFinalizers:
    """Return how a MemorySnapshot is let go."""
    return _set(asked, tuple(each for each in asked.finalizers if each != DATA_FINALIZER), reason)


def abandon(cluster: str, waiting: Iterable[Asked]) -> list[SetFinalizers]:
    """Return how MemorySnapshots are let go whose MemoryCluster is gone."""
    actions = []
    for asked in waiting:
        shards = told_of(asked).shards
        places = ", ".join(each.place for each in shards if each.place)
        kept = f"its data stays in the store ({places})" if places else "it has no data"
        if unknown := _unknown(asked.name, cluster, shards):
            kept = f"{kept}; {unknown}" if places else unknown
        why = f"its MemoryCluster is gone, and with it where the store is: {kept}"
        actions.append(release(asked, why))
    return actions


def _set(asked: Asked, finalizers: tuple[str, ...], reason: str) -> SetFinalizers:
    key = Key(SNAPSHOT_KIND, asked.name)
    return SetFinalizers(key, asked.uid, asked.resource_version, finalizers, reason)


def _said(asked: Asked) -> Any:
    return next((each for each in told_of(asked).conditions if each.type == CONDITION), None)


def forgotten(view: View, asked: Asked, before: MemorySnapshotStatus, waiting: str) -> MemorySnapshotStatus:
    """Return what is to be said of a MemorySnapshot that is being deleted with its data.

    :param waiting: why there is no Job for it; empty: there is, or is going to be one.
    """
    now = view.snapshot.now.replace(microsecond=0)
    jobs = [each for each in view.snapshot.makings if each.kind == FORGET and each.finished]
    known = {each.index: each for each in before.shards}
    here = {shard.index for shard in view.shards}
    parts = [
        _fate(part_of(view, asked, index, known.get(index)) if index in here else known[index], jobs)
        for index in sorted(here | set(known))
    ]
    left = [each for each in parts if each.place and each.phase is SnapshotPhase.COMPLETED]
    making = [index for index in here if _goes_on(view, making_of(view, asked, index))]
    old, unknown = _said(asked), _unknown(asked.name, view.inputs.name, parts)
    if not left and not making:
        stays = "; ".join(
            f"shard {each.index}: {each.message}" for each in parts if each.message and each.place
        )
        if unknown or any(each.phase is SnapshotPhase.RETAINED for each in parts):
            status, reason = "False", STAYS
        else:
            status, reason = "True", DONE
        message = "; ".join(each for each in (stays, unknown) if each)
        message = message or "its data is not in the store any more"
    elif old and old.reason == STAYS:
        status, reason, message = old.status, old.reason, old.message
    else:
        status, reason = "False", WAITS
        failed = [each for each in jobs if each.failed and {part.place for part in left} & set(each.unwanted)]
        message = waiting or "its data is being deleted from the store"
        if making:
            message = f"shard {making[0]}: a Job is still making it"
        elif asked.name in view.snapshot.restored_from:
            message = "a MemoryCluster is being restored from it"
        elif failed:
            reason, message = FAILS, failure(max(failed, key=lambda each: each.finished or each.created))
        if old and now - old.last_transition_time > FORGET_WITHIN:
            places = ", ".join(each.place for each in left) or "what its Jobs have made"
            message = f"its data stays in the store ({places}): {message}"
            reason, message = STAYS, "; ".join(each for each in (message, unknown) if each)
    said = condition(asked, before, CONDITION, status, reason, message, now)
    others = [each for each in before.conditions if each.type != CONDITION]
    changes = {"shards": parts, "conditions": [*others, said], "message": message}
    return before.model_copy(update=changes)


def _goes_on(view: View, job: Making | None) -> bool:
    """Whether it is going to be known what a Job has made, but is not yet."""
    if job is None or (job.finished and (job.failed or job.result is not None)):
        return False
    return not lost(view, job)


def _unknown(name: str, cluster: str, parts: Iterable[SnapshotShard]) -> str:
    """Return where there may be data of a MemorySnapshot of which nobody has heard; empty: nowhere.

    A Job can die, or its answer get lost, when what it has made is whole.
    """
    tried = [
        each
        for each in parts
        if each.failed or (not each.place and (each.started_at or each.phase is not SnapshotPhase.PENDING))
    ]
    if not tried:
        return ""
    where = ", ".join(f"{cluster}/{each.index}/" for each in tried)
    return (
        "a Job that failed, or was not heard, may have left a snapshot in the store: "
        f"look for one that is called {name} below {where}"
    )


def _fate(part: SnapshotShard, jobs: list[Making]) -> SnapshotShard:
    """Return what has become of a shard's part, by what Jobs say that were to delete it."""
    for job in jobs:
        what = ((job.result or {}).get("unwanted") or {}).get(part.place)
        if what is not None and part.phase is SnapshotPhase.COMPLETED:
            message = "the log needs its data, which stays until retention lets it expire"
            changes = {"phase": SnapshotPhase.DELETED, "message": message if what == KEPT else ""}
            if what == RETAINED:
                message = f"{part.place} stays: it is one of the two newest of a former log"
                changes = {"phase": SnapshotPhase.RETAINED, "message": message}
            return part.model_copy(update=changes)
    return part


def tidings(step: Step) -> Iterator[Event]:
    """Yield what there is to tell of the data of MemorySnapshots that are being deleted."""
    for action in step.actions:
        if not isinstance(action, TellSnapshot):
            continue
        old, new = (_reason(status) for status in (action.before, action.status))
        if new[0] != old[0] and new[0] in (FAILS, STAYS, DONE):
            kind = "Normal" if new[0] == DONE else "Warning"
            yield Event(kind, f"Snapshot{new[0]}", f"MemorySnapshot {action.name}: {new[1]}")


def _reason(status: Any) -> tuple[str, str]:
    for each in status.get("conditions") or []:
        if each.get("type") == CONDITION:
            return each.get("reason") or "", each.get("message") or ""
    return "", ""
