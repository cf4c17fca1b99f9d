"""The objects: those that are missing are made, those that have drifted are put right."""

from __future__ import annotations

from memorycluster.api.manifest import KIND
from memorycluster_operator.actions import ApplyObject, Shrink
from memorycluster_operator.drift import difference, marked
from memorycluster_operator.identity import ANNOTATION, Identity
from memorycluster_operator.objects import build_objects, names, network
from memorycluster_operator.plan.step import NOTHING, Step, do, wait
from memorycluster_operator.plan.view import Member, View
from memorycluster_operator.snapshot import Key, Manifest


def keep_objects(view: View) -> Step:
    """Return what to apply. StatefulSets are made last, when all that their pods need is there."""
    snapshot = view.snapshot
    step = _name_conflicts(view)
    wanted = {key: marked(each) for key, each in build_objects(view.inputs).items()}
    missing = [key for key in wanted if key not in snapshot.objects]
    for key, manifest in wanted.items():
        live = snapshot.objects.get(key)
        if key in snapshot.foreign:
            continue
        if live is None:
            step += _create(view, key, manifest, missing)
        elif live["metadata"].get("deletionTimestamp"):
            step += wait(
                snapshot, "ObjectTerminating", f"{key} is being deleted; it is made again once it is gone"
            )
        elif found := difference(manifest, live):
            step += do(_put_right(key, manifest, live, found))
    if view.inputs.credentials is None:
        step += wait(
            snapshot,
            "SecretMissing",
            f"the Secrets {view.inputs.name}-internal and {view.inputs.name}-log are gone, and pods run "
            "with what they held; restore one of them, or delete this cluster's pods (the data are in the "
            "log): then new passwords are drawn",
        )
    return step


def guard_frozen(view: View) -> Step:
    """Return the budgets that keep frozen nodes from being drained away: this is done whatever else is
    not."""
    wanted = {key: marked(each) for key, each in network.disruption_budgets(view.inputs)}
    return do(
        *(
            _put_right(key, manifest, view.snapshot.objects[key], "spec.maxUnavailable")
            for key, manifest in wanted.items()
            if manifest["spec"]["maxUnavailable"] == 0
            and key in view.snapshot.objects
            and difference(manifest, view.snapshot.objects[key])
        )
    )


def _name_conflicts(view: View) -> Step:
    foreign, snapshot = view.snapshot.foreign, view.snapshot
    if not foreign:
        return NOTHING
    if all(owner == f"{KIND} {snapshot.cluster.name}" for owner in foreign.values()):
        message = (
            "objects of a deleted MemoryCluster of this name are still there; it is made once they are gone"
        )
        return wait(snapshot, "ObjectTerminating", message)
    found = ", ".join(
        f"{key} ({f'of {owner}' if owner else 'of nobody'})" for key, owner in sorted(foreign.items())
    )
    return wait(
        snapshot,
        "NameConflict",
        f"not this MemoryCluster's, and in its way: {found}; delete or rename them, or this MemoryCluster",
    )


def _put_right(key: Key, manifest: Manifest, live: Manifest, found: str) -> ApplyObject:
    metadata = live["metadata"]
    # A StatefulSet's size is decided on what was seen of it; all else is to be so, whatever it was.
    version = metadata["resourceVersion"] if key.kind == "StatefulSet" else ""
    shrinks = version and manifest["spec"]["replicas"] < live["spec"]["replicas"]
    if shrinks:
        replicas = manifest["spec"]["replicas"]
        reason = (
            f"{key}: {live['spec']['replicas']} pods, one too many; the shard is well without the last one"
            if replicas
            else f"{key}: the MemoryCluster is being deleted, and nothing may be written any more"
        )
        return Shrink(key, manifest, reason, uid=metadata["uid"], resource_version=version)
    reason = f"{key}: {found} is not as it should be"
    return ApplyObject(key, manifest, reason, uid=metadata["uid"], resource_version=version)


def _create(view: View, key: Key, manifest: Manifest, missing: list[Key]) -> Step:
    """Return how to make an object, or why not yet."""
    if key == names.log_secret(view.inputs.name) and names.internal_secret(view.inputs.name) in missing:
        return (
            NOTHING  # Two operators may draw: the second Secret follows from the first, as that was stored.
        )
    if key.kind == "StatefulSet":
        others = [each for each in missing if each.kind != "StatefulSet" and each.kind != "ConfigMap"]
        if others or view.snapshot.foreign or view.settled.refused or view.inputs.credentials is None:
            return NOTHING  # What is missing says why, where it is not being made.
        if key == names.log_set(view.inputs.name):
            if held_back := _volumes(view):
                return held_back
        elif held_back := _logs(view, missing):
            return held_back
    return do(ApplyObject(key, manifest, f"{key} is not there", create=key.kind == "Secret"))


def _volumes(view: View) -> Step | None:
    """Return why the log can't be started on the volumes that are there; None: it can."""
    going = [claim.name for claim in view.snapshot.claims if claim.terminating]
    if going:
        return wait(
            view.snapshot,
            "ClaimTerminating",
            f"volume claims are being deleted: {', '.join(going)}; the log starts once they are gone",
        )
    identity = view.settled.identity
    if identity is None:
        return NOTHING  # It is being stored.
    if not identity.made:
        return None
    full = [member.name for member in view.members if _holds(member, identity.created)]
    if len(full) == len(view.members):
        return None
    lost = [member.name for member in view.members if member.name not in full]
    return wait(
        view.snapshot,
        "LogVolumesMissing",
        f"the volumes of {', '.join(lost)} are not there, or not known to have had everything. An empty "
        "one has a vote, and may outvote the one that has the newest writes. Restore them. If they are "
        f"lost for good, and you accept that, make claims of these names (data-{lost[0]} ...) with the "
        f"annotation {ANNOTATION} of the others",
    )


def _holds(member: Member, shards: frozenset[int]) -> bool:
    """Whether the member's volume is marked as holding the logs of ``shards``."""
    annotation = member.claim.identity if member.claim else None
    return annotation is not None and Identity.parse(annotation).created >= shards


def _logs(view: View, missing: list[Key]) -> Step | None:
    """Return why engines can't be started yet; None: they can."""
    if names.config_key(view.inputs.name) in missing or names.log_set(view.inputs.name) in missing:
        return NOTHING
    unmade = [shard for shard in range(view.inputs.spec.shards) if shard not in view.settled.marked]
    if not unmade:
        return None
    return wait(
        view.snapshot,
        "LogNotMade",
        "engines start once the logs of all shards are made, and marked on their volumes "
        f"(missing: shard {', '.join(map(str, unmade))})",
    )
