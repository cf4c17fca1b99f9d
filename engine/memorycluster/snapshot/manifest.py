"""The manifest of a snapshot: what it holds, where in which log it belongs, how to tell that it is whole.

A snapshot is an RDB file and its manifest. The manifest is written last, once the stored file has been
verified: a file without a manifest is no snapshot. It vouches for a position of the log, so it is strict: an
unknown field, another format or a flipped bit make it no manifest.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from memorycluster.log.chain import Position
from memorycluster.log.record import Kind, Record

Hex16 = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Hex40 = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Natural = Annotated[int, Field(ge=0, lt=1 << 63)]
Reason = Literal["schedule", "replay", "user"]
"""Why a snapshot was made: the schedule said so, the log needed it, or somebody asked for it."""


class InvalidManifest(ValueError):
    """These bytes are not a snapshot's manifest, or not as they were written."""


class Manifest(BaseModel):
    """What is known of one snapshot of one shard."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    format: Literal[1] = 1
    name: Name
    """The same for all shards of a cluster that are taken together."""
    reason: Reason
    """What a user asked for, retention never deletes."""
    cluster: Name
    shard: Annotated[int, Field(ge=0, lt=1024)]
    slots: tuple[tuple[int, int], ...]
    """Ranges of hash slots, first and last included."""

    generation: UUID
    """Of the log; the fields up to ``running_crc`` are a position of it, at a unit's end."""
    sequence: Annotated[int, Field(ge=1, lt=1 << 63)]
    """Of the last record that it holds."""
    epoch: Natural
    leader: str
    released: bool
    successor: str
    offset: Natural
    """Replication offset of the state."""
    running_crc: Hex16
    log_time: AwareDatetime | None
    """When the log took that record; None: not known."""

    engine_version: str
    size: Annotated[int, Field(ge=1, lt=1 << 63)]
    """Bytes of the RDB file."""
    sha256: Hex64
    """Of the RDB file."""
    digest: Hex40
    """Of the data set; docs/snapshots.md says what it covers."""
    keys: Natural
    expires: Natural
    """Keys with an expiry."""
    functions: Hex64
    """SHA-256 of the function libraries."""
    created_at: AwareDatetime
    origin: Hex64 | None = None
    """Tells what a log that begins with this is restored from, as all of its cluster are; None: its own."""

    @model_validator(mode="after")
    def _sane(self) -> Manifest:
        for first, last in self.slots:
            if not 0 <= first <= last < 16384:
                raise ValueError(f"slots {first}-{last} do not exist")
        if self.sequence == 1 and self.offset:
            raise ValueError("nothing precedes the first record")
        return self

    @property
    def position(self) -> Position:
        """Where a reader of the log stands who holds this snapshot."""
        crc = int(self.running_crc, 16)
        return Position(
            generation=self.generation,
            sequence=self.sequence,
            epoch=self.epoch,
            leader=self.leader,
            released=self.released,
            successor=self.successor,
            unit_end=self.offset,
            unit_crc=crc,
            open_end=self.offset,
            open_crc=crc,
        )

    def contradiction(self, record: Record) -> str:
        """Return how the log's record at ``sequence`` differs from what this says; empty: it does not."""
        fields = {
            "generation": (self.generation, record.generation),
            "epoch": (self.epoch, record.epoch),
            "offset": (self.offset, record.end),
            "running CRC": (self.running_crc, f"{record.running_crc:016x}"),
        }
        differing = [
            f"{name} {ours} (the log has {logs})" for name, (ours, logs) in fields.items() if ours != logs
        ]
        if not differing:
            return self._other_beginning(record)
        return f"snapshot {self.name} is not of this log: record {self.sequence} of {', '.join(differing)}"

    def _other_beginning(self, record: Record) -> str:
        """Return why ``record`` is a log's first one, and that log does not begin with this."""
        # All that a restore has made for a log look alike but for this: one of them is what it begins with.
        if record.kind is not Kind.GENESIS or record.payload in (b"", self.digest.encode()):
            return ""
        begins = record.payload.decode(errors="replace")
        return f"snapshot {self.name} is not what this log begins with (digest {self.digest}, not {begins})"

    @property
    def checksum(self) -> str:
        """Tells it from every other manifest."""
        return _checksum(self._fields())

    def encode(self) -> bytes:
        """Return the bytes of this manifest: JSON, with a checksum of all the rest."""
        fields = self._fields()
        return json.dumps(fields | {"checksum": _checksum(fields)}, indent=2).encode() + b"\n"

    def _fields(self) -> dict[str, Any]:
        """Return what is written: no origin if there is none, as engines of before know no such field."""
        return self.model_dump(mode="json", by_alias=True, exclude=set() if self.origin else {"origin"})

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Return the manifest in ``data``.

        :raises InvalidManifest:
        """
        try:
            fields = json.loads(data)
            if not isinstance(fields, dict):
                raise InvalidManifest("not a map")
            checksum = fields.pop("checksum", None)
            if checksum != _checksum(fields):
                raise InvalidManifest("its checksum does not match")
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "manifest"
            raise InvalidManifest(f"{where}: {first['msg']}") from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, InvalidManifest):
                raise
            raise InvalidManifest(f"not JSON: {error}") from error


def position_fields(position: Position) -> dict[str, Any]:
    """Return the fields of a manifest that say ``position``, which must be a unit's end."""
    if position.open_end != position.unit_end:
        raise ValueError("a unit is open: no snapshot belongs there")
    return {
        "generation": position.generation,
        "sequence": position.sequence,
        "epoch": position.epoch,
        "leader": position.leader,
        "released": position.released,
        "successor": position.successor,
        "offset": position.unit_end,
        "running_crc": f"{position.unit_crc:016x}",
    }


def default_name(cluster: str, now: datetime) -> str:
    """Return the name of a snapshot for which nobody chose one."""
    return f"{cluster}-{now:%Y%m%d-%H%M%S}"


def _checksum(fields: dict[str, object]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
