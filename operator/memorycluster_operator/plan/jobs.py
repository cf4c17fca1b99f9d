"""Which Jobs make snapshots, and keep them, tried again when they fail.

Of each shard there is one at a time that makes one, and beside it one that only keeps what is there: many
writes ask for one snapshot after the other, and each Job that makes one waits anew for who is silent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from memorycluster.api.manifest import API_VERSION
from memorycluster.api.memorysnapshot import SNAPSHOT_KIND, SnapshotPhase
from memorycluster.api.snapshots import SnapshotStore
from memorycluster.api.status import ShardSnapshots
from memorycluster.snapshot.policy import End, replay_due, replay_limit
from memorycluster_operator.actions import Make
from memorycluster_operator.identity import Identity
from memorycluster_operator.makings import FORGET, KEEP, MAKE, RESTORE, TRIM, Asked, Making
from memorycluster_operator.objects.making import job, job_config, job_key
from memorycluster_operator.objects.template import digest
from memorycluster_operator.plan.known import (
    FINISHED,
    LOST_AFTER,
    discarded,
    found_of,
    lost,
    making_of,
    succeeded,
    told_of,
)
from memorycluster_operator.plan.step import Step, do
from memorycluster_operator.plan.view import Shard, View, template_of
from memorycluster_operator.snapshot import Key, LogState

AGAIN_AFTER = timedelta(minutes=1)
"""From a failure until it is tried again."""

LISTED_AT_MOST = 100
"""Places that a Job is asked about: there is room for 256 KiB in an object's annotations."""

TOLD_AT_MOST = 10
"""Places of which a Job has to tell what became of them: there is room for 4 KiB. So they take turns."""

_NEVER = datetime.min.replace(tzinfo=UTC)

AT_ONCE = 4
"""Jobs of one cluster at a time: each needs memory for a whole shard."""

MAKES, TENDS = (MAKE, RESTORE), (KEEP, FORGET)
"""Kinds of Jobs of which a shard has one at a time."""

TEND_AT_ONCE = 2
"""Of ``AT_ONCE``, those that only keep what is there: they have their turn first, and wait for minutes."""


@dataclass(frozen=True, slots=True)
class _Want:
    """A Job that should be."""

    key: Key
    kind: str
    reason: str
    """As a snapshot's manifest says it."""
    why: str
    asked: Asked | None = None
    unwanted: Mapping[str, str] = field(default_factory=dict)
    """Places of snapshots that are to go, with the name of each."""


def plan_jobs(
    view: View,
    identity: Identity,
    store: SnapshotStore,
    shards: Mapping[int, ShardSnapshots],
    *,
    grow: bool = True,
) -> tuple[Step, set[tuple[str, int]], list[datetime]]:
    """Return the Jobs to make, for which MemorySnapshots and shards that is, and when to look again."""
    now, makings = view.snapshot.now, view.snapshot.makings
    made: set[tuple[str, int]] = set()
    again = [each.finished + LOST_AFTER for each in makings if each.finished and each.result is None]
    step = _discard_takers(view)
    running = [each for each in makings if each.finished is None]
    free = AT_ONCE - len(running)
    for kinds, at_most in ((TENDS, TEND_AT_ONCE), (MAKES, AT_ONCE)):
        room = min(free, at_most - sum(each.kind in kinds for each in running))
        for shard in _by_turn(view, kinds):
            if any(each.shard == shard.index and each.kind in kinds for each in running):
                continue
            wants = _makes if kinds is MAKES else _tends
            want = next(wants(view, identity, shard, shards[shard.index]), None)
            if want is None:
                continue
            old = next((each for each in makings if each.name == want.key.name), None)
            if old is not None and old.finished is not None:
                if not old.failed and not lost(view, old):
                    continue  # what it has made is about to be known
                if now < old.finished + AGAIN_AFTER:
                    again.append(old.finished + AGAIN_AFTER)
                elif not old.deleting:
                    step += do(discarded(Key("Job", old.name), old, "it failed, and is tried again"))
            elif room > 0 and shard.log.state is LogState.INTACT:
                room, free = room - 1, free - 1
                step += do(_make(view, identity, store, shard, want, grow=grow))
                if want.asked:
                    made.add((want.asked.uid, shard.index))
    return step, made, [each for each in again if each > now]


