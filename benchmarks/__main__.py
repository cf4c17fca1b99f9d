"""`python -m benchmarks`: measure, in one run, what durability costs against stock Valkey."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks import machine, reads, writes
from benchmarks.figures import Section
from benchmarks.programs import BenchError, openloop
from benchmarks.recovery import recovery
from benchmarks.report import README, Report, show
from benchmarks.systems import Durable, System, durable, stock, waitaof
from memorycluster.valkey.build import Variant, build


@dataclass
class Effort:
    """How long to measure."""

    rounds: int
    seconds: float
    megabytes: int
    repeats: int
    clients: tuple[int, ...] = (50, 500)


QUICK = Effort(rounds=1, seconds=1, megabytes=10, repeats=1, clients=(50,))
FULL = Effort(rounds=5, seconds=3, megabytes=150, repeats=3)


@dataclass
class Systems:
    """All that runs side by side."""

    durable: Durable
    stock: System
    always: System
    waits: list[System]


Measure = Callable[[Systems, Effort], Awaitable[Section]]

SECTIONS: dict[str, Measure] = {
    "get": lambda s, e: reads.get_without_writes(s.durable, s.stock, rounds=e.rounds, seconds=e.seconds),
    "mixed": lambda s, e: reads.clean_reads_under_writes(
        s.durable, s.stock, rounds=e.rounds, seconds=e.seconds
    ),
    "set": lambda s, e: writes.set_throughput(
        *(s.durable, s.stock, s.always, s.waits),
        clients=e.clients,
        rounds=max(1, e.rounds - 2),
        seconds=e.seconds,
    ),
    "single": lambda s, e: writes.single_client(s.durable, rounds=e.rounds, seconds=e.seconds),
    "open": lambda s, e: writes.open_loop(
        *(s.durable, (s.stock, s.always)),
        rates=(1_000, 10_000, 50_000),
        rounds=max(1, e.rounds - 2),
        seconds=e.seconds,
    ),
    "cpu": lambda s, e: writes.cpu_shares(s.durable, rounds=max(1, e.rounds - 2), seconds=e.seconds),
}
"""What is measured on the running systems. "recovery" makes its own."""

NAMES = [*SECTIONS, "recovery"]


@contextlib.asynccontextmanager
async def running(ours: Path, theirs: Path, root: Path, io_threads: int) -> AsyncIterator[Systems]:
    async with contextlib.AsyncExitStack() as stack:
        yield Systems(
            await stack.enter_async_context(durable(ours, root / "d", io_threads=io_threads)),
            await stack.enter_async_context(stock(theirs, root / "s", "stock", io_threads=io_threads)),
            await stack.enter_async_context(
                stock(
                    *(theirs, root / "a", "AOF always", "--appendonly", "yes", "--appendfsync", "always"),
                    io_threads=io_threads,
                )
            ),
            [
                await stack.enter_async_context(waitaof(theirs, root / fsync, fsync, io_threads=io_threads))
                for fsync in ("always", "everysec")
            ],
        )


async def measure(options: argparse.Namespace, console: Console) -> Report:
    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # Leave no servers behind.
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = replace(effort, rounds=options.rounds)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/]  {text}", highlight=False)

    def progress(line: str) -> None:
        console.print(f"         {line}", highlight=False, markup=False)

    ours, theirs = await build(progress), await build(progress, variant=Variant.STOCK)
    await openloop()
    root = Path(tempfile.mkdtemp(prefix="mcb-", dir=options.directory))
    report = Report(
        {
            "command": f"`python -m benchmarks {' '.join(sys.argv[1:])}`".replace(" `", "`"),
            "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; load averages before: {machine.load()}",
            **machine.facts(root),
            "engines": f"Valkey 9.1.2 and ours, built with the same flags; io-threads {options.io_threads}",
            "effort": f"{effort.rounds} rounds of {effort.seconds:g} s per point, systems in turn",
        }
    )

    async def attempt(name: str, section: Awaitable[Section]) -> None:
        say(name)
        try:
            found = await section
        except (BenchError, OSError, TimeoutError, AssertionError) as error:
            report.failures[name] = str(error) or type(error).__name__
            console.print(f"         [red]not measured:[/] {report.failures[name]}")
        else:
            report.sections.append(found)
            show(console, found)

    try:
        wanted = [name for name in SECTIONS if name in options.only]
        if wanted:
            say("starting: one durable cluster, stock, AOF always, two pairs for WAITAOF")
            async with running(ours, theirs, root, options.io_threads) as systems:
                say("running")
                for name in wanted:
                    await attempt(name, SECTIONS[name](systems, effort))
        if "recovery" in options.only:
            await attempt(
                "recovery", recovery(ours, root, megabytes=effort.megabytes, repeats=effort.repeats)
            )
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)
    say("done")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short round: does it work? No figures to quote"
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="SECTION", help=", ".join(NAMES)
    )
    parser.add_argument("--rounds", type=int, help=f"(default {FULL.rounds})")
    parser.add_argument("--io-threads", type=int, default=1, help="of every engine (default 1)")
    parser.add_argument(
        "--write", action="store_true", help=f"put the results into {README.parent.name}/{README.name}"
    )
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="where the data goes, on a real disk"
    )
    parser.add_argument("--keep", action="store_true", help="keep the data and the output of the servers")
    options = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    try:
        report = uvloop.run(measure(options, console))
    except BenchError as error:
        console.print(f"[red]error:[/] {error}")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    if options.json:
        report.write_json(options.json)
    if options.write:
        report.write()
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
