"""Records that make a right log."""

from __future__ import annotations

from uuid import UUID

from memorycluster.log.chain import Position, read
from memorycluster.log.record import Flags, Kind, Record, extend_crc
from memorycluster.log.service import genesis


class Writer:
    """Makes the records that follow each other, and knows where their reader stands."""

    def __init__(self, generation: UUID) -> None:
        self.generation = generation
        self.position = Position(generation)
        self.epoch = 0
        self.accept(genesis(generation))

    def accept(self, data: bytes) -> bytes:
        self.position = read(self.position, self.position.sequence + 1, data).position
        return data

    def claim(self, leader: str = "a" * 40, nonce: int = 1) -> bytes:
        at = self.position
        self.epoch = at.epoch + 1
        return self._record(Kind.CLAIM, at.unit_end, at.unit_crc, leader.encode(), nonce=nonce)

    def data(self, payload: bytes, flags: Flags = Flags.NONE, nonce: int = 1) -> bytes:
        at = self.position
        return self._record(
            Kind.DATA, at.open_end, extend_crc(at.open_crc, payload), payload, flags=flags, nonce=nonce
        )

    def renew(self) -> bytes:
        return self._record(Kind.RENEW, self.position.open_end, self.position.open_crc, b"")

    def release(self, successor: str = "") -> bytes:
        at = self.position
        return self._record(Kind.RELEASE, at.open_end, at.open_crc, successor.encode())

    def _record(
        self, kind: Kind, start: int, crc: int, payload: bytes, *, flags: Flags = Flags.NONE, nonce: int = 1
    ) -> bytes:
        sequence = self.position.sequence + 1
        record = Record(kind, self.generation, self.epoch, sequence, nonce, start, crc, payload, flags)
        return record.encode()
