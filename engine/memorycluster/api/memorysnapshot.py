"""The MemorySnapshot resource: a snapshot of every shard of a MemoryCluster, taken when this is created."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from memorycluster.api.model import ClusterName, Model
from memorycluster.api.status import Condition, StatusModel

SNAPSHOT_KIND = "MemorySnapshot"


class MemorySnapshotSpec(Model):
    """What is wanted."""

    cluster: ClusterName
    """The MemoryCluster to take it of, in the same namespace. It must have a store: it has one by default, in
    its log service. Can't be changed."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What becomes of its data in the store when this is deleted. With Delete they go first, but for what
    the cluster's log still needs: that stays until retention lets it expire."""


class SnapshotPhase(StrEnum):
    """How far it is."""

    PENDING = "Pending"
    """Not begun: it waits for the cluster."""
    RUNNING = "Running"
    """Being taken, or tried again."""
    COMPLETED = "Completed"
    """Verified, and in the store."""
    FAILED = "Failed"
    """Given up; create another one."""
    DELETED = "Deleted"
    """Of a shard: its data is not in the store any more, or left to retention."""
    RETAINED = "Retained"
    """Of a shard: its data was to go, and stays in the store."""


class SnapshotShard(StatusModel):
    """The part of one shard."""

    index: int
    """Of the shard, from 0."""
    phase: SnapshotPhase
    """How far it is: Pending, Running, Completed, Failed; Deleted or Retained, as deletionPolicy says."""
    message: str = ""
    """What is going on, or what was wrong with the last try."""
    started_at: datetime | None = None
    """When its first Job was made."""
    failed: bool | None = None
    """One of its Jobs has failed, or was not heard: it may have left a snapshot in the store all the same."""
    step: str | None = None
    """What its Job is doing: load, replay, save, upload or verify."""
    done: int | None = None
    """Bytes of that step that are done."""
    total: int | None = None
    """Bytes that it has, where that is known."""
    place: str = ""
    """Where it is in the store, below its prefix."""
    epoch: int | None = None
    """The leadership at its end."""
    sequence: int | None = None
    """Of the last record of the log that it holds."""
    offset: int | None = None
    """Replication offset of its state."""
    log_time: datetime | None = None
    """When the log took that record: the state is that of this moment."""
    bytes: int | None = None
    """Size of its file."""
    sha256: str | None = None
    """Of its file."""
    digest: str | None = None
    """Of the whole data set; the stored file, loaded into another engine, gave the same."""
    keys: int | None = None
    """How many there are."""
    engine_version: str | None = None
    """Of the engine that saved it."""


class MemorySnapshotStatus(StatusModel):
    """How far it is, and what it holds."""

    phase: SnapshotPhase
    """Pending, Running, Completed (verified, and in the store) or Failed (given up)."""
    conditions: list[Condition] = Field(default_factory=list)
    """Complete: all of it is verified, and in the store. False with the reason Failed: it never will be.
    DataDeleted, once it is being deleted with its data: why that has to wait, or stays."""
    shards: list[SnapshotShard] = Field(default_factory=list)
    """By index."""
    started_at: datetime | None = None
    """When the first Job was made."""
    completed_at: datetime | None = None
    """When the last shard was done."""
    size: str = ""
    """Of all its files."""
    progress: str = ""
    """Shards that are done, of how many: 1/2."""
    message: str = ""
    """What is going on, or what is wrong."""
