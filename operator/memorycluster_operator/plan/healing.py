"""A rotten copy of the log: given up by its member, and copied anew from the others.

The order is written into the template of the log's pods, then the member's pod is evicted. Its successor
gives the copy up before its server starts, if the others have everything by then (``pod.heal``), and once
only. The order stays until that pod has everything, so that nobody forgets it halfway; but it has an end,
should nobody be there to take it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from memorycluster_operator.actions import EvictPod, StepDown
from memorycluster_operator.objects import names
from memorycluster_operator.objects.inputs import Heal
from memorycluster_operator.objects.log import ordered
from memorycluster_operator.plan import calm
from memorycluster_operator.plan.step import NOTHING, Step, do, wait
from memorycluster_operator.plan.view import Member, View, observed
from memorycluster_operator.snapshot import Snapshot

VALID_FOR = timedelta(minutes=30)
RENEW_BEFORE = timedelta(minutes=10)
"""How long an order is valid, and how long before its end it is renewed if it is still wanted."""


def choose_heal(snapshot: Snapshot, members: Sequence[Member], *, frozen: bool) -> Heal | None:
    """Return whose copy is to be made anew: what was ordered until it is done, else who is to be healed now.

    :param frozen: a node holds what the log lacks: no copy is given up, whatever is wrong with it.
    """
    if frozen:
        return None
    order = ordered(snapshot.objects.get(names.log_set(snapshot.cluster.name)), snapshot.now)
    if order is not None:
        member = next((each for each in members if each.name == order.member), None)
        if member is None:
            return None
        if member.pod is None or member.pod.terminating:
            return order
        if member.pod.uid != order.pod_uid:
            return None if member.whole else order
        return _renewed(order, snapshot.now) if snapshot.log.rotten == order.member else None
    if not snapshot.log.rotten:
        return None
    member = next((each for each in members if each.name == snapshot.log.rotten), None)
    if member is None or member.pod is None or member.pod.terminating:
        return None
    if not all(other.whole for other in members if other is not member):
        return None
    last = {log.shard: log.last_sequence for log in snapshot.log.shards}
    ends = tuple(last.get(shard, 0) for shard in range(snapshot.cluster.spec.shards))
    return Heal(member.name, member.pod.uid, _end(snapshot.now), ends)


def _renewed(order: Heal, now: datetime) -> Heal:
    return replace(order, until=_end(now)) if order.until - now < RENEW_BEFORE else order


def _end(now: datetime) -> datetime:
    return now.replace(microsecond=0) + VALID_FOR


def heal_log(view: View) -> Step:
    """Return the next step of healing."""
    heal, log = view.inputs.heal, view.snapshot.log
    if log.led_by_rotten:
        reason = f"{log.trouble}: a member with a rotten copy must not lead"
        return do(*(StepDown(shard, reason) for shard in log.led_by_rotten))
    if heal is None:
        return calm.rotten(view) or NOTHING
    member = next(each for each in view.members if each.name == heal.member)
    pod = member.pod
    if pod is None or pod.terminating or pod.uid != heal.pod_uid:
        message = f"{member.name}: its rotten copy of the log is made anew from the others: "
        return wait(view.snapshot, "LogHealing", message + calm.describe_member(member))
    if view.log_set is None or not observed(view.log_set) or ordered(view.log_set, view.snapshot.now) != heal:
        return wait(
            view.snapshot, "LogHealing", f"{member.name} is told to give up its rotten copy of the log"
        )
    if lacking := calm.others_lacking(view, member):
        message = f"{log.trouble}; it is healed once the others have everything: {lacking}"
        return wait(view.snapshot, "LogRotten", message)
    for shard in view.shards:
        if shard.stateful_set and (held := calm.shard_served(view, shard)):
            return held
    if member.claim is not None and member.claim.terminating:
        return wait(
            view.snapshot,
            "ClaimTerminating",
            f"{log.trouble}; its volume claim is being deleted: delete the pod {member.name} too, and it "
            "gets a new volume",
        )
    reason = f"{log.trouble}; the others hold everything, and were read through: it is copied anew from them"
    return do(EvictPod(member.name, pod.uid, reason))