def _by_turn(view: View, kinds: Collection[str]) -> list[Shard]:
    """Return the shards: first those that have had no Job of ``kinds``, or not for the longest time."""
    ended: dict[int, datetime] = {}
    for each in view.snapshot.makings:
        if each.kind in kinds and each.finished:
            ended[each.shard] = max(each.finished, ended.get(each.shard, _NEVER))
    return sorted(view.shards, key=lambda shard: ended.get(shard.index, _NEVER))


def _discard_takers(view: View) -> Step:
    """Return the end of Jobs that would trim, or delete, what another cluster has begun to be restored from.

    They were told before that did. Each is made anew at once, and told.
    """
    why = "it does not know that another cluster is being restored from what it may trim or delete"
    return do(
        *(
            discarded(Key("Job", each.name), each, why)
            for shard in view.shards
            for each in view.snapshot.makings
            if each.shard == shard.index and not each.deleting and _takes(view, shard, each)
        )
    )


def _takes(view: View, shard: Shard, making: Making) -> bool:
    if making.kind not in TRIM or making.finished or making.held or not _has_room(view, shard):
        return False
    return bool(view.inputs.readers) or not view.snapshot.restored_from <= making.spared


def _makes(view: View, identity: Identity, shard: Shard, found: ShardSnapshots) -> Iterator[_Want]:
    """Yield the Jobs that are to make a snapshot of a shard, the first first."""
    cluster, index = view.inputs.name, shard.index
    for asked in view.snapshot.asked:
        status = told_of(asked)
        done = {each.index for each in status.shards if each.phase is SnapshotPhase.COMPLETED}
        finished = making_of(view, asked, index)
        if asked.deleting or status.phase in FINISHED or index in done or succeeded(finished):
            continue
        if asked.last and asked.last.cluster_uid != view.snapshot.cluster.uid:
            continue
        key = job_key(cluster, index, digest(asked.uid)[:8])
        reason = "schedule" if asked.moment else "user"
        yield _Want(key, MAKE, reason, f"MemorySnapshot {asked.name} asks for it", asked)
    if not view.snapshot.cluster.deleting and (why := _replay(view, shard, found)):
        newest = max((each.sequence for each in found.kept), default=0)
        key = job_key(cluster, index, digest(f"replay {identity.generations[index]} {newest}")[:8])
        yield _Want(key, MAKE, "replay", why)


def _tends(view: View, identity: Identity, shard: Shard, found: ShardSnapshots) -> Iterator[_Want]:
    """Yield the Jobs that are to trim the log of a shard, and delete snapshots, the first first."""
    cluster, index, generation = view.inputs.name, shard.index, identity.generations[shard.index]
    if view.snapshot.cluster.deleting:
        return
    if unwanted := _unwanted(view, index):
        key = job_key(cluster, index, digest(f"forget {generation} {sorted(unwanted)}")[:8])
        names = ", ".join(sorted(set(unwanted.values())))
        yield _Want(key, FORGET, "replay", f"{names}: its data is to be deleted", unwanted=unwanted)
    if found.waits and found.looked_at and not _held(view, shard):
        key = job_key(cluster, index, digest(f"keep {generation} {found.looked_at.isoformat()}")[:8])
        yield _Want(key, KEEP, "replay", "more of the log can be trimmed once nobody is waited for any more")


def _replay(view: View, shard: Shard, found: ShardSnapshots) -> str:
    """Return why the log asks for a snapshot; empty: it does not, or that is not known."""
    spec, reports = view.inputs.spec, [node.report for node in shard.nodes if node.report]
    if not reports:
        return ""
    logs = [report.log for report in reports if report.log]
    newest = max(logs, key=lambda each: each.get("lastSequence") or 0, default={})
    last = max(newest.get("lastSequence") or 0, shard.log.last_sequence)
    end = End(last, max(report.committed for report in reports))
    return replay_due(
        end,
        int(newest.get("bytes") or shard.log.bytes),
        int(newest.get("firstSequence") or shard.log.first_sequence),
        found.kept,
        replay_limit(spec.snapshots.max_log_replay, spec.log.max_bytes),
    )


