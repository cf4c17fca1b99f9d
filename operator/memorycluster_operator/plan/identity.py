"""Which cluster this is, and which logs are its own: found, else drawn; uncertain, then refused.

The rules, in this order:

1. What stands on a volume claim counts. All claims must agree, and with the status if that knows of a log
that
   was made: else IdentityConflict. What a deleted MemoryCluster has left and what goes with it says nothing.
2. Nothing on the claims, but the status knows of a log that was made: the volumes are gone or others:
   LogVolumesMissing. But if the log service shows the very logs that the status names, the claims only lost
   their annotation, and get it back.
3. The status knows of logs that were drawn and not made: go on with them.
4. Nothing anywhere: draw, and store in the status, on the condition that nobody has written it meanwhile.

A claim is marked only when its member is known to hold what the mark says; the claims first, then the status.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from memorycluster_operator.actions import SaveIdentity, StampClaim
from memorycluster_operator.identity import Identity
from memorycluster_operator.objects import names
from memorycluster_operator.objects.names import member_name
from memorycluster_operator.plan.step import NOTHING, Step, do, wait
from memorycluster_operator.snapshot import Claim, Cluster, LogState, Snapshot


@dataclass(frozen=True, slots=True)
class Settled:
    """What is known of the identity."""

    identity: Identity | None
    """Of the claims and the status together; None: not known, or not certain."""
    step: Step = NOTHING
    refused: bool = False
    """It is not certain: nothing is made until a human has looked."""
    stored: bool = False
    """The status has it."""
    marked: frozenset[int] = frozenset()
    """The shards whose log is marked as made, in the status and on a majority of the claims: it can't be made
    again by mistake, so it may be written to."""


def known_identity(status: Mapping[str, Any], claims: Sequence[Claim]) -> Identity | None:
    """Return the identity with which to ask the log service, or None if there is none, or more than one."""
    stored = _stored(status)
    stamps = _stamps(claims)
    if isinstance(stored, str) or isinstance(stamps, str):
        return None
    return _merged([*stamps.values(), *([stored] if stored else [])])


def settle_identity(snapshot: Snapshot) -> Settled:
    """Apply the rules."""
    stored, stamps = _stored(snapshot.cluster.status), _stamps(snapshot.claims)
    if isinstance(stored, str):
        return _refuse(snapshot, "IdentityConflict", f"status.identity: {stored}; restore it, or remove it")
    if isinstance(stamps, str):
        return _refuse(snapshot, "IdentityConflict", f"{stamps}; restore that annotation, or the volume")
    if stamps and stored is None and (going := _going(snapshot)):
        return Settled(None, going)
    if stamps:
        identity = _merged(list(stamps.values()))
        if identity is None:
            stamped = ", ".join(sorted(stamps))
            return _refuse(
                snapshot,
                "IdentityConflict",
                f"the volume claims {stamped} are of different clusters; keep those of this one and rename "
                "or delete the others",
            )
        if stored is not None and not identity.same_as(stored):
            if stored.made:
                return _refuse(
                    snapshot,
                    "IdentityConflict",
                    f"the log's volume claims are of another cluster ({identity.uid}) than this "
                    f"MemoryCluster ({stored.uid}); bring back its own claims",
                )
            stored = None
        if stored is not None:
            identity = identity.with_created(stored.created)
    elif stored is not None:
        if stored.made and not _all_intact(snapshot, stored):
            return _refuse(
                snapshot,
                "LogVolumesMissing",
                "the log was made, but no volume claim of it is there; restore the claims "
                f"data-{snapshot.cluster.name}-log-* with their annotation, or delete this MemoryCluster "
                "to begin with an empty one",
                stored,
            )
        identity = stored
    else:
        return Settled(None, _draw(snapshot))
    if len(identity.shards) != snapshot.cluster.spec.shards:
        return _refuse(
            snapshot,
            "ShardsDiffer",
            f"spec.shards is {snapshot.cluster.spec.shards}, but the logs are of {len(identity.shards)} "
            f"shards; put {len(identity.shards)} back",
        )
    members = len(snapshot.cluster.spec.zones)
    if beyond := [claim.name for claim in snapshot.claims if claim.identity and claim.index >= members]:
        return _refuse(
            snapshot,
            "ZonesDiffer",
            f"spec.zones names {members}, but the log has a member more ({', '.join(beyond)}); name the "
            "zones with which it was made",
        )
    return _settled(snapshot, identity, stored, stamps)


def _settled(
    snapshot: Snapshot, identity: Identity, stored: Identity | None, stamps: Mapping[str, Identity]
) -> Settled:
    majority = len(snapshot.cluster.spec.zones) // 2 + 1
    marks = [stamp.created for stamp in stamps.values()]
    on_claims = {
        shard for shard in range(len(identity.shards)) if sum(shard in mark for mark in marks) >= majority
    }
    step = Step(actions=tuple(_stamp(snapshot, identity, stamps)))
    to_store = identity if stored is None else stored.with_created(on_claims)
    if stored != to_store:
        new = sorted(to_store.created - (stored.created if stored else frozenset()))
        reason = (
            f"the logs of shards {', '.join(map(str, new))} were made, as the volumes say"
            if new
            else "the volumes say which cluster this is"
        )
        step += do(SaveIdentity(to_store, snapshot.cluster.resource_version, reason))
    marked = frozenset(on_claims & stored.created) if stored else frozenset()
    return Settled(identity, step, stored=stored is not None, marked=marked)


def _draw(snapshot: Snapshot) -> Step:
    cluster = snapshot.cluster
    drawn = Identity.draw(
        _uuid(snapshot.entropy, "cluster"),
        (_uuid(snapshot.entropy, f"generation {shard}") for shard in range(cluster.spec.shards)),
        log_store=cluster.spec.snapshots.store.log is not None or None,
    )
    reason = "a new cluster: neither its status nor a volume says that there was one"
    return do(SaveIdentity(drawn, cluster.resource_version, reason))


def _stamp(snapshot: Snapshot, identity: Identity, stamps: Mapping[str, Identity]) -> list[StampClaim]:
    """Return the marks that claims are to get: none says more than its member is known to hold."""
    actions = []
    for claim in snapshot.claims:
        if claim.terminating or claim.phase != "Bound":
            continue  # While it is being bound, the scheduler would have to begin again for each change.
        stamp = stamps.get(claim.name)
        holds = _held(snapshot, claim)
        if stamp is None and not holds >= identity.created:
            continue
        known = holds | (stamp.created if stamp else frozenset())
        drawn = Identity.draw(identity.uid, identity.generations, log_store=identity.log_store)
        wanted = drawn.with_created(known)
        if wanted != stamp:
            reason = "its member has the logs of this cluster" if holds else "a volume of this cluster"
            actions.append(StampClaim(claim.name, claim.uid, claim.resource_version, wanted, reason))
    return actions


def _held(snapshot: Snapshot, claim: Claim) -> frozenset[int]:
    """Return the shards of whose log, intact, the member on this claim has everything.

    What a log's leader says of a member stays true for a while after that is gone. So the member itself must
    be ready, which it is with everything only, and of this claim: no pod is older than its claim.
    """
    member = member_name(snapshot.cluster.name, claim.index)
    works = any(
        pod.name == member
        and pod.running
        and pod.ready
        and not pod.terminating
        and (claim.created is None or pod.created >= claim.created)
        for pod in snapshot.pods
    )
    if not works or snapshot.log.servers.get(member) != "":
        return frozenset()
    return frozenset(
        log.shard
        for log in snapshot.log.shards
        if log.state is LogState.INTACT and any(each.name == member and each.current for each in log.members)
    )


def _going(snapshot: Snapshot) -> Step | None:
    """Return the wait for what a MemoryCluster that was deleted has left, and what goes; None: nothing goes.

    A volume that is about to be deleted says nothing of the future.
    """
    log = names.log_set(snapshot.cluster.name)
    going = [
        claim.name
        for claim in snapshot.claims
        if claim.terminating or (log not in snapshot.objects and _of_another(claim, snapshot.cluster))
    ]
    if going:
        message = f"volume claims are being deleted: {', '.join(going)}; nothing is made before they are gone"
        return wait(snapshot, "ClaimTerminating", message)
    if snapshot.foreign:
        return NOTHING  # Its predecessor's, or in its way: said elsewhere.
    return None


def _of_another(claim: Claim, cluster: Cluster) -> bool:
    return any(owner["uid"] != cluster.uid for owner in claim.owners)


def _all_intact(snapshot: Snapshot, identity: Identity) -> bool:
    intact = {log.shard for log in snapshot.log.shards if log.state is LogState.INTACT}
    return intact >= identity.created


def _stored(status: Mapping[str, Any]) -> Identity | str | None:
    """Return what the status says, or what is wrong with it."""
    found = status.get("identity")
    if found is None:
        return None
    try:
        return Identity.model_validate(found)
    except ValueError:
        return "it can't be read"


def _stamps(claims: Sequence[Claim]) -> dict[str, Identity] | str:
    """Return what the claims say, by name, or what is wrong with one."""
    stamps = {}
    for claim in claims:
        if claim.identity is not None:
            try:
                stamps[claim.name] = Identity.parse(claim.identity)
            except ValueError as error:
                return f"volume claim {claim.name}: {error}"
    return stamps


def _merged(identities: Sequence[Identity]) -> Identity | None:
    """Return the one identity that all mean, with all that they know; None: none, or they differ."""
    if not identities or not all(identities[0].same_as(each) for each in identities):
        return None
    return identities[0].with_created(frozenset().union(*(each.created for each in identities)))


def _refuse(snapshot: Snapshot, reason: str, message: str, identity: Identity | None = None) -> Settled:
    return Settled(identity, wait(snapshot, reason, message), refused=True)


def _uuid(entropy: bytes, purpose: str) -> UUID:
    drawn = hashlib.blake2b(purpose.encode(), key=entropy, digest_size=16).digest()
    return UUID(bytes=drawn, version=4)
