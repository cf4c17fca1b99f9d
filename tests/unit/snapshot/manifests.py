"""Manifests for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from memorycluster.snapshot.manifest import Manifest

GENERATION = UUID(int=5)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def manifest(sequence: int = 10, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "orders-1",
        "reason": "schedule",
        "cluster": "orders",
        "shard": 0,
        "slots": ((0, 16383),),
        "generation": GENERATION,
        "sequence": sequence,
        "epoch": 2,
        "leader": "orders-0-1",
        "released": False,
        "successor": "",
        "offset": sequence * 100,
        "running_crc": "00000000000000ff",
        "log_time": NOW,
        "engine_version": "9.1.2",
        "size": 1000,
        "sha256": "a" * 64,
        "digest": "b" * 40,
        "keys": 3,
        "expires": 1,
        "functions": "c" * 64,
        "created_at": NOW + timedelta(seconds=min(sequence, 10**6)),
    }
    return Manifest(**(fields | changes))
