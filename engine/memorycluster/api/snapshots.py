"""Snapshots, as a manifest asks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from memorycluster.api.kubernetes import Resources
from memorycluster.api.model import Duration, Model, Name, ObjectName, Quantity, Text

SMALLEST = 64 << 20
"""Bytes that the log service's store may hold at least."""


def _schedule(value: str) -> str:
    try:
        CronSim(value, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"{value!r} is not a schedule of five fields, like '0 3 * * *': {error}") from error
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path: start it with /")
    return value


def _moment(value: object) -> datetime:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = datetime.fromisoformat(value)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{value!r} is not a moment: write it like '2026-11-01T12:34:56Z', in quotes")
    return value


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 40}),
]
"""A moment, written as RFC 3339 says, with its zone."""


class S3Store(Model):
    """A bucket of S3, or of what speaks like it."""

    bucket: Text
    """Its name."""
    prefix: Text | None = None
    """Comes before the name of every object."""
    region: Text | None = None
    """Of the bucket; by default what the environment says."""
    endpoint: Text | None = None
    """URL of the service, if it is not Amazon's."""


class AzureStore(Model):
    """A container of Azure's blob storage."""

    account: Text
    """The storage account."""
    container: Text
    """Its name."""
    prefix: Text | None = None
    """Comes before the name of every object."""
    endpoint: Text | None = None
    """URL of the service, if it is not Microsoft's."""


class GoogleStore(Model):
    """A bucket of Google Cloud Storage."""

    bucket: Text
    """Its name."""
    prefix: Text | None = None
    """Comes before the name of every object."""


class DirectoryStore(Model):
    """A directory, of a disk or a volume."""

    path: Annotated[Text, AfterValidator(_absolute)]
    """Its absolute path."""


class LogStore(Model):
    """The object store of the cluster's own log service, which needs no account: on each member's volume,
    beside the logs. A copy elsewhere it is not."""

    max_bytes: Annotated[Quantity, Field(ge=SMALLEST, le=1 << 50)] | None = None
    """Of all shards' snapshots on each member, from 64Mi; the volumes are larger by that. By default as much
    as the logs of all shards. Can only grow. What does not fit is no snapshot, and the condition
    SnapshotsCurrent says so."""


class Credentials(Model):
    """Where the credentials for a store are; they are never here."""

    secret_name: ObjectName
    """A Secret of the cluster's namespace with a key for each, like AWS_ACCESS_KEY_ID. It can be changed at
    any time."""


class SnapshotStore(Model):
    """Where snapshots are kept: one of these. (See log.)"""

    s3: S3Store | None = None
    """A bucket of S3, or of what speaks like it."""
    azure: AzureStore | None = None
    """A container of Azure's blob storage."""
    gcs: GoogleStore | None = None
    """A bucket of Google Cloud Storage."""
    directory: DirectoryStore | None = None
    """A directory, of a disk or a volume; not on Kubernetes."""
    log: LogStore | None = None
    """On Kubernetes: the log service's own object store; elsewhere without effect. Beside another store: the
    one that was used before, from which what is in it is still read. Can't be removed."""
    credentials: Credentials | None = None
    """On Kubernetes: for the store; by default the pods' identity (serviceAccountAnnotations). Without
    Kubernetes they come from the environment."""

    @model_validator(mode="after")
    def _one(self) -> SnapshotStore:
        stores = ("s3", "azure", "gcs", "directory")
        chosen = [name for name in stores if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"name one store, not {' and '.join(chosen)}")
        return self

    @property
    def chosen(self) -> S3Store | AzureStore | GoogleStore | DirectoryStore | None:
        """The store beside the log service that is named; None: none is."""
        return self.s3 or self.azure or self.gcs or self.directory


class Retention(Model):
    """Which snapshots are kept: those that are within ``count`` or within ``age``, and all that you took."""

    count: Annotated[int, Field(ge=1, le=1000)] = 7
    """So many of the newest of each shard are kept: of the schedule's, and of those taken for maxLogReplay;
    the two that the log needs are kept in any case."""
    age: Duration | None = None
    """Those that are younger are kept, like 720h; by default only count decides."""


class Snapshots(Model):
    """Snapshots of every shard: they let the log be trimmed, and a user go back."""

    schedule: Annotated[Text, AfterValidator(_schedule)] | None = None
    """When to take one of all shards together, as cron says it, in UTC. By default only maxLogReplay asks for
    some, each of one shard and with a name of its own: those of several shards can't be restored by name."""
    retention: Retention = Retention()
    """Which snapshots are kept."""
    max_log_replay: Annotated[Quantity, Field(ge=1 << 20, le=1 << 50)] = 256 << 20
    """Bytes that a restart replays from the log at most: beyond them a snapshot is taken, schedule or not.
    A quarter of log.maxBytes is never exceeded."""
    store: SnapshotStore = SnapshotStore()
    """Where they are kept; by default beside the log's data: in a directory, or on Kubernetes in the log
    service's own object store."""
    before_delete: bool = False
    """On Kubernetes: deleting the MemoryCluster stops its engines, takes a last snapshot of every shard, and
    holds the deletion until that is in the store. Whatever deletionPolicy says, the log's volumes stay if it
    can't be taken."""
    before_delete_timeout: Annotated[Duration, Field(ge=60, le=7 * 86400)] = 3600.0
    """For how long at most a deletion is held, 1m to 168h."""
    resources: Resources = Resources()
    """On Kubernetes: of the Jobs that take them, which need memory for a whole shard; by default what the
    engine asks for."""
    service_account_annotations: Annotated[Mapping[str, Text], Field(max_length=16)] = {}
    """On Kubernetes: of the pods' ServiceAccount, by which a cloud gives them an identity."""


class RestoreFrom(Model):
    """What a new cluster begins with. A cluster that is there is never changed by it."""

    snapshot: Text | None = None
    """Name of the snapshot."""
    cluster: Name | None = None
    """The cluster that it was; by default the only one that has a snapshot of that name."""
    time: Moment | None = None
    """Everything up to this moment, as far back as the cluster's log and snapshots reach."""
    store: SnapshotStore = SnapshotStore()
    """Where its snapshots are; by default where this cluster's own are to be."""

    @model_validator(mode="after")
    def _whole(self) -> RestoreFrom:
        if (self.snapshot is None) == (self.time is None):
            raise ValueError("name either a snapshot or a time")
        if self.time is not None and self.cluster is None:
            raise ValueError("name the cluster as well as the time")
        return self
