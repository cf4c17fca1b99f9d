"""What keeps a cluster from being whole although the operator has nothing to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from memorycluster_operator.plan import calm
from memorycluster_operator.plan.step import Step, wait
from memorycluster_operator.plan.view import View
from memorycluster_operator.snapshot import Pod

START = timedelta(minutes=5)
"""For how long a pod may take to become ready."""

NEXT = {
    "PodFailing": "; why: kubectl describe pod, kubectl logs --all-containers. What is mended in the spec "
    "replaces such a pod at once",
    "PodUnschedulable": "; it needs a Node with room, in its zone (spec.zones), that spec.scheduling allows",
}
"""What a user does about it, where the message does not say."""


def wait_for_pods(view: View) -> Step:
    """Return one wait for all that is missing, named for the worst of it."""
    found = sorted(_missing(view))
    if not found:
        return Step()
    worst = found[0][1]
    message = "; ".join(message for _, reason, message in found if reason == worst)
    return wait(view.snapshot, worst, message + NEXT.get(worst, ""), START)


def _missing(view: View) -> Iterator[tuple[int, str, str]]:
    """Yield severity (0: worst), reason and message of all that is not as it should be."""
    if view.log_set is not None:
        for member in view.missing_members:
            yield *_reason(member.pod), calm.describe_member(member)
    for shard in view.shards:
        if shard.stateful_set is None:
            continue
        if shard.primary is None:
            yield (
                4,
                "ShardNotServed",
                f"shard {shard.index} has no primary yet: its agents claim by themselves",
            )
        for node in shard.nodes:
            if node.frozen:
                continue  # said already
            if not node.ready:
                yield *_reason(node.pod), calm.describe_node(node)


def _reason(pod: Pod | None) -> tuple[int, str]:
    if pod is None:
        return 3, "PodsStarting"
    if calm.lost(pod):
        return 0, "NodeLost"
    if pod.terminating:
        return 2, "PodTerminating"
    if pod.waiting in ("Unschedulable", "SchedulingGated"):
        return 1, "PodUnschedulable"
    if pod.waiting not in ("", "ContainerCreating", "PodInitializing"):
        return 1, "PodFailing"
    return 3, "PodsStarting"
