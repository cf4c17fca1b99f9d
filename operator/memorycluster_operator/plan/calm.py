"""Whether this is a time to take something away that works."""

from __future__ import annotations

from memorycluster_operator.plan.step import Step, wait
from memorycluster_operator.plan.view import Member, Node, Shard, View
from memorycluster_operator.snapshot import LogState, Pod

MAX_LAG = 1 << 20
"""Bytes that a successor may still have to apply when leadership is to go to it."""


def frozen(view: View, nodes: tuple[Node, ...]) -> Step | None:
    """Return the wait for frozen nodes; None: there is none."""
    if not nodes:
        return None
    names = ", ".join(node.name for node in nodes)
    shard = next(each.index for each in view.shards if nodes[0] in each.nodes)
    cluster = view.snapshot.cluster
    return wait(
        view.snapshot,
        "Frozen",
        f"{names}: holds acknowledged writes that the log lacks; its pod must not be deleted, restarted or "
        f"moved. What can be put back says `memorycluster recover {shard} --cluster {cluster.name} -n "
        f"{cluster.namespace}`. If it refuses, bring the log's volumes back if they were replaced; only then "
        "delete the pod, giving up what it alone holds",
    )


def log_whole(view: View) -> Step | None:
    """Return what the log waits for; None: all of its members have everything."""
    if broken := [s.index for s in view.shards if s.log.state in (LogState.MISSING, LogState.UNFIT)]:
        return wait(
            view.snapshot, "LogNotIntact", f"the log of shard {', '.join(map(str, broken))} is not intact"
        )
    if held := rotten(view):
        return held
    if view.missing_members:
        lacking = "; ".join(describe_member(member) for member in view.missing_members)
        return wait(view.snapshot, "LogMemberNotCurrent", f"the log is not whole: {lacking}")
    return None


def rotten(view: View) -> Step | None:
    """Return the wait for copies of the log that are damaged; None: none is known.

    They look current and healthy. Who is fed from one, or who takes the place of a sound one, may lack
    records.
    """
    if not view.snapshot.log.trouble:
        return None
    message = f"nothing is replaced until the log is healed: {view.snapshot.log.trouble}"
    return wait(view.snapshot, "LogRotten", message)


def shard_served(view: View, shard: Shard) -> Step | None:
    """Return the wait for a primary; None: there is one."""
    if shard.primary is not None:
        return None
    return wait(view.snapshot, "ShardNotServed", f"shard {shard.index} has no primary that serves")


def describe_member(member: Member) -> str:
    """Return what keeps a member of the log from being whole."""
    if member.pod is None or not member.pod.ready or member.pod.terminating:
        return describe_pod(member.name, member.pod)
    if member.trouble is None:
        return f"{member.name} has not been asked yet"
    if member.trouble:
        return f"{member.name}: {member.trouble}"
    return f"{member.name} has yet to catch up with shard {', '.join(map(str, member.lacking))}"


def others_lacking(view: View, member: Member) -> str:
    """Return what keeps the log's other members from having everything; empty if nothing does."""
    return "; ".join(describe_member(each) for each in view.members if each is not member and not each.whole)


def describe_node(node: Node) -> str:
    """Return what keeps a node from being ready."""
    if node.pod is None or node.pod.terminating or not node.pod.running:
        return describe_pod(node.name, node.pod)
    if node.pod.node_ready is False:
        return describe_lost(node.pod)
    if node.denied:
        return (
            f"the agent of {node.name} refuses the operator's token: its pod was started with another one "
            "than the cluster's Secret (-internal) has now; put that one back"
        )
    if node.report is None:
        return f"the agent of {node.name} does not answer"
    if node.report.message:
        return f"{node.name}: {node.report.message}"
    return f"{node.name} is not ready ({node.report.role})"


def describe_pod(name: str, pod: Pod | None) -> str:
    """Return what keeps a pod from running."""
    if pod is None:
        return f"{name} has no pod yet"
    if lost(pod):
        return describe_lost(pod)
    if pod.terminating:
        return f"{name} is terminating"
    if pod.waiting in ("ErrImagePull", "ImagePullBackOff"):  # by turns
        return f"{name}: its image can't be pulled (ImagePullBackOff)"
    if pod.waiting:
        # Kubernetes counts the back-off's seconds in its message.
        told = pod.message and pod.waiting != "CrashLoopBackOff"
        return f"{name}: {pod.waiting}{f': {_short(pod.message)}' if told else ''}"
    return f"{name} is starting"


def lost(pod: Pod) -> bool:
    """Whether the pod was on a Node that is gone or answers no more: nobody knows if it still runs."""
    return pod.node_ready is False


def describe_lost(pod: Pod) -> str:
    """Return what a human may do about a pod whose Node is lost."""
    if pod.node_gone:
        return (
            f"{pod.name} was on Node {pod.kubernetes_node}, which is deleted: Kubernetes removes the pod by "
            "itself, within minutes. If it does not, and you know that the machine is off: kubectl delete "
            f"pod {pod.name} --grace-period=0 --force"
        )
    return (
        f"{pod.name} is on Node {pod.kubernetes_node}, which does not answer. It comes back with the Node. "
        f"If that is shut down for good: kubectl taint node {pod.kubernetes_node} "
        "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute (or delete the Node), and it is replaced"
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."
