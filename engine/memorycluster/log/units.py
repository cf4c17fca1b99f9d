"""Whole units: what of the records that are read may be fed to an engine."""

from __future__ import annotations

from memorycluster.log.chain import Read


class Units:
    """Puts records together into whole units, and leaves out what the engine has."""

    def __init__(self, offset: int) -> None:
        """``offset`` is what the engine has applied."""
        self.fed_from = offset
        self._fed = offset
        self._open: list[bytes] = []

    def add(self, read: Read) -> bytes:
        """Return the bytes to feed after this record."""
        if read.voided:
            self._open.clear()
        if read.record.stream:
            self._open.append(read.record.stream)
        end = read.position.unit_end
        if read.position.open_end != end or not self._open:
            return b""
        data = b"".join(self._open)
        self._open.clear()
        have = self._fed - (end - len(data))
        self._fed = max(self._fed, end)
        return data[max(have, 0) :]
