"""Facts of the machine that figures depend on."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path

import psutil


def facts(directory: Path) -> dict[str, str]:
    """Return what the machine is, as text; ``directory`` is where the data goes."""
    return {
        "CPU": f"{os.cpu_count()} x {_cpu()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "disk": f"{_filesystem(directory)}; 4 KiB appended, synced: {_fdatasync(directory):.2f} ms (median)",
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(directory: Path) -> str:
    best = max(
        (
            part
            for part in psutil.disk_partitions(all=True)
            if directory.resolve().is_relative_to(part.mountpoint)
        ),
        key=lambda part: len(part.mountpoint),
    )
    return best.fstype


def _fdatasync(directory: Path) -> float:
    took = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return sorted(took)[100] * 1e3


def load() -> str:
    """Return the load averages."""
    return ", ".join(f"{each:.2f}" for each in os.getloadavg())
