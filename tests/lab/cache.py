"""Where the lab keeps what takes long to make: outside the tree, each thing named by what goes into it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memorycluster.valkey.build import cache_directory

PRUNE_AFTER = 14 * 24 * 3600
"""Seconds after which a thing that nobody asked for any more is removed."""


def directory() -> Path:
    """Return the lab's part of the cache."""
    path = cache_directory() / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(*parts: str | bytes | Path) -> str:
    """Return a short digest of ``parts``; a Path stands for its content, a directory for all of its files."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(_content(part).encode())
        else:
            digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _content(path: Path) -> str:
    if path.is_file():
        return f"{path.name} {os.access(path, os.X_OK)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
    return "\n".join(f"{file.relative_to(path)} {_content(file)}" for file in files)


def made(name: str, digest: str, make: Callable[[Path], None]) -> Path:
    """Return the directory ``name-digest``, after ``make`` has filled it if it is not there yet."""
    target = directory() / f"{name}-{digest}"
    with lock(name):
        if target.is_dir():
            os.utime(target)
            return target
        work = directory() / f"{name}-{digest}.making"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        make(work)
        work.rename(target)
        for other in directory().glob(f"{name}-{'[0-9a-f]' * 16}"):
            if other != target and time.time() - other.stat().st_mtime > PRUNE_AFTER:
                shutil.rmtree(other, ignore_errors=True)
    return target


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Let one process of this machine at a time in, for each name."""
    with (directory() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    """Tell a human what takes long."""
    print(f"lab: {time.strftime('%T')} {text}", file=sys.stderr, flush=True)
