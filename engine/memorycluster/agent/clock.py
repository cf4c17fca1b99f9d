"""The two clocks that a lease needs."""

from __future__ import annotations

import time
from typing import NamedTuple


class Instant(NamedTuple):
    """One moment on both clocks, in µs."""

    boot: int
    """CLOCK_BOOTTIME: leases run on it, and it goes on while the machine sleeps."""
    real: int
    """CLOCK_REALTIME: shows, by leaving CLOCK_BOOTTIME, that one of them can't be trusted."""

    def drift(self, since: Instant) -> int:
        """Return by how many µs the clocks have moved apart since an earlier instant."""
        return abs((self.real - self.boot) - (since.real - since.boot))


def now() -> Instant:
    """Return the present moment."""
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return Instant(boot // 1000, time.time_ns() // 1000)


def seconds(us: int) -> float:
    """Return µs as seconds."""
    return us / 1_000_000
