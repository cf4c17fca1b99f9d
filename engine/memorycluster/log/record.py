"""Records: the pieces of a shard's replication stream, as stored in its log.

A record is one message of the log: a fixed header (``HEADER``, big-endian) and a payload. Everything
that a reader needs in order to judge a record is inside it, so no implementation of the log has to be
trusted with more than bytes and a sequence.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from functools import lru_cache
from uuid import UUID

from fastcrc import crc64

MAGIC = b"MCR1"
"""Format version: a reader refuses a record that starts with anything else."""

HEADER = struct.Struct(">4sBBHI16sQQQQIQ")
"""magic, kind, flags, 0, engine version, generation, epoch, sequence, nonce, start, length, running CRC."""

CRC = struct.Struct(">Q")
"""CRC-64/XZ of the header and the payload; stands between the two."""

OVERHEAD = HEADER.size + CRC.size
"""Bytes that a record adds to its payload."""

MAX_PAYLOAD = 256 * 1024
"""Bytes of the stream in one record at most; a larger unit goes on in further records."""


class Kind(IntEnum):
    """What a record is."""

    GENESIS = 1
    """The first record of a generation: written once, when the log is made."""
    CLAIM = 2
    """Takes leadership: its epoch is the new one. The payload is the claimant's node id (UTF-8)."""
    DATA = 3
    """A piece of the replication stream."""
    RENEW = 4
    """Renews the lease of its epoch, nothing else. No payload."""
    RELEASE = 5
    """Gives leadership away. The payload is the node id of the wanted successor (UTF-8), or empty for any."""


class Flags(IntFlag):
    """Properties of a DATA record."""

    NONE = 0
    CONTINUES = 1
    """The unit that this record ends in goes on in the next one."""


class InvalidRecord(ValueError):
    """These bytes are not a record: wrong magic, wrong length or wrong CRC."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log."""

    kind: Kind
    generation: UUID
    epoch: int
    sequence: int
    """The sequence of the log at which this record belongs; contiguous, from 1."""
    nonce: int
    """Drawn at random once per writing process, so that no process takes another's record for its own."""
    start: int
    """Replication offset of the byte before the payload (the offset at which it is appended)."""
    running_crc: int
    """CRC-64/XZ of the whole replication stream of this generation up to the end of this record."""
    payload: bytes = field(default=b"", repr=False)
    flags: Flags = Flags.NONE
    engine_version: int = 0
    """The writing engine's version, as Valkey encodes it: 0x00MMmmpp."""

    @property
    def stream(self) -> bytes:
        """The bytes of the replication stream in this record: its payload, if it holds data."""
        return self.payload if self.kind is Kind.DATA else b""

    @property
    def end(self) -> int:
        """Replication offset of the last byte of this record."""
        return self.start + len(self.stream)

    def encode(self) -> bytes:
        """Return the bytes of this record."""
        header = HEADER.pack(
            MAGIC,
            self.kind,
            self.flags,
            0,
            self.engine_version,
            self.generation.bytes,
            self.epoch,
            self.sequence,
            self.nonce,
            self.start,
            len(self.payload),
            self.running_crc,
        )
        return b"".join((header, CRC.pack(extend_crc(extend_crc(0, header), self.payload)), self.payload))

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Return the record in ``data``.

        :raises InvalidRecord: if ``data`` is not exactly one record of this format with a matching CRC.
        """
        if len(data) < OVERHEAD or data[:4] != MAGIC:
            raise InvalidRecord(f"not a record of format {MAGIC.decode()}: {len(data)} bytes, {data[:4]!r}")
        (_, kind, flags, _, version, generation, epoch, sequence, nonce, start, length, running) = (
            HEADER.unpack_from(data)
        )
        payload = data[OVERHEAD:]
        if len(payload) != length:
            raise InvalidRecord(f"payload of {len(payload)} bytes where the header says {length}")
        (crc,) = CRC.unpack_from(data, HEADER.size)
        if extend_crc(extend_crc(0, data[: HEADER.size]), payload) != crc:
            raise InvalidRecord("CRC mismatch")
        try:
            return cls(
                kind=Kind(kind),
                generation=_uuid(generation),
                epoch=epoch,
                sequence=sequence,
                nonce=nonce,
                start=start,
                running_crc=running,
                payload=payload,
                flags=Flags(flags),
                engine_version=version,
            )
        except ValueError as error:
            raise InvalidRecord(str(error)) from error


@lru_cache(maxsize=16)
def _uuid(data: bytes) -> UUID:
    """Return the UUID in ``data``; a reader meets the same one in every record."""
    return UUID(bytes=data)


def extend_crc(crc: int, data: bytes) -> int:
    """Return the CRC-64/XZ of what gave ``crc`` followed by ``data``."""
    return crc64.xz(data, crc)


def replication_id(generation: UUID) -> str:
    """Return the PSYNC replication id of a generation: 40 hexadecimal digits, the same for every follower."""
    return hashlib.sha1(generation.bytes, usedforsecurity=False).hexdigest()
