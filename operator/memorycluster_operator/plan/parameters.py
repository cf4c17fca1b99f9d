"""Engine parameters: agents set those that an engine takes while it runs, and say which need a new start.

The ConfigMap has the same set, for engines that start; the revision names the set.
"""

from __future__ import annotations

from memorycluster_operator.actions import SetParameters
from memorycluster_operator.plan.step import Step
from memorycluster_operator.plan.view import View


def set_parameters(view: View) -> Step:
    """Return what to tell the agents whose engines have another set. Frozen ones are left alone."""
    revision = view.parameters_revision
    return Step(
        tuple(
            SetParameters(
                node.name,
                node.pod.uid,
                revision,
                view.inputs.spec.engine.parameters,
                f"{node.name} has other engine parameters than the spec",
            )
            for shard in view.shards
            for node in shard.nodes
            if node.pod is not None
            and not node.pod.terminating
            and node.report is not None
            and node.report.role in ("leader", "follower")
            and node.report.parameters_revision != revision
        )
    )
