"""Who owns the log's volume claims: with ``deletionPolicy: Delete`` the MemoryCluster itself, else nobody.

So they go with it, and with nothing else: not with a StatefulSet that somebody deletes. The status says so
before the first of them is owned, and until the last of them is released. While it does, a MemoryCluster that
says Retain can't be deleted (the chart's ValidatingAdmissionPolicy): so nobody is too fast for the operator.
If a last snapshot is to be taken before (``snapshots.beforeDelete``), nobody owns them until it is there.
"""

from __future__ import annotations

from typing import Literal

from memorycluster.api.manifest import API_VERSION, KIND
from memorycluster_operator.actions import OwnClaim
from memorycluster_operator.identity import Identity
from memorycluster_operator.plan.step import NOTHING, Step, do
from memorycluster_operator.plan.view import View
from memorycluster_operator.snapshot import Claim


def deletion_policy(view: View) -> Literal["Retain", "Delete"]:
    """Return what the status is to say of the volumes: Delete if any of them may go along."""
    return "Delete" if any_owned(view) or (_go_along(view) and not view.settled.refused) else "Retain"


def any_owned(view: View) -> bool:
    """Whether any of the volumes would go with the MemoryCluster now."""
    uid = view.snapshot.cluster.uid
    return any(each["uid"] == uid for claim in view.snapshot.claims for each in claim.owners)


def told(view: View) -> bool:
    """Whether the status says already that volumes go with the MemoryCluster."""
    return view.snapshot.cluster.status.get("deletionPolicy") == "Delete"


def own_claims(view: View, *, superfluous: bool = False) -> Step:
    """Return which claims are to go with the MemoryCluster: those that are marked as its own.

    :param superfluous: there is a last snapshot, or nothing that could be in one.
    """
    cluster, step = view.snapshot.cluster, NOTHING
    if not _go_along(view, superfluous) or view.settled.refused or not (told(view) or cluster.deleting):
        return step
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": cluster.name, "uid": cluster.uid}
    for claim in view.snapshot.claims:
        owned = any(each["uid"] == cluster.uid for each in claim.owners)
        if not owned and not claim.terminating and _is_ours(view, claim):
            reason = "spec.deletionPolicy is Delete: it goes with the MemoryCluster"
            step += do(
                OwnClaim(
                    claim.name,
                    claim.uid,
                    claim.resource_version,
                    (*claim.owners, owner),
                    reason,
                    cluster_uid=cluster.uid,
                )
            )
    return step


def release_claims(view: View, *, superfluous: bool = False) -> Step:
    """Return which claims are to stay when the MemoryCluster goes: this is done whatever else is not."""
    cluster, step = view.snapshot.cluster, NOTHING
    if _go_along(view, superfluous):
        return step
    why = "Retain" if cluster.spec.deletion_policy == "Retain" else "Delete, and there is no last snapshot"
    for claim in view.snapshot.claims:
        others = tuple(each for each in claim.owners if each["uid"] != cluster.uid)
        if others != claim.owners and not claim.terminating:
            reason = f"spec.deletionPolicy is {why}: it stays when the MemoryCluster goes"
            step += do(OwnClaim(claim.name, claim.uid, claim.resource_version, others, reason))
    return step


def _go_along(view: View, superfluous: bool = False) -> bool:
    spec = view.snapshot.cluster.spec
    return spec.deletion_policy == "Delete" and (superfluous or not spec.snapshots.before_delete)


def _is_ours(view: View, claim: Claim) -> bool:
    identity = view.settled.identity
    if identity is None or claim.identity is None:
        return False
    return identity.same_as(Identity.parse(claim.identity))
