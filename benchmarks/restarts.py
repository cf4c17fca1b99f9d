"""`python -m benchmarks.restarts [--quick]`: how long a shard is gone, as its data and its log grow.

A shard's only engine is killed, and starts from the newest snapshot and from what the log has beyond it.
Writes docs/restarts.md and the plot in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from statistics import median
from textwrap import wrap

from benchmarks.figures import short
from benchmarks.machine import facts, load
from benchmarks.plot import Line, plot
from benchmarks.programs import kill
from benchmarks.snapshots import Bench, fill, running, snapshot
from memorycluster.valkey.build import build
from valkey import Valkey, ValkeyError

DOCS = Path(__file__).parent.parent / "docs"
DATA = (25, 50, 100, 200)
"""MB of data, all of it in the snapshot."""
LOG = (25, 50, 100, 200)
"""MB of log beyond the snapshot, with little data: the same keys are written over and over."""
KEYS = 25
"""MB of the keys that are written over."""
REPEATS = 3

HOW = """
A shard's only engine is killed with SIGKILL; measured until it takes a write again. It starts from the newest
snapshot and from what the log has beyond that, which `maxLogReplay` bounds: so the time follows the data, and
not what was ever written. With replicas one of them takes over instead, and nobody waits for this. Values of
1000 bytes, which do not compress; medians of {repeats}. Made by `python -m benchmarks.restarts`.
"""


def recovery(bench: Bench) -> float:
    """Kill the shard's engine; return the seconds until it takes a write again."""
    with Valkey("127.0.0.1", bench.port) as client:
        engine = int(dict(client.info("server"))["process_id"])
    began = time.monotonic()
    kill(engine)
    while True:
        with (
            contextlib.suppress(ValkeyError, OSError),
            Valkey("127.0.0.1", bench.port, socket_timeout=60) as client,
        ):
            client.set("recovered", "1")
            return time.monotonic() - began
        time.sleep(0.01)


async def with_data(programs: Path, sizes: tuple[int, ...]) -> dict[int, list[float]]:
    """Return the seconds for each size of data; the log has nothing beyond the snapshot."""
    found: dict[int, list[float]] = {}
    with running(programs) as bench:
        there = 0
        for size in sizes:
            await asyncio.to_thread(fill, bench.port, there * 1000, size - there)
            there = size
            await snapshot(bench.config, bench.work)
            found[size] = [await asyncio.to_thread(recovery, bench) for _ in range(REPEATS)]
            print(f"{size} MB of data: {found[size]}", flush=True)
    return found


async def with_log(programs: Path, sizes: tuple[int, ...]) -> dict[int, list[float]]:
    """Return the seconds for each length of the log beyond the snapshot, of little data."""
    found: dict[int, list[float]] = {}
    with running(programs) as bench:
        await asyncio.to_thread(fill, bench.port, 0, KEYS)
        await snapshot(bench.config, bench.work)
        there = 0
        for size in sizes:
            while there < size:
                await asyncio.to_thread(fill, bench.port, 0, KEYS)
                there += KEYS
            found[size] = [await asyncio.to_thread(recovery, bench) for _ in range(REPEATS)]
            print(f"{size} MB of log: {found[size]}", flush=True)
    return found


def page(data: dict[int, list[float]], log: dict[int, list[float]], about: dict[str, str]) -> str:
    """Return the text of docs/restarts.md."""

    def table(what: str, rows: dict[int, list[float]]) -> list[str]:
        return [
            f"| {what}, MB | seconds | least to most |",
            "|---:|---:|---:|",
            *(
                f"| {size} | **{short(median(times))}** | {short(min(times))} to {short(max(times))} |"
                for size, times in rows.items()
            ),
            "",
        ]

    return "\n".join(
        [
            "# How long a restart takes",
            "",
            *wrap(HOW.format(repeats=REPEATS).strip(), 110),
            "",
            "![Seconds without a primary, by MB of data and by MB of log](restarts.svg)",
            "",
            *table("data in the snapshot", data),
            *table(f"log beyond the snapshot, of {KEYS} MB of data", log),
            *(f"- {name}: {value}" for name, value in about.items()),
            "",
        ]
    )


async def main(quick: bool) -> None:
    """Measure, and write what came out; a quick run writes nothing."""
    programs = await build(lambda _: None)
    about = facts(Path("/tmp")) | {"load averages before": load()}
    data = await with_data(programs, DATA[:2] if quick else DATA)
    log = await with_log(programs, LOG[:2] if quick else LOG)
    text = page(data, log, about)
    print(text)
    if quick:
        return
    lines = [
        Line(name, [(size, median(times), min(times), max(times)) for size, times in found.items()])
        for name, found in (("data, all in the snapshot", data), ("log beyond the snapshot", log))
    ]
    title = "From SIGKILL of a shard's only engine to the first write"
    (DOCS / "restarts.svg").write_text(plot(title, "MB", "seconds", lines))
    (DOCS / "restarts.md").write_text(text)


if __name__ == "__main__":
    asyncio.run(main("--quick" in sys.argv))
