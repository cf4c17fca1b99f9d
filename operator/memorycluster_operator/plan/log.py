"""The log: made once, grown, and its members replaced one at a time while the others have everything."""

from __future__ import annotations

from datetime import timedelta

from memorycluster.api.units import format_quantity
from memorycluster_operator.actions import CreateLog, DeletePod, EvictPod, GrowClaim, GrowLog
from memorycluster_operator.identity import Identity
from memorycluster_operator.plan import calm
from memorycluster_operator.plan.restore import restore_shard
from memorycluster_operator.plan.step import NOTHING, Step, do, wait
from memorycluster_operator.plan.view import (
    Member,
    Node,
    View,
    never_started,
    newest_revision,
    observed,
    template_of,
)
from memorycluster_operator.snapshot import LogState

ELECTION = timedelta(minutes=1)
"""For how long a log service may be without a word: it starts, or elects."""

START = timedelta(minutes=5)
"""For how long an engine pod that starts keeps the log's members from being replaced."""


def plan_log(view: View) -> Step:
    """Return what the log needs."""
    return _make(view) + _grow(view)


def _make(view: View) -> Step:
    """Make the logs that were never made, once every volume says whose it is."""
    settled, identity = view.settled, view.settled.identity
    if identity is None or settled.refused or view.log_set is None:
        return NOTHING
    step = NOTHING
    for shard in view.shards:
        log = shard.log
        made = shard.index in identity.created
        if log.state is LogState.UNFIT or (made and log.state is LogState.MISSING):
            step += _damaged(view, shard.index, log.state, log.message)
        elif log.state is LogState.MISSING:
            step += _may_make(view, identity) or _create(view, identity, shard.index)
        elif log.state is LogState.UNKNOWN:
            message = f": {log.message}" if log.message else ""
            step += wait(
                view.snapshot,
                "LogUnavailable",
                f"the log of shard {shard.index} does not answer{message}",
                ELECTION,
            )
    return step


def _create(view: View, identity: Identity, shard: int) -> Step:
    """Make a log, once what precedes it has been restored."""
    if view.inputs.spec.restore_from is None:
        seed = b""
    elif isinstance(restored := restore_shard(view, identity, shard), Step):
        return restored
    else:
        seed = restored
    reason = f"the log of shard {shard} was never made"
    return do(CreateLog(shard, identity, view.inputs.spec.log.max_bytes, reason, seed))


def _damaged(view: View, shard: int, state: LogState, message: str) -> Step:
    if state is LogState.MISSING:
        text = (
            f"the log of shard {shard} was made, and is gone; it is never made again. Bring back the "
            "volumes of the log's members; nothing is deleted or restarted meanwhile"
        )
    else:
        text = (
            f"the log of shard {shard} is not the one that was made: {message}; "
            "bring back the log's own volumes"
        )
    return wait(view.snapshot, f"Log{state}", text)


def _may_make(view: View, identity: Identity) -> Step | None:
    """Return what must come before a log is made; None: nothing."""
    if not view.settled.stored:
        return NOTHING  # It is being stored.
    stamped = {
        claim.index
        for claim in view.snapshot.claims
        if claim.identity is not None
        and not claim.terminating
        and identity.same_as(Identity.parse(claim.identity))
    }
    unready = [member for member in view.members if member.index not in stamped or member.trouble != ""]
    if unready:
        missing = "; ".join(
            calm.describe_member(each) if each.index in stamped else f"{each.name} has no marked volume yet"
            for each in unready
        )
        message = f"the logs are made once every member is there: {missing}"
        return wait(view.snapshot, "LogStarting", message)
    if old := not_of_the_template(view):
        return wait(
            view.snapshot, "LogStarting", f"the logs are made once {', '.join(old)} is of the new template"
        )
    return None


def _grow(view: View) -> Step:
    """Let volumes and logs grow; what they are allowed to hold only after they have the room."""
    spec, step = view.inputs.spec, NOTHING
    for member in view.members:
        claim = member.claim
        if claim is None or claim.terminating or claim.size >= spec.log_volume_bytes:
            continue
        reason = f"the volume is to have {format_quantity(spec.log_volume_bytes)}"
        step += do(GrowClaim(claim.name, claim.uid, claim.resource_version, spec.log_volume_bytes, reason))
    small = [
        shard.index
        for shard in view.shards
        if shard.log.state is LogState.INTACT and 0 < shard.log.max_bytes < spec.log.max_bytes
    ]
    if small and (held := lacks_room(view)):
        return step + held
    if all(member.whole and _current(view, member) for member in view.members):
        reason = "spec.log.maxBytes has grown, and every member has the room"
        step += do(*(GrowLog(shard, spec.log.max_bytes, reason) for shard in small))
    return step


