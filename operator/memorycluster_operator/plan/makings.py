"""Snapshots: which Jobs are to make them, and when; what became of them; what the schedule asks for.

A Job makes the snapshot of one shard. It is owned by the MemorySnapshot that asked for it, or by the
MemoryCluster, if its log did (``maxLogReplay``). When it has made one, it looks at what is in the store,
trims the log behind, and deletes what has expired, by the rules of ``memorycluster.snapshot.keep``; what it
found goes into the status, and is what is known here of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from memorycluster.api.snapshots import LogStore, SnapshotStore
from memorycluster.api.spec import Spec
from memorycluster.api.status import ShardSnapshots, SnapshotsStatus
from memorycluster.api.units import format_quantity
from memorycluster_operator.actions import Event
from memorycluster_operator.identity import Identity
from memorycluster_operator.makings import RESTORE
from memorycluster_operator.objects.store import store_of
from memorycluster_operator.plan.asked import (
    discard_expired,
    follow_schedule,
    schedule_status,
    tell_snapshots,
)
from memorycluster_operator.plan.forgetting import tidings
from memorycluster_operator.plan.jobs import AGAIN_AFTER, plan_jobs
from memorycluster_operator.plan.known import discarded, found_of
from memorycluster_operator.plan.log import lacks_room, not_of_the_template
from memorycluster_operator.plan.restore import takers_awaited
from memorycluster_operator.plan.step import LOOK_AGAIN, NOTHING, Step, do, wait
from memorycluster_operator.plan.view import View
from memorycluster_operator.snapshot import Key

LOOK_EVERY = timedelta(minutes=1)
"""Between two looks at how much a restart would replay."""


@dataclass(frozen=True, slots=True)
class Makings:
    """What there is to do for the snapshots of a cluster, and what to say of them."""

    step: Step = NOTHING
    shards: Mapping[int, ShardSnapshots] = field(default_factory=dict)
    """What is known of each shard's; empty: the cluster has no store for any."""
    status: SnapshotsStatus | None = None
    missing: str = ""
    """Why no snapshots are taken at all: there is no store for any."""
    again: datetime | None = None
    """When time alone changes something."""

    @property
    def events(self) -> tuple[Event, ...]:
        """What has just become of MemorySnapshots that are being deleted."""
        return tuple(tidings(self.step))


def plan_makings(view: View) -> Makings:
    """Return what to do."""
    snapshot, store = view.snapshot, store_of(view.inputs.spec)
    if store is None:
        missing = _no_store(view.inputs.spec)
        message = f"MemoryCluster {view.inputs.name} has no store: {missing}"
        return Makings(tell_snapshots(view, (), message), missing=missing)
    identity = view.settled.identity
    view, foreign = own_makings(view, identity)
    shards = {shard.index: found_of(view, shard.index) for shard in view.shards}
    made = identity is not None and identity.created >= {shard.index for shard in view.shards}
    if identity is None or view.settled.refused or not view.settled.stored or not made:
        message = "it waits for the cluster's logs, which are not made yet, or not known"
        failed = [each.finished for each in snapshot.makings if each.kind == RESTORE and each.finished]
        times = [each + AGAIN_AFTER for each in failed if each + AGAIN_AFTER > snapshot.now]
        if takers_awaited(view):
            times.append(snapshot.now + LOOK_AGAIN)  # it is no news of this cluster that they are gone
        again = min(times, default=None)
        return Makings(tell_snapshots(view, (), message), shards, schedule_status(view), again=again)
    held = _unprepared(view) if store.log and not store.chosen else None
    if held and not all(each.kept for each in shards.values()):
        message = "; ".join(each.message for each in held.waits)
        return Makings(held + tell_snapshots(view, (), message), shards, schedule_status(view))
    scheduled, status = follow_schedule(view)
    # A store that is there goes on as it is: else the log would fill while its members can't follow.
    jobs, made_for, times = plan_jobs(view, identity, store, shards, grow=held is None)
    step = (
        (held or NOTHING)
        + scheduled
        + jobs
        + foreign
        + tell_snapshots(view, made_for, "")
        + discard_expired(view)
    )
    times.append(snapshot.now + LOOK_EVERY)
    if status and status.next:
        times.append(status.next)
    return Makings(step, shards, status, again=min(times))


def _no_store(spec: Spec) -> str:
    """Return what is so without a store, and what a user does about it."""
    snapshots = spec.snapshots.model_copy(update={"store": SnapshotStore(log=LogStore())})
    needed = spec.model_copy(update={"snapshots": snapshots}).log_bytes
    size = spec.log.storage.size
    room = f"with log.storage.size {format_quantity(needed)} or more" if size and size < needed else ""
    return (
        "no snapshots are taken, and the log is never trimmed: at 90% of log.maxBytes writes are refused. "
        f"Name a bucket in spec.snapshots.store, or keep them in the log service (store: {{log: {{}}}}"
        f"{', ' + room if room else ''})"
    )


def _unprepared(view: View) -> Step | None:
    """Return the wait for the room for snapshots in the log service, which servers see to too late."""
    if held := lacks_room(view):
        return held
    if old := not_of_the_template(view):
        message = f"snapshots are taken once the log's members have the room for them: {', '.join(old)}"
        return wait(view.snapshot, "LogUpdating", message)
    return None


def own_makings(view: View, identity: Identity | None) -> tuple[View, Step]:
    """Return the view without Jobs of other logs than the cluster's, and what removes those.

    A MemorySnapshot outlives the cluster, and its Jobs with it: what they found is of a former one's log.
    """
    if identity is None:
        return view, NOTHING
    ours = {str(generation) for generation in identity.generations} | {""}
    makings = view.snapshot.makings
    foreign = [each for each in makings if each.generation not in ours]
    if not foreign:
        return view, NOTHING
    own = tuple(each for each in makings if each.generation in ours)
    why = "it is about the log of a former cluster of this name"
    step = do(*(discarded(Key("Job", each.name), each, why) for each in foreign if not each.deleting))
    return replace(view, snapshot=replace(view.snapshot, makings=own)), step
