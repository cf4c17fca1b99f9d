"""Histories: what clients asked, when, and what they were told. One monotonic clock, one process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def now() -> int:
    """Nanoseconds of the clock of every history."""
    return time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key (or on one bundle of keys that are always written together)."""

    key: str
    model: str
    op: str
    args: tuple[str, ...]
    result: Any
    known: bool
    """False: the client was not told whether it was applied, and it may be applied at any later time."""
    called: int
    returned: int
    client: int
    node: str
    replica: bool = False

    def line(self) -> str:
        """Return the operation as the checker reads it."""
        return json.dumps(
            {
                "key": self.key,
                "model": self.model,
                "op": self.op,
                "args": self.args,
                "result": self.result,
                "known": self.known,
                "call": self.called,
                "return": self.returned,
                "client": self.client,
                "node": self.node,
                "replica": self.replica,
            }
        )


class History:
    """The operations of one run, by key."""

    def __init__(self) -> None:
        self.by_key: dict[str, list[Operation]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.by_key.values()))

    def record(self, operation: Operation) -> None:
        self.by_key.setdefault(operation.key, []).append(operation)

    def forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.by_key.pop(key, None)

    def save(self, path: Path) -> None:
        """Write the history as JSON lines."""
        with path.open("w") as file:
            for operations in self.by_key.values():
                file.writelines(operation.line() + "\n" for operation in operations)
