"""A new cluster that begins with a snapshot, or with another one's log up to a moment.

A Job for each shard makes what becomes the first snapshot of its log, of as many former shards as have keys
for it. The logs are made once all of them are there, and the engines start once all logs are: so the cluster
is served whole, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from memorycluster.api.snapshots import RestoreFrom, SnapshotStore
from memorycluster.api.topology import shard_slots
from memorycluster_operator.actions import Discard, Make
from memorycluster_operator.identity import Identity
from memorycluster_operator.makings import RESTORE, Making
from memorycluster_operator.objects import names
from memorycluster_operator.objects.log import LOG_USER
from memorycluster_operator.objects.log import PORTS as LOG_PORTS
from memorycluster_operator.objects.making import SOURCE_SECRETS, job, job_config, job_key
from memorycluster_operator.objects.store import store_of
from memorycluster_operator.objects.template import digest
from memorycluster_operator.plan.jobs import AGAIN_AFTER, AT_ONCE
from memorycluster_operator.plan.known import failure, lost
from memorycluster_operator.plan.step import NOTHING, Step, do, wait
from memorycluster_operator.plan.view import View
from memorycluster_operator.snapshot import Key

PATIENCE = timedelta(hours=1)
"""For how long a restore may take before somebody should look."""

TAKEN_WITHIN = timedelta(minutes=5)
"""From the creation of a cluster until it is restored, whatever Jobs of another one may still take from it:
that ends those at once, unless it is paused, or its log has no room to wait."""


def restore_shard(view: View, identity: Identity, shard: int) -> Step | bytes:
    """Return what the log of a shard is to begin with, or what there is to do before that is known."""
    snapshot = view.snapshot
    jobs = {
        each.index: _job_of(view, identity, each.index)
        for each in view.shards
        if each.index not in identity.created
    }
    said = {
        index: (job.result or {}).get("restored") for index, job in jobs.items() if job and not job.failed
    }
    if all(said.get(index) for index in jobs):
        return _of_one_piece(view, jobs) or str(said[shard]).encode()
    mine = jobs[shard]
    if said.get(shard):
        return NOTHING  # the other shards say what is waited for
    if mine is None:
        return _make(view, identity, shard, jobs)
    if mine.finished is None or not (mine.failed or lost(view, mine)):
        now = mine.progress or mine.message
        more = f": {now}" if now else ""
        return wait(snapshot, "Restoring", f"shard {shard} is being restored{more}", PATIENCE)
    step = wait(snapshot, "RestoreFailed", f"shard {shard} can't be restored: {failure(mine)}")
    if snapshot.now >= mine.finished + AGAIN_AFTER and not mine.deleting:
        why = "it failed, and is tried again"
        step += do(Discard(Key("Job", mine.name), mine.uid, mine.resource_version, why))
    return step


def _of_one_piece(view: View, jobs: Mapping[int, Making | None]) -> Step | None:
    """Return the wait for somebody, if shards were restored from different states; None: they were not."""
    origins: dict[str, list[str]] = {}
    for index, making in jobs.items():
        if making and (origin := (making.result or {}).get("origin")):
            origins.setdefault(str(origin), []).append(f"shard {index}")
    if len(origins) < 2:
        return None
    parts = "; ".join(", ".join(shards) for shards in origins.values())
    message = (
        f"the shards were not restored from the same ({parts}): what spec.restoreFrom names has changed "
        "meanwhile. Delete this MemoryCluster, and create it again"
    )
    return wait(view.snapshot, "RestoreFailed", message)


def _key(view: View, identity: Identity, shard: int) -> Key:
    # What is in one store is in no other one: named anew, it is to be restored anew.
    store = view.inputs.spec.snapshots.store.model_copy(update={"credentials": None})
    token = digest(f"restore {identity.generations[shard]} {store.as_written()}")[:8]
    return job_key(view.inputs.name, shard, token)


def _job_of(view: View, identity: Identity, shard: int) -> Making | None:
    name = _key(view, identity, shard).name
    return next((each for each in view.snapshot.makings if each.name == name), None)


def _make(view: View, identity: Identity, shard: int, jobs: dict[int, Making | None]) -> Step:
    snapshot, wanted = view.snapshot, view.inputs.spec.restore_from
    assert wanted is not None
    own = store_of(view.inputs.spec)
    if own is None:
        message = "a restored cluster needs a store of its own: name one in spec.snapshots.store"
        return wait(snapshot, "RestoreFailed", message)
    store = _store(view, wanted, own)
    if (wanted.time or store.log) and snapshot.source is None:
        message = "restoreFrom.cluster: name the cluster in whose log service the snapshot is"
        if wanted.cluster is not None:
            message = f"MemoryCluster {wanted.cluster} is not there, or its logs are not, which are needed"
        return wait(snapshot, "RestoreFailed", message)
    running = sum(job is not None and job.finished is None for job in jobs.values())
    waiting = sorted(index for index, job in jobs.items() if job is None)
    if shard not in waiting[: max(AT_ONCE - running, 0)]:
        return wait(snapshot, "Restoring", f"shard {shard} is restored once others are", PATIENCE)
    if awaited := takers_awaited(view):
        message = f"shard {shard} is restored once what may delete it meanwhile is gone: {', '.join(awaited)}"
        return wait(snapshot, "Restoring", message, PATIENCE)
    key = _key(view, identity, shard)
    config = job_config(
        view.inputs, identity, shard, make=False, restore=_restore(view, identity, wanted, store)
    )
    source = snapshot.source if wanted.time or store.log else None
    manifest = job(view.inputs, key, shard, RESTORE, config, stores=(own, store), source=source)
    return do(Make(key, manifest, f"shard {shard}: its log is to begin with what is restored", create=True))


def takers_awaited(view: View) -> tuple[str, ...]:
    """Return the Jobs and pods of other clusters that are to be gone before anything is restored."""
    created = view.snapshot.cluster.created
    late = created is None or view.snapshot.now >= created + TAKEN_WITHIN
    return () if late else view.snapshot.takers


def _store(view: View, wanted: RestoreFrom, own: SnapshotStore) -> SnapshotStore:
    """Return where the source's snapshots are."""
    if wanted.store.chosen or wanted.store.log:
        return wanted.store
    source = view.snapshot.source
    if source is None or not (wanted.time or own.log):
        return own
    return store_of(source.spec) or own


