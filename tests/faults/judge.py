"""The judge of histories: builds the Go checker once and runs it."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

SOURCES = Path(__file__).parent / "checker"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one key's history."""

    key: str
    kind: str
    """linearizability, identity, replica, or undecided."""
    message: str
    detail: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join((f"{self.key}: {self.kind}: {self.message}", *self.detail))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker said of a history."""

    operations: int
    unknown: int
    """Writes of unknown outcome."""
    replica: int
    """Reads of replicas."""
    partitions: int
    seconds: float
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        said = (
            f"{self.operations} operations on {self.partitions} keys, {self.unknown} unknown writes, "
            f"{self.replica} reads of replicas, judged in {self.seconds:.2f} s: "
        )
        if self.ok:
            return said + "linearizable"
        shown = [str(problem) for problem in self.problems[:5]]
        return "\n  ".join((f"{said}{len(self.problems)} PROBLEMS", *shown))


def build() -> Path:
    """Return the checker's executable; built on first use and kept by its sources' hash.

    :raises RuntimeError: if there is no Go, or the build fails.
    """
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    digest = hashlib.sha256(
        b"\0".join(path.name.encode() + path.read_bytes() for path in sources)
    ).hexdigest()
    cache = Path(os.environ.get("MEMORYCLUSTER_CACHE") or user_cache_path("memorycluster")) / "checker"
    binary = cache / f"checker-{digest[:16]}"
    if binary.exists():
        return binary
    go = shutil.which("go")
    if go is None:
        raise RuntimeError("the history checker is written in Go: apt-get install golang-go")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=cache) as work:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.exists():
            return binary
        made = Path(work) / "checker"
        command = [go, "build", "-trimpath", "-buildvcs=false", "-o", str(made), "."]
        done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the history checker does not build:\n{done.stderr}")
        made.rename(binary)
    return binary


async def judge(history: Path, *, limit: float = 60) -> Verdict:
    """Judge a history.

    :param limit: seconds for one key; beyond, that key is a problem of kind "undecided".
    :raises RuntimeError: if the checker can't be built or can't read the history.
    """
    binary = await asyncio.to_thread(build)
    checker = await asyncio.create_subprocess_exec(
        binary,
        "-timeout",
        f"{limit}s",
        history,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await checker.communicate()
    if checker.returncode:
        raise RuntimeError(errors.decode())
    said: dict[str, Any] = json.loads(out)
    problems = tuple(
        Problem(p["key"], p["kind"], p["message"], tuple(p.get("detail", ()))) for p in said.pop("problems")
    )
    return Verdict(**said, problems=problems)
