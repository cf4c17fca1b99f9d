"""What the programs of all Python clients share: what they tell the harness, and what becomes of writes.

A program's last arguments are the cluster's endpoint and a prefix for its keys. It says one JSON object a
line on standard output; a line on standard input says that the harness is done with what it does in a phase.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter

KEYS = 200
TAGS = ("a", "b", "c", "d")
"""Hash tags in both shards."""
ROUNDS = 10
SHARDS = ("{b}", "{a}")
"""Hash tags of slots 3300 and 15495, one in each shard: neither shard's pause is hidden by the other."""
PHASES = ("failover", "kill")
SETTLED = 100
"""Writes without an error after which a phase is over."""
PACE = 0.003
"""Seconds between writes."""
PATIENCE = 60.0
"""Seconds for anything that has to happen."""


def endpoint() -> tuple[str, int]:
    host, _, port = sys.argv[-2].rpartition(":")
    return host, int(port)


def prefix() -> str:
    return sys.argv[-1]


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


class Writes:
    """Writes of keys that are all different, one after the other, and what becomes of them."""

    def __init__(self) -> None:
        self._acknowledged: dict[str, str] = {}
        self._number = 0

    def begin(self, phase: str) -> None:
        self.phase = phase
        self._errors: Counter[str] = Counter()
        self._before = len(self._acknowledged)
        self._longest = 0.0
        self._last = dict.fromkeys(SHARDS, time.monotonic())
        self._in_a_row = 0
        self._done = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()
        tell(writing=phase)

    def _wait(self) -> None:
        sys.stdin.readline()
        self._in_a_row = 0
        self._done.set()

    def over(self) -> bool:
        """Return whether the harness is done, and all has gone well since."""
        if time.monotonic() - min(self._last.values()) > PATIENCE:
            raise TimeoutError(f"no write succeeds any more: {self._errors}")
        if not self._done.is_set() or self._in_a_row < SETTLED:
            return False
        tell(
            written=self.phase,
            acknowledged=len(self._acknowledged) - self._before,
            errors=self._errors,
            pause=self._longest,
        )
        return True

    def next(self) -> tuple[str, str]:
        self._number += 1
        return f"{prefix()}:w:{self._shard}:{self._number}", str(self._number)

    @property
    def _shard(self) -> str:
        return SHARDS[self._number % len(SHARDS)]

    def acknowledge(self, key: str, value: str) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last[self._shard])
        self._last[self._shard] = now
        self._in_a_row += 1
        self._acknowledged[key] = value

    def failed(self, error: BaseException) -> None:
        self._in_a_row = 0
        self._errors[f"{type(error).__name__}: {error}"] += 1

    def acknowledged(self) -> dict[str, str]:
        return self._acknowledged
