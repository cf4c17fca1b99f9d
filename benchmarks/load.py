"""Load: Valkey's own benchmark for closed loops, our generator for open ones and for WAITAOF."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

from benchmarks.programs import BenchError, openloop, run
from benchmarks.systems import VALUE, System

KEYS = 100_000
"""Keys that are chosen from, at random."""


@dataclass(frozen=True)
class Closed:
    """What a closed loop came to. Latencies in ms."""

    rate: float
    p50: float
    p99: float


async def benchmark(
    system: System, command: str, *, clients: int, pipeline: int, seconds: float, warmup: int = 1
) -> Closed:
    """Run valkey-benchmark's SET or GET on random keys."""
    arguments = {
        "set": ("SET", "key:__rand_int__", "__data__"),
        "get": ("GET", "key:__rand_int__"),
    }[command]
    output = await run(
        *(system.programs / "valkey-benchmark", "-p", str(system.port), "--csv", "--precision", "3"),
        *("-c", str(clients), "-P", str(pipeline), "-r", str(KEYS), "-d", str(VALUE)),
        *("--duration", str(round(seconds)), "--warmup", str(warmup)),
        *arguments,
    )
    row = list(csv.DictReader(StringIO(output)))[-1]
    return Closed(float(row["rps"]), float(row["p50_latency_ms"]), float(row["p99_latency_ms"]))


async def fill(system: System, commands: int, *, size: int = VALUE, prefix: str = "key:") -> None:
    """Set so many keys, from 0."""
    await run(
        *(system.programs / "valkey-benchmark", "-p", str(system.port), "-q", "-c", "20", "-P", "32"),
        *("-n", str(commands), "-r", str(commands), "--sequential", "-d", str(size)),
        *("SET", f"{prefix}__rand_int__", "__data__"),
        within=600,
    )


@dataclass(frozen=True)
class Flow:
    """One kind of load on connections of its own: an open loop if it has a rate (commands/s), else closed."""

    name: str
    address: str
    command: str
    rate: float = 0
    connections: int = 10
    pipeline: int = 1
    waitaof: bool = False
    prefix: str = "key:"
    keys: int = KEYS
    size: int = VALUE


async def flows(*each: Flow, seconds: float, warmup: float = 1.0) -> list[dict[str, Any]]:
    """Run flows at once; return what each came to, as the load generator says it.

    :raises BenchError: a command failed.
    """
    spec = {"seconds": seconds, "warmup": warmup, "drain": 20, "flows": [asdict(flow) for flow in each]}
    output = await run(await openloop(), stdin=json.dumps(spec), within=seconds + warmup + 60)
    results: list[dict[str, Any]] = json.loads(output)["Flows"]
    for result in results:
        if result["Errors"]:
            raise BenchError(f"{result['Name']}: {result['Errors']} errors: {result['FirstError']}")
    return results