def _restore(view: View, identity: Identity, wanted: RestoreFrom, store: SnapshotStore) -> dict[str, Any]:
    """Return what to restore: ``memorycluster.snapshot.restore.RestoreConfig``."""
    config: dict[str, Any] = {
        "snapshot": wanted.snapshot,
        "cluster": wanted.cluster,
        "store": store.as_written(),
        "ours": [str(each) for each in identity.generations],
    }
    source = view.snapshot.source
    if source is None:
        return config
    host = names.host(view.snapshot.cluster, f"{source.name}-log", view.snapshot.settings.cluster_domain)
    members = [names.member_name(source.name, each) for each in range(len(source.spec.zones))]
    service = {
        "servers": [f"nats://{each}.{host}:{LOG_PORTS['clients']}" for each in members],
        "user": LOG_USER,
        "password_file": f"{SOURCE_SECRETS}/log-password",
    }
    if store.log:
        config["service"] = service
    if wanted.time is None:
        return config
    # One that lies ahead means all that there was, and must mean the same to all shards.
    moment = min(wanted.time, view.snapshot.cluster.created or wanted.time)
    return config | {
        "time": moment.isoformat(),
        "logs": [
            {
                **service,
                "stream": f"{source.name}-{shard}",
                "generation": str(generation),
                "slots": [shard_slots(shard, len(source.generations))],
            }
            for shard, generation in enumerate(source.generations)
        ],
    }
