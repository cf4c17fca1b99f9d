"""Facts about snapshots: what MemorySnapshots ask for, and what became of the Jobs that make them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from memorycluster.api.units import format_bytes

MOMENT_ANNOTATION = "memorycluster.io/scheduled-at"
"""On a MemorySnapshot that the schedule asked for: the moment."""

LAST_ANNOTATION = "memorycluster.io/before-delete"
"""On the MemorySnapshot that is taken before a MemoryCluster is deleted: which that is, see ``Last``."""

DATA_FINALIZER = "memorycluster.io/data"
"""On a MemorySnapshot that is to take its data along when it is deleted."""

CONFIG_ANNOTATION = "memorycluster.io/making"
"""On a Job's pod: what it is told (``memorycluster.snapshot.job.JobConfig``); there are no secrets in it."""

MAKING_LABEL = "memorycluster.io/making"
"""On a Job: what it does, one of ``KINDS``."""
SNAPSHOT_LABEL = "memorycluster.io/snapshot"
"""On a Job: the MemorySnapshot that asked for it."""
SHARD_LABEL = "memorycluster.io/shard"

MAKE, KEEP, RESTORE, FORGET = "make", "keep", "restore", "forget"
KINDS = (MAKE, KEEP, RESTORE, FORGET)

TRIM = (MAKE, KEEP, FORGET)
"""Those that trim the log, and delete snapshots."""

WAITING = ("ContainerCreating", "PodInitializing")
"""Reasons for which any container waits before it runs."""


@dataclass(frozen=True, slots=True)
class Last:
    """Which last snapshot a MemorySnapshot is."""

    cluster_uid: str
    ends: tuple[int, ...]
    """The last record of each shard's log when all engines had been stopped."""

    def __str__(self) -> str:
        """Return it as it stands in the annotation."""
        return f"{self.cluster_uid} {','.join(map(str, self.ends))}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what an annotation says; None: it can't be read."""
        uid, _, ends = text.partition(" ")
        numbers = ends.split(",")
        return cls(uid, tuple(map(int, numbers))) if all(map(str.isdecimal, numbers)) else None


