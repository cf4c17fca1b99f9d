"""Logs that are full: their shards serve reads, and refuse writes."""

from __future__ import annotations

from memorycluster_operator.plan.step import NOTHING, Step, wait
from memorycluster_operator.plan.view import Shard, View

LOG_FULL = "LogFull"

REFUSE_ABOVE, ALLOW_BELOW = 0.90, 0.85
"""Shares of a log's limit: above the one agents refuse writes, and below the other they take them again."""


def full_shards(view: View) -> list[int]:
    """Return the shards that refuse writes for want of room in their log."""
    return [shard.index for shard in view.shards if _full(shard)]


def _full(shard: Shard) -> bool:
    """Whether the primary refuses writes, by its own numbers.

    Once it does, it goes on until its log is a little emptier: meanwhile it says so.
    """
    if shard.primary is None or (report := shard.primary.report) is None or not report.log:
        return False
    used, limit = int(report.log.get("bytes") or 0), int(report.log.get("maxBytes") or 0)
    refused = ALLOW_BELOW if report.message else REFUSE_ABOVE
    return used > limit * refused and limit > 0


def full_logs(view: View) -> Step:
    """Return the wait for somebody who makes room.

    How full a log is is not said: that changes all the time.
    """
    full = full_shards(view)
    if not full:
        return NOTHING
    numbers = ", ".join(map(str, full))
    message = (
        f"shard {numbers} refuses writes: its log is above {REFUSE_ABOVE:.0%} of log.maxBytes. "
        "Raise that, or let snapshots trim it: the condition SnapshotsCurrent says why they do not"
    )
    return wait(view.snapshot, LOG_FULL, message)
