"""The one rule by which every reader accepts a record, or calls it corruption.

Pure: all readers that see the same records come to the same position. See docs/architecture.md, *Records*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memorycluster.log.interface import LogCorrupt
from memorycluster.log.record import Flags, InvalidRecord, Kind, Record, extend_crc


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader stands, after the record at ``sequence``."""

    generation: UUID
    sequence: int = 0
    epoch: int = 0
    leader: str = ""
    """Node id of the newest claim; empty before the first one."""
    released: bool = False
    """The newest epoch gave its leadership away; ``successor`` may name who is to take it."""
    successor: str = ""
    unit_end: int = 0
    """Offset of the last whole unit's end: what a follower's engine may apply, and where a claim starts."""
    unit_crc: int = 0
    """Running CRC at ``unit_end``."""
    open_end: int = 0
    """Offset of the last byte read; beyond ``unit_end`` while a unit is open."""
    open_crc: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """What reading one record did."""

    position: Position
    record: Record
    voided: int = 0
    """Bytes of an open unit that this claim has voided; every reader drops them."""
    time: datetime | None = None
    """When the log took it, by the clock of the log's leader; None: not known."""


def read(position: Position, sequence: int, data: bytes) -> Read:
    """Return what the message ``data`` at ``sequence`` does to a reader at ``position``.

    :raises LogCorrupt: if the record can't follow; the reader must stop there.
    """
    try:
        record = Record.decode(data)
    except InvalidRecord as error:
        raise LogCorrupt(f"log record {sequence}: {error}") from error
    return accept(position, sequence, record)


def accept(position: Position, sequence: int, record: Record) -> Read:
    """Return what ``record`` at ``sequence`` does to a reader at ``position``; raises as ``read``."""

    def corrupt(reason: str) -> LogCorrupt:
        return LogCorrupt(f"log record {sequence}: {reason}")

    if sequence != position.sequence + 1:
        raise corrupt(f"gap: expected record {position.sequence + 1}")
    if record.sequence != sequence:
        raise corrupt(f"says that it is record {record.sequence}")
    if record.generation != position.generation:
        raise corrupt(f"of generation {record.generation}, expected {position.generation}")
    if (record.kind is Kind.GENESIS) != (sequence == 1):
        raise corrupt(f"{record.kind.name} is out of place")
    if record.kind is Kind.GENESIS and record.payload:
        raise corrupt("the data before it is in a snapshot, without which nothing can be read")
    if record.epoch < position.epoch:
        # With one append in flight, conditional on the last record, a deposed leader's can't land. It did not
        # know of the claim because the log had lost that, or what the claim stood on.
        raise corrupt(f"of epoch {record.epoch}, after epoch {position.epoch} had been claimed")
    if record.kind is Kind.CLAIM:
        return _claim(position, record, corrupt)
    if record.epoch > position.epoch:
        raise corrupt(f"epoch {record.epoch} was never claimed; the newest claim is {position.epoch}")
    if position.released:
        raise corrupt(f"{record.kind.name} in epoch {record.epoch}, which had been released")
    if record.start != position.open_end:
        raise corrupt(f"starts at offset {record.start}, expected {position.open_end}")
    crc = extend_crc(position.open_crc, record.stream)
    if record.running_crc != crc:
        raise corrupt(f"running CRC {record.running_crc:016x}, expected {crc:016x}")
    release = record.kind is Kind.RELEASE
    whole = record.kind is Kind.DATA and not record.flags & Flags.CONTINUES
    # Not by dataclasses.replace, which takes several times as long: this is done for each record.
    after = Position(
        generation=position.generation,
        sequence=sequence,
        epoch=position.epoch,
        leader=position.leader,
        released=release,
        successor=record.payload.decode() if release else "",
        unit_end=record.end if whole else position.unit_end,
        unit_crc=crc if whole else position.unit_crc,
        open_end=record.end,
        open_crc=crc,
    )
    return Read(after, record)


def _claim(position: Position, record: Record, corrupt: Callable[[str], LogCorrupt]) -> Read:
    if record.epoch == position.epoch:
        raise corrupt(f"second claim of epoch {record.epoch}")
    if record.start != position.unit_end:
        raise corrupt(f"claim starts at offset {record.start}, the last unit ends at {position.unit_end}")
    if record.running_crc != position.unit_crc:
        raise corrupt(f"claim with running CRC {record.running_crc:016x}, expected {position.unit_crc:016x}")
    after = Position(
        generation=position.generation,
        sequence=record.sequence,
        epoch=record.epoch,
        leader=record.payload.decode(),
        unit_end=position.unit_end,
        unit_crc=position.unit_crc,
        open_end=position.unit_end,
        open_crc=position.unit_crc,
    )
    return Read(after, record, voided=position.open_end - position.unit_end)
