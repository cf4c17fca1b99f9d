"""How many pods each shard's StatefulSet is to have now.

More at once. Fewer one at a time, from the end, and only while what stays is enough: the primary, and another
node that is ready. A primary at the end gives leadership to a node that stays, first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memorycluster_operator.actions import FailOver
from memorycluster_operator.plan import calm
from memorycluster_operator.plan.step import NOTHING, Step, do, wait
from memorycluster_operator.plan.view import Node, Shard, View, observed


@dataclass(frozen=True, slots=True)
class Scale:
    """A shard's size for now."""

    replicas: int
    step: Step = NOTHING
    shrinking: bool = False
    """The shard has, or gets, fewer pods than it had, or should: nothing else may be taken from it."""


def scale_shard(view: View, shard: Shard) -> Scale:
    """Return how many pods the shard is to have now."""
    wanted, now = view.inputs.spec.nodes_per_shard, shard.replicas
    if shard.stateful_set is None:
        # It was there, perhaps: its pods are adopted by the new one, and none may go for that.
        return Scale(max(wanted, _known(view, shard)))
    if now <= wanted:
        leaving = [node for node in shard.nodes if node.index >= wanted and node.pod]
        if not leaving:
            return Scale(wanted)
        names = ", ".join(node.name for node in leaving)
        going = wait(view.snapshot, "ScalingDown", f"{names}: no longer wanted, and about to go")
        return Scale(wanted, going, shrinking=not all(calm.lost(node.pod) for node in leaving if node.pod))
    step = _held_back(view, shard, now) or _move_primary(view, shard, wanted, now)
    if step is not None:
        return Scale(now, step, shrinking=True)
    return Scale(now - 1, shrinking=True)


def _known(view: View, shard: Shard) -> int:
    """Return how many nodes the shard has: by its pods, and by the status (pods without an owner are not
    seen)."""
    shards = view.snapshot.cluster.status.get("shards") or []
    told = next((len(each.get("nodes") or []) for each in shards if each["index"] == shard.index), 0)
    return max(told, *(node.index + 1 for node in shard.nodes if node.pod), 0)


def _held_back(view: View, shard: Shard, now: int) -> Step | None:
    """Return why no pod may go now; None: the last one may, as far as the others are concerned."""
    if held := calm.frozen(view, shard.frozen):
        return held
    assert shard.stateful_set is not None
    leaving = [node for node in shard.nodes if node.index >= now and node.pod and not calm.lost(node.pod)]
    if leaving or not observed(shard.stateful_set):
        return wait(view.snapshot, "ScalingDown", f"shard {shard.index}: one replica is removed at a time")
    last = next(node for node in shard.nodes if node.index == now - 1)
    if last.pod is None or last.never_started:
        return None
    staying = [node for node in shard.nodes if node.index < view.inputs.spec.nodes_per_shard]
    enough = min(2, len(staying))
    ready = sum(node.ready for node in staying)
    if ready < enough:
        missing = "; ".join(calm.describe_node(node) for node in staying if not node.ready)
        return wait(
            view.snapshot,
            "ScaleDownUnsafe",
            f"shard {shard.index}: {last.name} stays until enough of the others are ready: {missing}",
        )
    if any(node.pod is None or node.pod.terminating for node in staying):
        return wait(view.snapshot, "ScalingDown", f"shard {shard.index}: a pod that stays is being replaced")
    return calm.shard_served(view, shard)


def _move_primary(view: View, shard: Shard, wanted: int, now: int) -> Step | None:
    """Return how leadership comes to a node that stays; None: it is there, or is none of the last node's."""
    last = next(node for node in shard.nodes if node.index == now - 1)
    if last.pod is None or last.never_started:
        return None
    primary = shard.primary
    if primary is not None and primary.index >= wanted:
        staying = [node for node in shard.nodes if node.index < wanted]
        return hand_over(view, shard, primary, staying, f"{primary.name} is to be removed")
    if last.report is None and not calm.lost(last.pod):
        return wait(
            view.snapshot,
            "AgentUnreachable",
            f"the agent of {last.name} does not answer, so nobody knows what it holds; it is not removed "
            f"(see kubectl logs {last.name} -c agent)",
        )
    if last.leads:
        return wait(view.snapshot, "ScalingDown", f"{last.name} leads, without serving; it is not removed")
    if last.report and not (last.ready or last.broken or last.pod.terminating or calm.lost(last.pod)):
        # As in a rollout: an agent that found an engine that had led knows less than that engine may hold.
        message = f"{last.name} is {last.report.phase}, so nobody knows yet what it holds; it is not removed"
        return wait(view.snapshot, "ScalingDown", message)
    return None


def hand_over(view: View, shard: Shard, primary: Node, candidates: Sequence[Node], why: str) -> Step:
    """Return the planned failover to the best of ``candidates``, or why it must wait."""
    if held := calm.log_whole(view):
        return held
    able = [node for node in candidates if node is not primary and may_succeed(node)]
    if not able:
        return wait(
            view.snapshot,
            "NoSuccessor",
            f"{why}, and no replica of shard {shard.index} that may take over has caught up yet",
        )
    current = [node for node in able if node.pod and node.pod.template == view.engine_template] or able
    loads = primaries_by_zone(view)
    best = min(current, key=lambda node: (loads.get(node.pod.zone if node.pod else "", 0), node.index))
    assert primary.pod is not None
    assert primary.report is not None
    reason = f"{why}; {best.name} has caught up"
    return do(FailOver(shard.index, primary.name, primary.pod.uid, primary.report.epoch, best.name, reason))


def may_succeed(node: Node) -> bool:
    """Whether leadership may be handed to this node: it is ready, and has almost nothing left to apply."""
    report = node.report
    return node.ready and report is not None and report.lag is not None and report.lag <= calm.MAX_LAG


def primaries_by_zone(view: View) -> dict[str, int]:
    """Return how many primaries each zone of the cluster has."""
    counts = dict.fromkeys(view.inputs.spec.zones, 0)
    for shard in view.shards:
        if shard.primary and shard.primary.pod and shard.primary.pod.zone in counts:
            counts[shard.primary.pod.zone] += 1
    return counts
