"""Holds: while somebody outside of the cluster reads a shard's log, the supervisor does not trim it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memorycluster.local.layout import Layout


@contextmanager
def holding(layout: Layout, shard: int) -> Iterator[None]:
    """Keep the log of ``shard`` from being trimmed meanwhile, and no longer than this process lives."""
    layout.holds.mkdir(mode=0o700, exist_ok=True)
    path = layout.holds / f"{shard}.{os.getpid()}"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _same(path, descriptor):
            break
        os.close(descriptor)  # taken for a stale one before it was locked
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def held(layout: Layout, shard: int) -> bool:
    """Return whether somebody holds the log of ``shard``; what a dead process has left is removed."""
    found = False
    for path in layout.holds.glob(f"{shard}.*"):
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                found = True
            finally:
                os.close(descriptor)
    return found


def _same(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False
