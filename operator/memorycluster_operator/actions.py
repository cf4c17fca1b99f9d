"""What a plan may ask for. Each action is idempotent, carries its guards, and says why in plain words.

A plan is decided on the snapshot alone: no action relies on another one of the same plan. So ``apply`` may do
them in any order, leave some out, fail at some, do them twice: the next plan goes on from what is then.

Guards: where an action has a ``uid`` or ``resource_version``, it must fail (HTTP 409) rather than act on
another object, or on one that has changed; such a failure is no error, the next snapshot will show why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memorycluster_operator.identity import Identity
from memorycluster_operator.snapshot import Key, Manifest


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Make the object be as ``manifest`` says: server-side apply, forced, field manager ``memorycluster``.

    ``uid`` and ``resource_version``, where set, go into the metadata that is applied, so that nothing but
    that object, as it was seen, is changed. Without ``uid`` there was none: the object is made, and if there
    is one by now (ask just before), it is left alone. ``create``: by POST, which makes sure of that; for what
    is never changed later, because fields that were made so are not removed by a server-side apply.
    """

    key: Key
    manifest: Manifest
    reason: str
    uid: str = ""
    resource_version: str = ""
    create: bool = False


@dataclass(frozen=True, slots=True)
class Shrink(ApplyObject):
    """Apply a StatefulSet that has fewer pods than there are: the last of them goes."""


@dataclass(frozen=True, slots=True)
class Make(ApplyObject):
    """Make a Job that makes a snapshot, or a MemorySnapshot that asks for some."""


@dataclass(frozen=True, slots=True)
class MakeLast(Make):
    """Make the MemorySnapshot that a MemoryCluster's deletion waits for. Nothing may be written any more."""


@dataclass(frozen=True, slots=True)
class SetFinalizers:
    """Make the finalizers of a MemoryCluster, or a MemorySnapshot, be ``finalizers``, on exactly this version
    of it."""

    key: Key
    uid: str
    resource_version: str
    finalizers: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class LetGo(SetFinalizers):
    """Hold a MemoryCluster's deletion no longer: it goes, and all that it owns."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete a Job, or a MemorySnapshot, exactly as it was seen."""

    key: Key
    uid: str
    resource_version: str
    reason: str


@dataclass(frozen=True, slots=True)
class TellSnapshot:
    """Make the status of a MemorySnapshot, on exactly this version of it, be ``status``."""

    name: str
    uid: str
    resource_version: str
    before: Mapping[str, Any]
    """What it is."""
    status: Mapping[str, Any]
    reason: str


ROUTINE = (Make, Discard, TellSnapshot, SetFinalizers)
"""Actions that change nothing of the cluster itself."""


@dataclass(frozen=True, slots=True)
class SaveIdentity:
    """Write ``status.identity``, on exactly this version of the MemoryCluster (PUT or patch with
    resourceVersion)."""

    identity: Identity
    resource_version: str
    reason: str


@dataclass(frozen=True, slots=True)
class StampClaim:
    """Write the identity onto a volume claim (annotation ``identity.ANNOTATION``), on exactly this version of
    it."""

    name: str
    uid: str
    resource_version: str
    identity: Identity
    reason: str


@dataclass(frozen=True, slots=True)
class OwnClaim:
    """Make a volume claim's owners be ``owners``, on exactly this version of it: with the MemoryCluster among
    them it is deleted along with that."""

    name: str
    uid: str
    resource_version: str
    owners: tuple[Mapping[str, Any], ...]
    reason: str
    cluster_uid: str = ""
    """Of the MemoryCluster that is to own it, which must be there and say so just before; empty: none is."""


@dataclass(frozen=True, slots=True)
class GrowClaim:
    """Raise ``spec.resources.requests.storage`` of a volume claim to ``size`` bytes."""

    name: str
    uid: str
    resource_version: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class CreateLog:
    """``LogService.create``: make a shard's log of the generation of ``identity``; do nothing if it is
    there."""

    shard: int
    identity: Identity
    max_bytes: int
    reason: str
    seed: bytes = b""
    """What it begins with: the digest of the data that precede it; empty: none do."""


@dataclass(frozen=True, slots=True)
class GrowLog:
    """``LogService.grow``: raise the limit of a shard's log to ``max_bytes``."""

    shard: int
    max_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class StepDown:
    """``LogService.step_down``: have another member lead a shard's log; one with a rotten copy leads it."""

    shard: int
    reason: str


@dataclass(frozen=True, slots=True)
class FailOver:
    """POST /v1/failover {successor} to the agent of ``primary`` in the pod ``pod_uid``, if it leads in
    ``epoch``."""

    shard: int
    primary: str
    pod_uid: str
    epoch: int
    successor: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetParameters:
    """PUT /v1/parameters {revision, parameters} to the agent of ``node`` in the pod ``pod_uid``."""

    node: str
    pod_uid: str
    revision: str
    parameters: Mapping[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class LabelPod:
    """Set (or, where None, remove) labels of a pod."""

    name: str
    uid: str
    labels: Mapping[str, str | None]
    reason: str


@dataclass(frozen=True, slots=True)
class EvictPod:
    """Evict a pod that works (policy/v1 Eviction with a uid precondition), so that it comes back from the
    newest template. Its PodDisruptionBudget has the last word: HTTP 429 is no error, it means not now.
    """

    name: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete a pod that does not work (uid and resourceVersion preconditions), never with a grace period of
    0.

    Not by eviction: a budget does not tell a broken pod from a working one.
    """

    name: str
    uid: str
    resource_version: str
    reason: str


Action = (
    ApplyObject
    | SaveIdentity
    | StampClaim
    | OwnClaim
    | GrowClaim
    | CreateLog
    | GrowLog
    | StepDown
    | FailOver
    | SetParameters
    | LabelPod
    | EvictPod
    | DeletePod
    | Discard
    | TellSnapshot
    | SetFinalizers
)

TO_CONFIRM = (Shrink, CreateLog, StepDown, FailOver, EvictPod, DeletePod, MakeLast, LetGo)
"""Before one of these is carried out, the loop observes anew, agents and log included, and keeps it only if
the new plan has it too."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why something that is wanted is not being done now."""

    reason: str
    """CamelCase, like ``PodNotReady``."""
    message: str
    """One line: what is waited for, and what a human can do if it does not come."""
    until: datetime
    """When it should be over; past it the status says that it takes too long. Nothing is forced then."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has just changed, for ``kubectl describe``. Only transitions, never repeated by a
    pass."""

    type: str
    """``Normal`` or ``Warning``."""
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and what the MemoryCluster's status is to be."""

    actions: tuple[Action, ...] = ()
    waits: tuple[Wait, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    """The whole status but ``identity``, which only SaveIdentity may write; JSON data. A field that is there
    and not in this one is to go. ``plan.differs`` says whether it is worth a write."""
    events: tuple[Event, ...] = ()
    """To be posted once the status has been written (so that a lost race posts nothing twice)."""
    again: datetime | None = None
    """When time alone may change this plan, at the latest; None: only events may."""
