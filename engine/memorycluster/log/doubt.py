"""Patience: pauses between tries, and answers that are believed only when they are repeated."""

from __future__ import annotations

import asyncio
import random
import time

RETRY_FIRST = 0.02
RETRY_LAST = 0.25
"""Seconds between tries: doubled from the first to the last, with jitter."""


MISSING_FOR = 2.0
"""Seconds for which the log service must insist that there is no such log."""

SHORTER_FOR = 15.0
"""Seconds for which the log must insist that it ends before what we know of.

A member that was stopped, or cut off, may believe for up to 10 s after it wakes that it still leads.
"""


class Doubt:
    """What is believed only if it is said again for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def insists(self, error: Exception) -> None:
        """Note that it is said again, and raise ``error`` if that is so for long enough."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > self._seconds:
            raise error

    def forget(self) -> None:
        """Note that it is not so."""
        self._since = None


class Retry:
    """Growing pauses between tries."""

    def __init__(self) -> None:
        self.tries = 0

    async def wait(self) -> None:
        """Pause."""
        pause = min(RETRY_LAST, RETRY_FIRST * 2.0 ** min(self.tries, 10))
        self.tries += 1
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