@dataclass(frozen=True, slots=True)
class Asked:
    """A MemorySnapshot."""

    name: str
    uid: str
    resource_version: str
    created: datetime
    generation: int = 1
    moment: datetime | None = None
    """The schedule's, that it is for; None: a user asked for it."""
    last: Last | None = None
    """It is taken before a MemoryCluster is deleted."""
    deletes_data: bool = False
    """Its data in the store is to go with it."""
    finalizers: tuple[str, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    """As it is stored."""
    deleting: bool = False

    @property
    def forgetting(self) -> bool:
        """It is being deleted, and waits until its data is."""
        return self.deleting and DATA_FINALIZER in self.finalizers


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a Job is with what it is doing."""

    step: str
    """``load``, ``replay``, ``save``, ``upload`` or ``verify``; for other shards ``split``, ``join``."""
    done: int
    """Bytes."""
    total: int
    """Bytes; 0: not known."""

    def __str__(self) -> str:
        of = f" of {format_bytes(self.total)}" if self.total else ""
        return f"{self.step} {format_bytes(self.done)}{of}"


@dataclass(frozen=True, slots=True)
class Making:
    """A Job, with what its pod has said last."""

    name: str
    uid: str
    resource_version: str
    shard: int
    kind: str
    """What it does: one of ``KINDS``."""
    created: datetime
    generation: str = ""
    """Of the log that it is about; empty: not known."""
    snapshot: str = ""
    """The MemorySnapshot that asked for it; empty: none, the log did."""
    finished: datetime | None = None
    failed: bool = False
    """It is finished, and has not done what it should."""
    result: Mapping[str, Any] | None = None
    """What it said last (``memorycluster.snapshot.job``); None: nothing that is known."""
    message: str = ""
    """Why it is not running, or has failed, as Kubernetes says."""
    address: str = ""
    """Of its pod; empty: that does not run."""
    progress: Progress | None = None
    """What it says itself of how far it is; None: not known."""
    deleting: bool = False
    unwanted: tuple[str, ...] = ()
    """Places of snapshots that it is to delete."""
    held: bool = False
    """It was told to trim nothing, and to delete no snapshot."""
    spared: frozenset[str] = frozenset()
    """Names of snapshots that it was told not to delete."""


def asked_facts(obj: Mapping[str, Any]) -> Asked:
    """Return the MemorySnapshot in ``obj``."""
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    moment, last = annotations.get(MOMENT_ANNOTATION), annotations.get(LAST_ANNOTATION)
    return Asked(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        generation=metadata.get("generation", 1),
        moment=_moment(moment) if moment else None,
        last=Last.parse(last) if last else None,
        deletes_data=(obj.get("spec") or {}).get("deletionPolicy") == "Delete",
        finalizers=tuple(metadata.get("finalizers") or ()),
        status=obj.get("status") or {},
        deleting="deletionTimestamp" in metadata,
    )


def making_facts(objects: Iterable[Mapping[str, Any]], owners: Iterable[str]) -> Iterator[Making]:
    """Yield the Jobs among ``objects``, which have one of the ``owners`` (uids), with what their pods say."""
    known, jobs, pods = set(owners), [], dict[str, Mapping[str, Any]]()
    for obj in objects:
        owner = _controller(obj)
        if obj["kind"] == "Job" and owner.get("uid") in known:
            jobs.append(obj)
        elif obj["kind"] == "Pod" and owner.get("kind") == "Job":
            pods[owner["uid"]] = obj
    for job in jobs:
        labels = job["metadata"].get("labels") or {}
        if labels.get(MAKING_LABEL) in KINDS and labels.get(SHARD_LABEL, "").isdecimal():
            yield _making(job, labels, pods.get(job["metadata"]["uid"]))


def _making(job: Mapping[str, Any], labels: Mapping[str, str], pod: Mapping[str, Any] | None) -> Making:
    metadata, status, told = job["metadata"], job.get("status") or {}, _told(job)
    keep, ended = told.get("keep") or {}, _ended(job)
    result, message = _said(pod) if pod else (None, "")
    failed = ended is not None and ended["type"] == "Failed"
    if failed and not message:
        message = f"{ended.get('reason', '')}: {ended.get('message', '')}" if ended else ""
    when = status.get("completionTime") or (ended or {}).get("lastTransitionTime")
    return Making(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        shard=int(labels[SHARD_LABEL]),
        kind=labels[MAKING_LABEL],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        generation=str(told.get("generation") or ""),
        unwanted=tuple(keep.get("unwanted") or ()),
        held=bool(keep.get("held")),
        spared=frozenset(keep.get("spared") or ()),
        snapshot=labels.get(SNAPSHOT_LABEL, ""),
        finished=datetime.fromisoformat(when) if ended and when else None,
        failed=failed,
        result=result,
        message=message,
        address=_address(pod) if pod and ended is None else "",
        deleting="deletionTimestamp" in metadata,
    )


def _address(pod: Mapping[str, Any]) -> str:
    status = pod.get("status") or {}
    return str(status.get("podIP") or "") if status.get("phase") == "Running" else ""


def takers(objects: Iterable[Mapping[str, Any]], snapshot: str, *, trim: bool) -> list[str]:
    """Return the Jobs, and pods of Jobs, that are not over and may take what a cluster is restored from.

    A Job goes before its pod does. :param snapshot: the name of what is not to be deleted; empty: any.
    :param trim: nor is the log to be trimmed.
    """
    return sorted(
        f"{obj['kind']} {obj['metadata']['name']}"
        for obj in objects
        if obj["kind"] in ("Job", "Pod")
        and (obj["metadata"].get("labels") or {}).get(MAKING_LABEL) in TRIM
        and not _over(obj)
        and not _harmless(_told(obj).get("keep") or {}, snapshot, trim=trim)
    )


def _harmless(keep: Mapping[str, Any], snapshot: str, *, trim: bool) -> bool:
    return bool(keep.get("held")) or (not trim and snapshot in (keep.get("spared") or ()))


def _over(obj: Mapping[str, Any]) -> bool:
    """Whether a Job, or a pod of one, has ended."""
    if obj["kind"] == "Job":
        return _ended(obj) is not None
    return (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _ended(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the condition that says how a Job has ended; None: it has not."""
    for each in (job.get("status") or {}).get("conditions") or []:
        if each.get("type") in ("Complete", "Failed") and each.get("status") == "True":
            return dict(each)
    return None


def _told(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a Job, or a pod of one, is told."""
    pod = obj if obj["kind"] == "Pod" else (obj.get("spec") or {}).get("template") or {}
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    try:
        told = json.loads(annotations.get(CONFIG_ANNOTATION) or "")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _said(pod: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    """Return what the making in a pod left as its result, and why it does not run, or has ended badly."""
    status = pod.get("status") or {}
    for each in status.get("containerStatuses") or []:
        state = each.get("state") or {}
        if ended := state.get("terminated"):
            try:
                result = json.loads(ended.get("message") or "")
            except ValueError:
                result = None
            code = ended.get("exitCode")
            why = f"its pod ended: {ended.get('reason') or 'no reason'} (exit status {code})" if code else ""
            return (result, why) if isinstance(result, dict) else (None, why)
        if (waiting := state.get("waiting")) and waiting.get("reason") not in WAITING:
            return None, f"{waiting.get('reason')}: {waiting.get('message') or ''}".strip(": ")
    for each in status.get("conditions") or []:
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            return None, f"{each.get('reason')}: {each.get('message') or ''}".strip(": ")
    return None, ""


def _controller(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    owners = obj["metadata"].get("ownerReferences") or []
    return next((each for each in owners if each.get("controller")), {})


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None
