"""A MemoryCluster that is being deleted, and whose last snapshot is taken first (``snapshots.beforeDelete``).

Its finalizer is there only while the spec asks for that. Engines are stopped first: then no write is
acknowledged any more, and where the logs end is final. Then a MemorySnapshot is made that says where that is.
When it is complete, and the logs still end there, the MemoryCluster is let go, and the log's volumes go along
if they are to. Whatever else ends the wait, the volumes stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from memorycluster.api.manifest import API_VERSION, KIND
from memorycluster.api.memorysnapshot import SNAPSHOT_KIND, SnapshotPhase
from memorycluster.api.snapshots import SnapshotStore
from memorycluster.api.spec import Spec
from memorycluster.api.status import DeletionStatus
from memorycluster_operator.actions import LetGo, MakeLast, SetFinalizers, Wait
from memorycluster_operator.makings import LAST_ANNOTATION, Asked, Last
from memorycluster_operator.objects import names
from memorycluster_operator.plan import calm
from memorycluster_operator.plan.asked import give_up, tell_snapshots
from memorycluster_operator.plan.jobs import plan_jobs
from memorycluster_operator.plan.known import found_of, told_of
from memorycluster_operator.plan.makings import LOOK_EVERY, Makings, own_makings
from memorycluster_operator.plan.scale import scale_shard
from memorycluster_operator.plan.step import NOTHING, Step, do
from memorycluster_operator.plan.upkeep import guard_frozen, keep_objects
from memorycluster_operator.plan.view import Node, Shard, View, observed
from memorycluster_operator.plan.volumes import any_owned, own_claims, release_claims
from memorycluster_operator.snapshot import LAST_SNAPSHOT_FINALIZER, Key, LogState, Manifest

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
"""Kubernetes' own finalizers, of kubectl delete --cascade."""

TAKEN = "SnapshotTaken"
LATE, VOLUMES_GONE = "NoLastSnapshot", "VolumesGone"
"""Ends that a frozen node does not let come: what it holds is nowhere else, so a human decides."""

LET_GO_WITHIN = timedelta(minutes=1)
"""From the end of the wait until it is over, whatever of what comes before has failed."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What there is to do for a MemoryCluster that is being deleted, and what to say of it."""

    step: Step
    status: DeletionStatus
    makings: Makings


@dataclass(frozen=True, slots=True)
class _End:
    """Why there is nothing to wait for any more."""

    reason: str
    message: str
    superfluous: bool = False
    """Nothing is lost with the volumes."""


def hold_cluster(view: View) -> Step:
    """Return whether a deletion of the MemoryCluster is to be held: this is settled whatever else is not."""
    cluster, spec = view.snapshot.cluster, view.snapshot.cluster.spec
    wanted = spec.snapshots.before_delete and _elsewhere(spec) is not None
    if wanted == cluster.held:
        return NOTHING
    finalizers = [each for each in cluster.finalizers if each != LAST_SNAPSHOT_FINALIZER]
    if not wanted:
        return do(_set(view, finalizers, "no last snapshot is wanted, or there is no store for one"))
    if any_owned(view):
        return NOTHING  # Who sees the finalizer may rely on it that the volumes stay.
    reason = "spec.snapshots.beforeDelete is true: a deletion waits for a last snapshot"
    return do(_set(view, [*finalizers, LAST_SNAPSHOT_FINALIZER], reason))


def _elsewhere(spec: Spec) -> SnapshotStore | None:
    """Return the store for a last snapshot: one that does not go with the log's volumes."""
    store = spec.snapshots.store
    return store if store.s3 or store.azure or store.gcs else None


def _set(view: View, finalizers: list[str], reason: str) -> SetFinalizers:
    cluster = view.snapshot.cluster
    key = Key(KIND, cluster.name)
    return SetFinalizers(key, cluster.uid, cluster.resource_version, tuple(finalizers), reason)