def not_of_the_template(view: View) -> list[str]:
    """Return the members that do not know yet how much they may store."""
    return [member.name for member in view.members if not _current(view, member)]


def lacks_room(view: View) -> Step | None:
    """Return the wait for volumes that are smaller than they should be; None: there is none.

    What is in them, logs and perhaps snapshots, grows only then.
    """
    size = view.inputs.spec.log_volume_bytes
    lacking = [
        f"{member.name} ({member.claim.message})" if member.claim and member.claim.message else member.name
        for member in view.members
        if member.claim is None or member.claim.capacity is None or member.claim.capacity < size
    ]
    if not lacking:
        return None
    return wait(
        view.snapshot,
        "VolumeTooSmall",
        f"each volume of the log must have {format_quantity(size)} before logs or snapshots may take more: "
        f"{', '.join(lacking)}; their StorageClass must allow volume expansion, or enlarge them by hand",
    )


def roll_log(view: View) -> Step:
    """Return the next step of the log's rollout."""
    stale = [member for member in view.members if member.pod and not _current(view, member)]
    if not stale or view.log_set is None:
        return NOTHING
    if not observed(view.log_set) or template_of(view.log_set) != view.log_template:
        return wait(view.snapshot, "Updating", "the log's new template is on its way")
    return (
        _replace_unstarted(view, stale)
        or calm.frozen(view, view.frozen)
        or calm.rotten(view)
        or (NOTHING if view.inputs.heal else _roll(view, stale))
    )


def _moving(view: View, node: Node) -> bool:
    """Whether a node's pod is being replaced. One that can't start does not hold up the log for ever."""
    assert node.pod is not None
    young = view.snapshot.now - node.pod.created < START
    return node.pod.terminating or (young and not node.ready)


def _may_hold_data(view: View) -> bool:
    """Whether anything may have been written to a log: engines start only once the logs are marked as
    made."""
    identity = view.settled.identity
    found = any(shard.stateful_set or shard.log.state is LogState.INTACT for shard in view.shards)
    return identity is None or identity.made or found


def _current(view: View, member: Member) -> bool:
    return member.pod is not None and (member.pod.terminating or member.pod.template == view.log_template)


def _replace_unstarted(view: View, stale: list[Member]) -> Step | None:
    """Replace at once what has never run: its volume stays, and no server stops."""
    assert view.log_set is not None
    newest = newest_revision(view.log_set)
    gone = [
        DeletePod(
            member.name,
            member.pod.uid,
            member.pod.resource_version,
            f"{calm.describe_pod(member.name, member.pod)}; it is of an older template",
        )
        for member in stale
        if member.pod
        and never_started(member.pod)
        and member.pod.revision != newest
        and not (member.claim and member.claim.terminating)  # it would go with its pod
    ]
    return do(*gone) if gone else None


def _roll(view: View, stale: list[Member]) -> Step:
    """Replace one member: one that is not whole before others, one that leads few logs before one that leads
    many."""
    member = min(stale, key=lambda each: (each.whole, each.leads, -each.index))
    lacking = calm.others_lacking(view, member)
    if lacking and _may_hold_data(view):
        return wait(
            view.snapshot,
            "LogMemberNotCurrent",
            f"{member.name} is replaced once the log's other members have everything: {lacking}",
        )
    for shard in view.shards if member.whole else ():
        if shard.stateful_set and (held := calm.shard_served(view, shard)):
            return held
    if member.claim is not None and member.claim.terminating:
        return wait(
            view.snapshot,
            "ClaimTerminating",
            f"{member.name} is of an older template, but its volume claim goes with its pod: delete the "
            "pod yourself if its copy of the log may go (the other members have everything)",
        )
    moving = [
        node.name
        for shard in view.shards
        for node in shard.nodes
        if node.pod and not calm.lost(node.pod) and _moving(view, node)
    ]
    if moving and member.whole:
        message = f"{member.name} is replaced once {', '.join(moving)} has been"
        return wait(view.snapshot, "PodTerminating", message)
    assert member.pod is not None
    reason = "it is of an older template, and the log's other members have everything"
    if lacking:
        reason = "it is of an older template, and nothing was ever written to the log"
    if member.whole and not lacking:
        return do(EvictPod(member.name, member.pod.uid, reason))
    reason = f"{calm.describe_member(member)}; {reason}"
    return do(DeletePod(member.name, member.pod.uid, member.pod.resource_version, reason))
