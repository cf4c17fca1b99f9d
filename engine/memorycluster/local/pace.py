"""How far a restore is, for people: bytes, rate, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from memorycluster.api.units import format_bytes
from memorycluster.snapshot.maker import Progress

MEASURED_FOR = 1.0
"""Seconds of a step before anything is said of its rate."""


class Pace:
    """Follows the steps of one making."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._step = ""
        self._began = 0.0
        self._done_before = 0

    def __call__(self, now: Progress) -> str:
        """Return what there is to say."""
        if now.step != self._step or now.done < self._done_before:
            self._step, self._began, self._done_before = now.step, self._clock(), now.done
        said = f"{now.step} {format_bytes(now.done)}"
        if now.total:
            said += f" of {format_bytes(now.total)}"
        spent = self._clock() - self._began
        rate = (now.done - self._done_before) / spent if spent >= MEASURED_FOR else 0
        if rate:
            said += f", {format_bytes(int(rate))}/s"
            if left := max(now.total - now.done, 0):
                said += f", {timedelta(seconds=round(left / rate))} left"
        return said + (f" ({min(100 * now.done // now.total, 100)}%)" if now.total else "")
