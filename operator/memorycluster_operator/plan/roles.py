"""Labels of the engine pods: the role, by which Services find them, and the zone, where Kubernetes sets none.

Routing only: who leads is decided in the log, and a label that is late costs a client one redirection.
"""

from __future__ import annotations

from memorycluster_operator.actions import LabelPod
from memorycluster_operator.objects.names import ROLE_LABEL, ZONE_LABEL
from memorycluster_operator.plan.step import NOTHING, Step, do
from memorycluster_operator.plan.view import Node, Shard, View

PRIMARY, REPLICA = "primary", "replica"


def label_pods(view: View) -> Step:
    """Return the labels to change."""
    step = NOTHING
    for shard in view.shards:
        for node in shard.nodes:
            pod = node.pod
            if pod is None or pod.terminating:
                continue
            labels: dict[str, str | None] = {}
            if (role := _role(shard, node)) != pod.role:
                labels[ROLE_LABEL] = role or None
            if pod.zone and not pod.zone_labelled:
                labels[ZONE_LABEL] = pod.zone
            if labels:
                what = ", ".join(f"{name} {value or 'none'}" for name, value in labels.items())
                step += do(LabelPod(pod.name, pod.uid, labels, f"its agent and its Node say: {what}"))
    return step


def _role(shard: Shard, node: Node) -> str:
    """Return the label that the node's pod should have."""
    assert node.pod is not None
    if node is shard.primary:
        return PRIMARY
    if node.report is None:
        # Unknown is not demoted, unless another one serves.
        return "" if node.pod.role == PRIMARY and shard.primary is not None else node.pod.role
    if node.report.role == "follower":
        return REPLICA
    if node.leads and shard.primary is None:
        return node.pod.role
    return ""