def _others(view: View, shard: int) -> dict[int, int]:
    """Return the last record in the older snapshot that each other shard is known to need."""
    found = {each.index: found_of(view, each.index).kept for each in view.shards if each.index != shard}
    return {index: min(each.sequence for each in kept) for index, kept in found.items() if kept}


def _make(
    view: View, identity: Identity, store: SnapshotStore, shard: Shard, want: _Want, *, grow: bool
) -> Make:
    config = job_config(
        view.inputs,
        identity,
        shard.index,
        reason=want.reason,
        name=want.asked.name if want.asked else "",
        make=want.kind == MAKE,
        frozen=tuple(node.name for node in shard.frozen),
        # The last one of a cluster is all there may soon be: nothing else may go for it.
        held=_held(view, shard) or bool(want.asked and want.asked.last),
        spared=view.snapshot.restored_from,
        must_spare=_has_room(view, shard),
        listed=_listed(view, identity, shard.index),
        unwanted=want.unwanted,
        grow=grow,
        others=_others(view, shard.index) if store.log else None,
    )
    owner = None
    if want.asked:
        owner = {
            "apiVersion": API_VERSION,
            "kind": SNAPSHOT_KIND,
            "name": want.asked.name,
            "uid": want.asked.uid,
            "controller": True,
        }
    manifest = job(
        view.inputs,
        want.key,
        shard.index,
        want.kind,
        config,
        owner=owner,
        snapshot=want.asked.name if want.asked else "",
        stores=(store,),
    )
    return Make(want.key, manifest, f"shard {shard.index}: {want.why}", create=True)


def _unwanted(view: View, shard: int) -> dict[str, str]:
    """Return the places of what is to go with MemorySnapshots that are being deleted, with the name of each.

    What is of shards that there are no more, any Job can delete. First comes what no Job has tried to
    delete, or not for the longest time: those that can't be deleted are not in the way of others.
    """
    last = len(view.shards) - 1
    tried: dict[str, datetime] = {}
    for each in view.snapshot.makings:
        if each.kind == FORGET and each.finished:
            tried |= {place: max(each.finished, tried.get(place, _NEVER)) for place in each.unwanted}
    found = {
        part.place: asked.name
        for asked in view.snapshot.asked
        if asked.forgetting and asked.deletes_data and asked.name not in view.snapshot.restored_from
        for part in told_of(asked).shards
        if part.place and part.phase is SnapshotPhase.COMPLETED and min(part.index, last) == shard
    }
    due = [each for each in found if view.snapshot.now >= tried.get(each, _NEVER) + AGAIN_AFTER]
    due.sort(key=lambda each: tried.get(each, _NEVER))
    return {each: found[each] for each in due[:TOLD_AT_MOST]}


def _listed(view: View, identity: Identity, shard: int) -> dict[str, str]:
    """Return the places of the schedule's oldest snapshots in this log, with the name of each.

    Of those that have expired nobody may have heard: a Job's answer can be lost.
    """
    return dict(
        islice(
            (
                (part.place, asked.name)
                for asked in view.snapshot.asked
                if asked.moment and not asked.deleting
                for part in told_of(asked).shards
                if part.index == shard and f"/{identity.generations[shard]}/" in part.place
            ),
            LISTED_AT_MOST,
        )
    )


def _held(view: View, shard: Shard) -> bool:
    """Whether the log of a shard is not to be trimmed, and no snapshot deleted.

    A new cluster is being restored from it, or a pod is of a template that may know no store, or another one:
    its engine could not start anew. Neither holds it for ever: a restore may come to no end, and a rollout
    get stuck.
    """
    return _has_room(view, shard) and (bool(view.inputs.readers) or not _of_the_template(view, shard))


def _of_the_template(view: View, shard: Shard) -> bool:
    """Whether all pods of a shard are of the newest template, and so will be those that are made now."""
    templates = [node.pod.template for node in shard.nodes if node.pod is not None]
    if shard.stateful_set is None or template_of(shard.stateful_set) != view.engine_template:
        return False
    return all(template == view.engine_template for template in templates)


def _has_room(view: View, shard: Shard) -> bool:
    """Whether the log of a shard is less than half full: past that, writes would be refused before long."""
    seen = [int(node.report.log.get("bytes") or 0) for node in shard.nodes if node.report and node.report.log]
    return 2 * max(shard.log.bytes, *seen, 0) < view.inputs.spec.log.max_bytes