def plan_deletion(view: View) -> Deletion:
    """Return what to do for a MemoryCluster that is being deleted, and held."""
    cluster, now = view.snapshot.cluster, view.snapshot.now.replace(microsecond=0)
    stored = cluster.status.get("deletion") or {}
    since = datetime.fromisoformat(stored["since"]) if stored.get("since") else now
    deadline = since + timedelta(seconds=cluster.spec.snapshots.before_delete_timeout)
    view, foreign = own_makings(view, view.settled.identity)
    last = _last(view)
    shards = {shard.index: found_of(view, shard.index) for shard in view.shards}
    status = DeletionStatus(
        since=since, deadline=deadline, snapshot=last.name if last else "", reason="", message=""
    )
    end = _end(view, last) or (_late(deadline, stored) if now >= deadline else None)
    read = bool(end and end.reason == TAKEN and view.inputs.readers and now < deadline)
    if end and not read and not (view.frozen and end.reason in (LATE, VOLUMES_GONE)):
        ended = datetime.fromisoformat(stored["endedAt"]) if stored.get("endedAt") else now
        status = status.model_copy(update={"reason": end.reason, "message": end.message, "ended_at": ended})
        step = _let_go(view, last, end, late=now >= ended + LET_GO_WITHIN)
        return Deletion(step, status, Makings(shards=shards, again=now + LET_GO_WITHIN))
    reason, message, step, times = _go_on(view, last, since, begun=bool(stored))
    if end and read:
        who = ", ".join(view.inputs.readers)
        reason, message = "BeingRestored", f"{end.message}; {who} is being restored from its logs"
    status = status.model_copy(update={"reason": reason, "message": message})
    wait = Step(waits=(Wait("BeforeDelete", f"being deleted: {message}", deadline),))
    makings = Makings(foreign, shards, again=min([*times, deadline, now + LOOK_EVERY]))
    return Deletion(wait + step, status, makings)


def _last(view: View) -> Asked | None:
    """Return the newest last snapshot that there is of this very MemoryCluster."""
    uid = view.snapshot.cluster.uid
    found = [
        each
        for each in view.snapshot.asked
        if each.last is not None and each.last.cluster_uid == uid and not each.deleting
    ]
    return max(found, key=lambda each: (each.created, each.name), default=None)


# ---------------------------------------------------------------------- the end of the wait


def _end(view: View, last: Asked | None) -> _End | None:
    """Return why there is nothing to wait for; None: there is."""
    cluster, identity = view.snapshot.cluster, view.settled.identity
    if not cluster.spec.snapshots.before_delete:
        return _End("NotHeld", "spec.snapshots.beforeDelete is false", superfluous=True)
    if ORPHAN in cluster.finalizers or view.snapshot.foreign.get(names.log_set(cluster.name)) == "":
        return _End("Orphaned", "what the MemoryCluster is made of does not go with it, and runs on")
    if not view.settled.refused and (
        identity is None or not identity.created >= {shard.index for shard in view.shards}
    ):
        return _End("NothingWritten", "its logs were never made, so nothing was written", superfluous=True)
    if not view.snapshot.claims:
        return _End(VOLUMES_GONE, "the log's volume claims are gone, and what was in them")
    if view.settled.refused or not all(map(_final, view.shards)):
        return None
    if last is not None and told_of(last).phase is SnapshotPhase.COMPLETED and _covers(view, last):
        return _End(TAKEN, f"MemorySnapshot {last.name} holds everything", superfluous=True)
    return None


def _late(deadline: datetime, stored: Mapping[str, Any]) -> _End:
    why = stored.get("message") or "nothing was done before"
    if stored.get("reason") == LATE:
        return _End(LATE, why)
    stays = "the log's volumes stay: apply the same manifest again to have back what the logs hold"
    return _End(LATE, f"{stays}. No last snapshot by {deadline:%Y-%m-%dT%H:%MZ}: {why}")


def _let_go(view: View, last: Asked | None, end: _End, *, late: bool) -> Step:
    """Return how the wait is ended: who owns the volumes comes before all that goes with its owner."""
    cluster = view.snapshot.cluster
    kept = release_claims(view, superfluous=end.superfluous)
    if kept.actions:
        return kept  # else they would go
    before = own_claims(view, superfluous=end.superfluous)
    if last is not None:
        before += give_up(view, last, end.message)
    if before.actions and not late:
        return before
    finalizers = tuple(each for each in cluster.finalizers if each != LAST_SNAPSHOT_FINALIZER)
    key = Key(KIND, cluster.name)
    return before + do(LetGo(key, cluster.uid, cluster.resource_version, finalizers, end.message))


def _covers(view: View, last: Asked) -> bool:
    """Whether nothing has come into the logs since ``last`` was asked for."""
    assert last.last is not None
    return last.last.ends == _ends(view)


def _ends(view: View) -> tuple[int, ...]:
    return tuple(shard.log.last_sequence for shard in view.shards)


# ---------------------------------------------------------------------- the way there


