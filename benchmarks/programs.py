"""Programs that the benchmarks run: their output, their processes' CPU time, and our load generator."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil
from platformdirs import user_cache_path

OPENLOOP = Path(__file__).parent / "openloop"


class BenchError(Exception):
    """A measurement can't be taken; the text says why."""


async def run(*command: str | Path, stdin: str = "", within: float = 120) -> str:
    """Return what ``command`` prints.

    :raises BenchError: it fails, or does not end within so many seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within):
            output, errors = await process.communicate(stdin.encode() or None)
    except TimeoutError:
        raise BenchError(f"{Path(command[0]).name}: did not end within {within:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = (errors.decode() or output.decode()).strip().splitlines()
        raise BenchError(f"{Path(command[0]).name}: {said[-1] if said else process.returncode}")
    if b"Error from server" in errors + output:
        raise BenchError(f"{Path(command[0]).name}: {(errors + output).decode().strip().splitlines()[-1]}")
    return output.decode()


async def openloop() -> Path:
    """Return the load generator; built on first use and kept by its source's hash."""
    source = [*sorted(OPENLOOP.glob("*.go")), OPENLOOP / "go.mod"]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in source)).hexdigest()[:16]
    cache = Path(os.environ.get("MEMORYCLUSTER_CACHE") or user_cache_path("memorycluster")) / "openloop"
    program = cache / f"openloop-{digest}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise BenchError("the load generator is written in Go: apt-get install golang-go")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        new = cache / f"new-{os.getpid()}"
        await run(go, "build", "-C", OPENLOOP, "-o", new, ".", within=300)
        new.replace(program)
    return program


def cpu(pids: Iterable[int]) -> float:
    """Return the CPU seconds that these processes have used."""
    total = 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        total += times.user + times.system
    return total


def processes_of(directory: Path) -> dict[int, str]:
    """Return the command lines of the processes that name ``directory`` on them, by pid."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if f"{directory}/" in line:
                found[process.pid] = line
    return found


def make_directory(path: Path) -> None:
    """Make a new directory, and those above it."""
    path.mkdir(parents=True)


def kill(pid: int) -> None:
    """Send SIGKILL to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
