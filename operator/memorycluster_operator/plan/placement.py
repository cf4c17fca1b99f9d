"""Planned failback: after a zone was lost and came back, primaries are spread over the zones again.

Only when nothing else is to be done, all has been well for a while, and it makes the spread more even: a zone
that has at least two primaries more than another gives one away.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from memorycluster_operator.plan.scale import hand_over, may_succeed, primaries_by_zone
from memorycluster_operator.plan.step import NOTHING, Step
from memorycluster_operator.plan.view import Shard, View

CALM = timedelta(minutes=2)
"""For how long nothing may have been missing."""


def well_since(view: View) -> datetime | None:
    """Return since when nothing has been missing, as the status says; None: something is."""
    for condition in view.snapshot.cluster.status.get("conditions") or []:
        if condition["type"] == "Redundant" and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"])
    return None


def uneven(view: View) -> bool:
    """Whether a zone has at least two primaries more than another."""
    loads = primaries_by_zone(view).values()
    return max(loads) - min(loads) >= 2


def spread_primaries(view: View) -> Step:
    """Return the failover that makes the spread more even, if any."""
    since = well_since(view)
    if since is None or view.snapshot.now < since + CALM or not uneven(view):
        return NOTHING
    loads = primaries_by_zone(view)
    for shard in view.shards:
        primary = shard.primary
        if primary is None or primary.pod is None or loads.get(primary.pod.zone) != max(loads.values()):
            continue
        there = [node for node in shard.nodes if _lighter(view, shard, loads[primary.pod.zone], node.index)]
        if there:
            why = f"zone {primary.pod.zone} has {loads[primary.pod.zone]} primaries, another one two fewer"
            return hand_over(view, shard, primary, there, why)
    return NOTHING


def _lighter(view: View, shard: Shard, load: int, index: int) -> bool:
    """Whether a node that can take over is in a zone with at least two primaries fewer than ``load``."""
    node = next(each for each in shard.nodes if each.index == index)
    zone = node.pod.zone if node.pod else ""
    return may_succeed(node) and primaries_by_zone(view).get(zone, load) <= load - 2