def _go_on(
    view: View, last: Asked | None, since: datetime, *, begun: bool
) -> tuple[str, str, Step, list[datetime]]:
    """Return in a word and for people how far it is, what to do, and when time alone changes that.

    :param begun: the status says since when it is held.
    """
    identity, store = view.settled.identity, _elsewhere(view.inputs.spec)
    step = view.settled.step + _not_foreground(view) + release_claims(view)
    if view.settled.refused or identity is None:
        step += guard_frozen(view)
        return "Uncertain", "it is not certain which logs are its own", step, []
    unclear = {shard.index: [node for node in shard.nodes if not _may_stop(node)] for shard in view.shards}
    # Without their log, or with one that may be rotten, a shard's engines may be all there is.
    away = [shard.index for shard in view.shards if shard.log.state is not LogState.INTACT]
    needed = {index for index, nodes in unclear.items() if nodes} | set(away)
    if view.snapshot.log.trouble:
        needed |= set(unclear)
    replicas = {shard.index: _replicas(view, shard, shard.index in needed) for shard in view.shards}
    step += keep_objects(replace(view, inputs=replace(view.inputs, replicas=replicas)))
    if held := calm.frozen(view, view.frozen):
        step += held
    if nodes := [node for shard in view.shards for node in unclear[shard.index]]:
        found = "; ".join(calm.describe_node(node) for node in nodes)
        message = f"no engine is stopped that may hold what the log lacks: {found}"
        return ("Frozen" if view.frozen else "EnginesUnclear"), message, step, []
    if view.snapshot.log.trouble:
        return "LogRotten", f"no engine is stopped: {view.snapshot.log.trouble}", step, []
    if away:
        numbers = ", ".join(map(str, away))
        return "LogUnavailable", f"the log of shard {numbers} does not answer, or is not whole", step, []
    if not all(map(_stopped, view.shards)):
        return "StoppingEngines", "its engines are being stopped, so that nothing is written", step, []
    if store is None:
        return "NoStore", "there is no store for a last snapshot: name one in spec.snapshots.store", step, []
    if last is None or told_of(last).phase is SnapshotPhase.FAILED or not _covers(view, last):
        if last is not None:
            step += give_up(view, last, "more has been written since")
        step += do(_make(view, since)) if begun else NOTHING
        return "TakingSnapshot", "its last snapshot is about to be taken", step, []
    alone = replace(view, snapshot=replace(view.snapshot, asked=(last,)))
    shards = {shard.index: found_of(view, shard.index) for shard in view.shards}
    jobs, made, times = plan_jobs(alone, identity, store, shards)
    step += jobs + tell_snapshots(alone, made, "")
    told = told_of(last)
    message = f"MemorySnapshot {last.name} is {told.phase} {told.progress}: {told.message}".rstrip(": ")
    return "TakingSnapshot", message, step, times


def _not_foreground(view: View) -> Step:
    """Return how what the MemoryCluster is made of is kept, although it is deleted in the foreground.

    Kubernetes would delete all that at once, the log first of all.
    """
    finalizers = view.snapshot.cluster.finalizers
    if FOREGROUND not in finalizers:
        return NOTHING
    reason = "a last snapshot is taken before anything is deleted"
    return do(_set(view, [each for each in finalizers if each != FOREGROUND], reason))


def _may_stop(node: Node) -> bool:
    """Whether a node holds nothing beside what is in its log, or is gone already."""
    if node.pod is None or node.pod.terminating:
        return True
    return not node.frozen and (node.never_started or node.ready or node.broken)


def _replicas(view: View, shard: Shard, needed: bool) -> int:
    """Return how many engines a shard is to have; ``needed``: they may hold what is nowhere else."""
    if shard.stateful_set is None:
        return scale_shard(view, shard).replicas  # its pods are not seen before it is there again
    return shard.replicas if needed or not observed(shard.stateful_set) else 0


def _stopped(shard: Shard) -> bool:
    """Whether no engine of the shard runs, or will."""
    live = shard.stateful_set
    if live is None or shard.replicas or not observed(live):
        return False
    return not (live.get("status") or {}).get("replicas") and not any(node.pod for node in shard.nodes)


def _final(shard: Shard) -> bool:
    """Whether it is known where the shard's log ends, for good."""
    return _stopped(shard) and shard.log.state is LogState.INTACT


def _make(view: View, since: datetime) -> MakeLast:
    """Return what asks for the last snapshot."""
    cluster = view.snapshot.cluster
    name = f"{cluster.name}-last-{since:%Y%m%d-%H%M%S}"
    # Another one only if something has been written after all engines had been stopped.
    before = sum(each.name.startswith(name) for each in view.snapshot.asked)
    name += f"-{before + 1}" if before else ""
    manifest: Manifest = {
        "apiVersion": API_VERSION,
        "kind": SNAPSHOT_KIND,
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": names.labels(cluster.name),
            "annotations": {LAST_ANNOTATION: str(Last(cluster.uid, _ends(view)))},
        },
        "spec": {"cluster": cluster.name},
    }
    reason = "the MemoryCluster is being deleted, and nothing is written any more"
    return MakeLast(Key(SNAPSHOT_KIND, name), manifest, reason, create=True)
