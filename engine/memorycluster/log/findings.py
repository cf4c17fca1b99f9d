"""What readers have found wrong with single members' copies of a log: told to who heals them."""

from __future__ import annotations

import time
from dataclasses import dataclass

TOLD_FOR = 30.0
"""Seconds for which a finding is told: long enough to be heard, and over soon after the member is healed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A record that a member lacks, or mangles. It may have been healed since: look there."""

    member: str
    sequence: int
    reason: str


class Findings:
    """The findings about one log, the newest of each member."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, Finding]] = {}

    def add(self, member: str, sequence: int, reason: str) -> None:
        """Note that the copy of ``member`` is wrong at ``sequence``."""
        self._found[member] = time.monotonic(), Finding(member, sequence, reason)

    def recent(self) -> list[Finding]:
        """Return those that are still to be told."""
        since = time.monotonic() - TOLD_FOR
        return [finding for found, finding in self._found.values() if found > since]
