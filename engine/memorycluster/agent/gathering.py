"""Group commit: what the engine says while a record is in flight gathers, and is read at once after it."""

from __future__ import annotations

import asyncio

from memorycluster.agent.engine import Channel


class Gathering:
    """Channels whose reading is put off.

    To be woken for each of the engine's event loop's iterations would take more CPU time than all the rest.
    """

    def __init__(self) -> None:
        self._channels: tuple[Channel, ...] = ()
        self._read_at = 0.0

    def begin(self, *channels: Channel) -> None:
        """Read nothing more of ``channels``, until ``take`` or ``end``; no change if it has begun."""
        if not self._channels:
            self._channels, self._read_at = channels, _now()
            for channel in channels:
                channel.put_off()

    def take(self) -> None:
        """Read all that has gathered, and go on gathering."""
        self._read_at = _now()
        for channel in self._channels:
            channel.read_now()

    def end(self) -> None:
        """Read as it arrives."""
        channels, self._channels = self._channels, ()
        for channel in channels:
            channel.read_on()

    def end_after(self, seconds: float) -> None:
        """Read as it arrives if nothing has been read for so long."""
        if self._channels and _now() - self._read_at > seconds:
            self.end()


def _now() -> float:
    return asyncio.get_running_loop().time()
