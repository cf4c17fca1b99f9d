"""The plan: from all facts about a cluster to what is to be done now, and why. Pure.

The rules are in docs/operator.md. Each part decides on the snapshot alone, and no action relies on another
one of the same plan: any of them may fail, be left out, or be done twice.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from memorycluster_operator.actions import Plan, Wait
from memorycluster_operator.objects.credentials import find_credentials
from memorycluster_operator.objects.images import choose_images
from memorycluster_operator.objects.inputs import Inputs
from memorycluster_operator.objects.store import store_of
from memorycluster_operator.plan import calm
from memorycluster_operator.plan.changes import differs, transitions
from memorycluster_operator.plan.deletion import hold_cluster, plan_deletion
from memorycluster_operator.plan.forgetting import hold_snapshots
from memorycluster_operator.plan.healing import RENEW_BEFORE, choose_heal, heal_log
from memorycluster_operator.plan.identity import known_identity, settle_identity
from memorycluster_operator.plan.log import plan_log, roll_log
from memorycluster_operator.plan.makings import Makings, plan_makings
from memorycluster_operator.plan.parameters import set_parameters
from memorycluster_operator.plan.placement import CALM, spread_primaries, uneven, well_since
from memorycluster_operator.plan.roles import label_pods
from memorycluster_operator.plan.rollout import roll_shard
from memorycluster_operator.plan.scale import scale_shard
from memorycluster_operator.plan.space import full_logs
from memorycluster_operator.plan.status import build_status
from memorycluster_operator.plan.step import LOOK_AGAIN, NOTHING, WITHOUT_NEWS, Step, wait
from memorycluster_operator.plan.upkeep import guard_frozen, keep_objects
from memorycluster_operator.plan.view import View, view_members, view_shards
from memorycluster_operator.plan.volumes import deletion_policy, own_claims, release_claims, told
from memorycluster_operator.plan.waiting import wait_for_pods
from memorycluster_operator.snapshot import Snapshot

__all__ = ["differs", "known_identity", "make_plan"]

SOON = timedelta(seconds=1)
"""When to go on with what relies on a status that has just been written."""


def make_plan(snapshot: Snapshot) -> Plan:
    """Return what to do about a cluster now."""
    if snapshot.cluster.going:
        # What is there goes by itself, through its owner; whatever was made now might stay.
        return Plan(status={key: each for key, each in snapshot.cluster.status.items() if key != "identity"})
    view, deletion = view_all(snapshot), None
    finalizers = hold_snapshots(snapshot)
    if snapshot.cluster.deleting:
        deletion = plan_deletion(view)
        makings = deletion.makings
        step = finalizers + deletion.step + makings.step + label_pods(view)
    else:
        finalizers += hold_cluster(view)
        makings = plan_makings(view)
        step = finalizers + _plan(view) + makings.step + full_logs(view)
    if snapshot.cluster.spec.paused and not snapshot.cluster.deleting:
        paused = wait(snapshot, "Paused", "spec.paused is true: nothing is changed until it is false")
        kept = label_pods(view) + guard_frozen(view) + release_claims(view) + finalizers
        step = kept + (paused if step.actions or step.waits else NOTHING) + Step(waits=step.waits)
    for failure in snapshot.failures:
        step += wait(snapshot, "ActionFailed", failure)
    step = replace(step, waits=tuple(dict.fromkeys(step.waits)))
    status = build_status(view, step, makings, deletion)
    return Plan(
        actions=step.actions,
        waits=step.waits,
        status=status,
        events=(*transitions(snapshot.cluster.status, status), *makings.events),
        again=_again(view, step.waits, makings),
    )


def view_all(snapshot: Snapshot) -> View:
    """Return the facts, sorted, with what the cluster's objects are made of now."""
    cluster = snapshot.cluster
    settled = settle_identity(snapshot)
    shards = view_shards(snapshot)
    frozen = frozenset(shard.index for shard in shards if shard.frozen)
    made = settled.identity.created if settled.identity else frozenset()
    members = view_members(snapshot, made)
    inputs = Inputs(
        cluster=cluster,
        settings=snapshot.settings,
        identity=settled.identity if settled.stored and not settled.refused else None,
        credentials=find_credentials(snapshot),
        images=choose_images(cluster.name, cluster.spec, snapshot.settings, snapshot.objects),
        frozen=frozen,
        heal=choose_heal(snapshot, members, frozen=bool(frozen)),
        # Who is still there, or about to be, must be known to all others.
        nodes_per_shard=max(
            cluster.spec.nodes_per_shard,
            *(shard.replicas for shard in shards),
            *(node.index + 1 for shard in shards for node in shard.nodes if node.pod is not None),
        ),
        readers=snapshot.readers,
        source_store=store_of(snapshot.source.spec) if snapshot.source else None,
        live=snapshot.objects,
    )
    return View(snapshot, settled, inputs, shards, members)


def _plan(view: View) -> Step:
    if view.settled.refused:  # Whose data these are is not certain: hands off.
        alarm = calm.frozen(view, view.frozen) or NOTHING
        kept = label_pods(view) + guard_frozen(view) + release_claims(view)
        return view.settled.step + alarm + kept + wait_for_pods(view)
    scales = [scale_shard(view, shard) for shard in view.shards]
    replicas = {shard.index: scale.replicas for shard, scale in zip(view.shards, scales, strict=True)}
    view = replace(view, inputs=replace(view.inputs, replicas=replicas))
    step = view.settled.step + keep_objects(view) + plan_log(view)
    step += own_claims(view) + release_claims(view)
    step += set_parameters(view) + label_pods(view)
    log = heal_log(view)
    if not log.actions:
        log += roll_log(view)
    step += log
    for shard, scale in zip(view.shards, scales, strict=True):
        engines = scale.step + roll_shard(view, shard, scale)
        if log.disrupts and engines.disrupts:
            engines = wait(view.snapshot, "LogUpdating", "engines are replaced once the log is whole again")
        step += engines
    if held := calm.frozen(view, view.frozen):
        step += held
    step += wait_for_pods(view)
    if not step.actions and not step.waits:
        step += spread_primaries(view)
    return step


def _again(view: View, waits: tuple[Wait, ...], makings: Makings) -> datetime | None:
    """Return when time alone changes something: a deadline passes, or primaries may be spread."""
    now = view.snapshot.now
    times = [each.until for each in waits]
    times += [now + LOOK_AGAIN for each in waits if each.reason in WITHOUT_NEWS]
    if heal := view.inputs.heal:
        times += [heal.until - RENEW_BEFORE, heal.until]
    if makings.again:
        times.append(makings.again)
    if deletion_policy(view) == "Delete" and not told(view):
        times.append(now + SOON)  # the volumes are owned once the status says so
    if (since := well_since(view)) and uneven(view):
        times.append(since + CALM)
    return min((time for time in times if time > now), default=None)
