"""Engine pods that are not as they should be: which one is replaced next, if any.

Pods are replaced one at a time in each shard: first what does not work, then replicas from the last to the
first, and the primary once it has handed over to a replica that has been replaced. The next one only when all
others are ready. So an update that can never become ready stops at its first pod; and a spec that is put back
replaces that pod at once.
"""

from __future__ import annotations

from memorycluster_operator.actions import DeletePod, EvictPod
from memorycluster_operator.plan import calm
from memorycluster_operator.plan.scale import Scale, hand_over
from memorycluster_operator.plan.step import NOTHING, Step, do, wait
from memorycluster_operator.plan.view import Node, Shard, View, newest_revision, observed, template_of
from memorycluster_operator.snapshot import LogState


def roll_shard(view: View, shard: Shard, scale: Scale) -> Step:
    """Return the next step of a shard's rollout; ``scale`` has been decided before."""
    stale = [node for node in shard.nodes if why_stale(view, node) and node.index < shard.replicas]
    if not stale or shard.stateful_set is None:
        return NOTHING
    if not observed(shard.stateful_set) or template_of(shard.stateful_set) != view.engine_template:
        return wait(view.snapshot, "Updating", f"shard {shard.index}: the new template is on its way")
    if scale.step.actions or scale.replicas != shard.replicas:
        return NOTHING  # One thing at a time; the next look goes on.
    return (
        _replace_unstarted(view, shard, stale)
        or calm.frozen(view, shard.frozen)
        or _replace_broken(view, shard, stale)
        or _roll(view, shard, scale, stale)
    )


def why_stale(view: View, node: Node) -> str:
    """Return why a node's pod must be replaced; empty: it need not."""
    if node.pod is None or node.pod.terminating:
        return ""
    if node.pod.template != view.engine_template:
        return "it is of an older template"
    if node.report and node.report.parameters_pending and _would_have_newest_parameters(view, node):
        return f"its engine must start anew for {', '.join(node.report.parameters_pending)}"
    return ""


def _would_have_newest_parameters(view: View, node: Node) -> bool:
    """Whether a new start would help: the ConfigMap, which an engine reads then, says what is wanted."""
    told = node.report is not None and node.report.parameters_revision == view.parameters_revision
    return told and view.config_written


def _replace_unstarted(view: View, shard: Shard, stale: list[Node]) -> Step | None:
    """Replace at once what has never run: nothing can be lost by it."""
    assert shard.stateful_set is not None
    newest = newest_revision(shard.stateful_set)
    gone = [
        DeletePod(
            node.pod.name,
            node.pod.uid,
            node.pod.resource_version,
            f"{calm.describe_pod(node.name, node.pod)}; {why_stale(view, node)}",
        )
        for node in stale
        if node.pod and node.never_started and node.pod.revision != newest
    ]
    return do(*gone) if gone else None


def _replace_broken(view: View, shard: Shard, stale: list[Node]) -> Step | None:
    """Replace what does not work, if every other node works or is as stale: never the last hope twice."""
    broken = [node for node in stale if node.broken]
    if not broken or shard.log.state is not LogState.INTACT:
        return None  # Without its log, a shard's engines may be all there is.
    first = max(broken, key=lambda node: node.index)
    others = [node for node in shard.nodes if node is not first and not node.ready]
    if any(node not in stale for node in others):
        return None
    assert first.pod is not None
    reason = f"{calm.describe_node(first)}; {why_stale(view, first)}"
    return do(DeletePod(first.name, first.pod.uid, first.pod.resource_version, reason))


def _roll(view: View, shard: Shard, scale: Scale, stale: list[Node]) -> Step:
    """Replace what works, in order."""
    if scale.shrinking:
        return wait(view.snapshot, "ScalingDown", f"shard {shard.index} is rolled once it has shrunk")
    if unready := [node for node in shard.nodes if not node.ready]:
        missing = "; ".join(map(calm.describe_node, unready))
        return wait(
            view.snapshot,
            "PodNotReady",
            f"shard {shard.index} is rolled one pod at a time, and waits: {missing}",
        )
    if held := calm.shard_served(view, shard) or calm.log_whole(view):
        return held
    primary = shard.primary
    assert primary is not None
    replicas = [node for node in stale if node is not primary]
    if replicas:
        return _evict(view, max(replicas, key=lambda node: node.index))
    if len(shard.nodes) > 1:
        fresh = [node for node in shard.nodes if not why_stale(view, node)]
        return hand_over(view, shard, primary, fresh, f"{primary.name} is next: {why_stale(view, primary)}")
    return _evict(view, primary, "; it is alone, so its shard is not served until it is back")


def _evict(view: View, node: Node, more: str = "") -> Step:
    assert node.pod is not None
    return do(EvictPod(node.name, node.pod.uid, why_stale(view, node) + more))
