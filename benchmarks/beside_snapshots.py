"""`python -m benchmarks.beside_snapshots [MEGABYTES] [ROUNDS]`: what clients notice of snapshots.

One primary and a log of three members on this machine, under a load that leaves room. In each round the load
is measured before a snapshot is made, and while it is; what differs between the two halves of the time before
is the noise with which the ratios are to be compared. "Apart" means that the engine and its clients have the
first CPU for themselves, and all else has the last one. What any other work on this machine would do to them
shows a loop that is run instead, at the priority of a snapshot, and touches neither disk nor network.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.figures import Ratio, short
from benchmarks.load import Flow, flows
from benchmarks.machine import facts, load
from benchmarks.programs import processes_of
from benchmarks.snapshots import Bench, fill, running, snapshot
from memorycluster.local.snapshots import NICE
from memorycluster.process import yield_cpu
from memorycluster.valkey.build import build
from valkey import Valkey

MEGABYTES = 30
ROUNDS = 20
GETS, SETS = 5_000, 100
"""A second."""
QUIET = 4
"""Windows before each snapshot."""
WINDOW = 1.0
"""Seconds."""
FIGURES = ("p50", "p99")
LOOP = "for _ in range(60_000_000): pass"
STORES: dict[str, dict[str, Any] | None] = {
    "a loop": None,
    "directory": {},
    "log service": {"store": {"log": {"maxBytes": "4Gi"}}},
}
"""What differs from how a snapshot is made by default; None: none is."""

Window = dict[str, float]
"""Figures of a moment, by what they are of, in ms: latencies, and for how long in a second the engine's main
thread ran, and had to wait for a CPU."""


def place(bench: Bench, *, apart: bool) -> None:
    """Say on which CPUs what runs shall run."""
    both = sorted(os.sched_getaffinity(1))
    engine = engine_of(bench)
    for pid in processes_of(bench.layout.root):
        cpus = both if not apart else both[:1] if pid == engine else both[-1:]
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cpus)


def place_started(*, apart: bool, client: bool) -> None:
    """Say on which CPUs what we start next shall run: a client of the engine, or another process."""
    both = sorted(os.sched_getaffinity(1))
    os.sched_setaffinity(0, both if not apart else both[:1] if client else both[-1:])


@dataclass(frozen=True)
class Round:
    """What was measured before a snapshot, and while it was made."""

    quiet: list[Window]
    busy: list[Window]


def engine_of(bench: Bench) -> int:
    """Return the pid of the primary's engine."""
    with Valkey("127.0.0.1", bench.port) as client:
        return int(dict(client.info("server"))["process_id"])


def scheduled(pid: int) -> tuple[float, float]:
    """Return for how many ms a process's main thread has run, and has waited for a CPU."""
    ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(ran) / 1e6, int(waited) / 1e6


async def window(port: int, engine: int) -> Window:
    """Measure the load for a moment."""
    address = f"127.0.0.1:{port}"
    began, (ran, waited) = time.monotonic(), scheduled(engine)
    results = await flows(
        Flow("GET", address, "get", rate=GETS, connections=4, keys=10_000, prefix="key:"),
        Flow("SET", address, "set", rate=SETS, connections=4, keys=10_000, prefix="set:"),
        seconds=WINDOW,
        warmup=0.0,
    )
    seconds, (ran_then, waited_then) = time.monotonic() - began, scheduled(engine)
    found = {f"{each['Name']} {figure}": float(each[figure]) for each in results for figure in FIGURES}
    found["engine runs"] = (ran_then - ran) / seconds
    found["engine waits for CPU"] = (waited_then - waited) / seconds
    return found


async def loop() -> None:
    """Run for some seconds, as a snapshot would."""
    process = await asyncio.create_subprocess_exec("nice", "-n", "10", sys.executable, "-c", LOOP)
    yield_cpu(process.pid, NICE)
    await process.wait()


async def measure(bench: Bench, megabytes: int, work: Callable[[], Awaitable[Any]], *, apart: bool) -> Round:
    """Write, measure, and measure while the work is done; the snapshot that it makes replaces the others."""
    place_started(apart=apart, client=True)
    await asyncio.to_thread(fill, bench.port, 0, max(megabytes // 10, 1))
    engine = engine_of(bench)
    await window(bench.port, engine)  # what was written settles
    quiet = [await window(bench.port, engine) for _ in range(QUIET)]
    place_started(apart=apart, client=False)
    working = asyncio.ensure_future(work())
    await asyncio.sleep(0.5)  # it is started
    place_started(apart=apart, client=True)
    busy = []
    while not working.done():
        busy.append(await window(bench.port, engine))
    await working
    for older in (await bench.catalogue.all())[1:]:
        await bench.catalogue.delete(older.place)
    return Round(quiet, busy[:-1] or busy)


def middles(windows: Sequence[Window], figure: str) -> float:
    """Return the median of a figure."""
    return median(each[figure] for each in windows)


def row(what: str, figure: str, rounds: Sequence[Round]) -> str:
    """Return a figure's row of the table."""
    before = [middles(each.quiet, figure) for each in rounds]
    meanwhile = [middles(each.busy, figure) for each in rounds]
    noise = Ratio.of(
        [middles(each.quiet[QUIET // 2 :], figure) for each in rounds],
        [middles(each.quiet[: QUIET // 2], figure) for each in rounds],
    )
    return (
        f"| {what} | {figure} | {short(median(before))} | {short(median(meanwhile))} "
        f"| {Ratio.of(meanwhile, before)} | {noise} |"
    )


async def main(megabytes: int, rounds: int) -> None:
    """Run it, and print a table."""
    at_first = load()
    programs = await build(lambda _: None)
    found: dict[str, list[Round]] = {}
    with running(programs, zones=3) as bench:
        await asyncio.to_thread(fill, bench.port, 0, megabytes)
        for (store, difference), apart in itertools.product(STORES.items(), (True, False)):
            there = replace(bench, config={**bench.config, **(difference or {})})
            place(bench, apart=apart)
            work = loop if difference is None else partial(snapshot, there.config, there.work)
            await work()
            case = f"{store}, {'apart' if apart else 'shared'}"
            found[case] = []
            for number in range(rounds):
                found[case].append(await measure(there, megabytes, work, apart=apart))
                windows = len(found[case][-1].busy)
                print(f"{case}: {number + 1} of {rounds}, {windows} windows", file=sys.stderr)
    print(
        f"{rounds} snapshots of {megabytes} MB to each store; {GETS} GET/s and {SETS} SET/s; ms, medians of "
        f"{WINDOW:g} s each. *Noise* is the same ratio between the halves of the time before a snapshot.\n\n"
        "| store, CPUs | | before | meanwhile | ratio | noise |\n|---|---|---:|---:|---:|---:|"
    )
    for case, each in found.items():
        for figure in each[0].quiet[0]:
            print(row(case, figure, each))
    about = facts(Path("/tmp")) | {"load averages before": at_first}
    print("\n" + "\n".join(f"- {name}: {value}" for name, value in about.items()))


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:]]
    asyncio.run(main(*(numbers + [MEGABYTES, ROUNDS][len(numbers) :])))
