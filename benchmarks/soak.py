"""`python -m benchmarks.soak [MEGABYTES]`: writes through a small key space; log and restarts stay small.

A log that is full refuses writes until a snapshot lets it be trimmed: that is counted, and they are tried
again. Fails if the log outgrows its limit, or if keys are missing at the end.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

from benchmarks.figures import short
from benchmarks.restarts import recovery
from benchmarks.snapshots import PROGRAM, Bench, fill, running
from memorycluster.valkey.build import build
from valkey import ResponseError, Valkey

KEYS = 20
"""MB of keys."""
REPLAY = 32
"""MiB of maxLogReplay."""
LOG = 512
"""MiB of log.maxBytes."""
LOOK, LOG_LOOK = 500, 100
"""MB between two restarts, and between two looks at the log."""


def log_megabytes(bench: Bench) -> float:
    """Return how much the log holds."""
    command = [*PROGRAM, "status", "--data-dir", str(bench.layout.root), "-o", "json"]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return float(said["status"]["shards"][0]["log"]["bytes"]) / 1e6


def write(bench: Bench) -> int:
    """Write all keys once; return how often the log was full, and it had to wait for a snapshot."""
    refused = 0
    while True:
        try:
            fill(bench.port, 0, KEYS)
            return refused
        except ResponseError as error:
            if "TXLOGFULL" not in str(error):
                raise
            refused += 1
            time.sleep(1)


def soak(bench: Bench, megabytes: int) -> None:
    """Write so much, and look at it now and then."""
    written, refused, most, restarts = 0, 0, 0.0, list[float]()
    began = time.monotonic()
    while written < megabytes:
        for _ in range(LOOK // LOG_LOOK):
            for _ in range(LOG_LOOK // KEYS):
                refused += write(bench)
                written += KEYS
            most = max(most, log_megabytes(bench))
        restarts.append(recovery(bench))
        rate = written / (time.monotonic() - began)
        print(
            f"{written} MB written ({rate:.0f} MB/s), log {log_megabytes(bench):.0f} MB, "
            f"at most {most:.0f}; restart {short(restarts[-1])} s; refused {refused} times",
            flush=True,
        )
    with Valkey("127.0.0.1", bench.port) as client:
        assert client.dbsize() == KEYS * 1000 + 1, client.dbsize()
    assert most * 1e6 < LOG << 20
    third = max(len(restarts) // 3, 1)
    print(
        f"restarts: the first third at most {short(max(restarts[:third]))} s, "
        f"the last {short(max(restarts[-third:]))} s; log at most {most:.0f} MB of {written} written"
    )


async def main(megabytes: int) -> None:
    """Run it."""
    programs = await build(lambda _: None)
    with running(programs, max_bytes=f"{LOG}Mi", max_log_replay=f"{REPLAY}Mi") as bench:
        await asyncio.to_thread(soak, bench, megabytes)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
