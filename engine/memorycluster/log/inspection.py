"""What the servers of a log service say of what they hold, and what that comes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from memorycluster.log.healing import LIST, Copy
from memorycluster.log.interface import SNAPSHOTS_STREAM

PATH = "jsz?acc=$G&streams=1&raft=1"
"""Of the monitoring endpoint."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one server says."""

    groups: dict[str, dict[str, Any]]
    """By log: who leads it and, of a server that leads it, how its replicas are."""
    states: dict[str, dict[str, Any]]
    """By log: which messages this server holds."""

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        """Return what the monitoring endpoint's ``answer`` says."""
        accounts = answer.get("account_details", [])
        streams = {
            stream["name"]: stream for account in accounts for stream in account.get("stream_detail", [])
        }
        groups = {log: stream.get("cluster", {}) for log, stream in streams.items()}
        groups[LIST] = answer.get("meta_cluster", {})
        return cls(groups, {log: stream["state"] for log, stream in streams.items()})


Inspections = Mapping[str, Inspection]
"""By server. One that does not answer is not there."""


def copies(before: Inspections, after: Inspections) -> Iterator[Copy]:
    """Yield what each server holds of each log.

    The servers are not asked at the same moment, hence twice: what one has ``before``, each has ``after``.
    """
    for member, inspection in after.items():
        for log in inspection.groups:
            leader = _leader(log, after)
            state = inspection.states.get(log)
            yield Copy(
                log,
                member,
                leads=member == leader,
                current=_current(log, member, leader, before, after),
                lost=_lost(log, member, before, after),
                first=state["first_seq"] if state else 0,
                last=state["last_seq"] if state else 0,
                reaches=_reached(member, inspection.groups[log]),
            )


def _leader(log: str, inspections: Inspections) -> str:
    """Return who says that itself leads ``log``, if that is one server: others only say what they heard."""
    leaders = [name for name, each in inspections.items() if each.groups.get(log, {}).get("leader") == name]
    return leaders[0] if len(leaders) == 1 else ""


def _reached(member: str, group: Mapping[str, Any]) -> frozenset[str]:
    """Return which servers ``member`` reaches, if it says that it leads the group: others only hear of it."""
    replicas = group.get("replicas", []) if group.get("leader") == member else []
    return frozenset(replica["name"] for replica in replicas if not replica.get("offline"))


def _current(log: str, member: str, leader: str, before: Inspections, after: Inspections) -> bool:
    """Say whether ``member`` holds all that is committed in its log of proposals, and has applied it."""
    if member == leader or not leader:
        return member == leader
    if log != LIST:
        if leader not in before or log not in before[leader].states:
            return False  # What the leader had is not known, so nothing shows that this one has it.
        if after[member].states[log]["last_seq"] < before[leader].states[log]["last_seq"]:
            return False
    replicas = after[leader].groups[log].get("replicas", [])
    return any(r["name"] == member and r["current"] and not r.get("offline") for r in replicas)


def _lost(log: str, member: str, before: Inspections, after: Inspections) -> int:
    """Return how many messages ``member`` has lost: after its first one, and before it."""
    state = after[member].states.get(log)
    if state is None or log == SNAPSHOTS_STREAM:
        return 0  # Snapshots are deleted from the middle; each has its SHA-256.
    holes: int = state["last_seq"] - state["first_seq"] + 1 - state["messages"] if state["messages"] else 0
    if member in before and log in before[member].states:
        # All trim alike: one that had less of the beginning than each other has now has lost it.
        others = [
            each.states[log]["first_seq"]
            for name, each in after.items()
            if name != member and log in each.states
        ]
        if len(others) > 1:
            holes += max(0, before[member].states[log]["first_seq"] - max(others))
    return holes
