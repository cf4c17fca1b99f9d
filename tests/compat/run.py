"""Valkey's own test suite on this engine: `python -m tests.compat.run --help`.

Fails on any failure that is not listed in skipped.toml, and on any entry there that names no test.
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.compat.suite import MODULE_UNITS, Listed, Mode, Suite, UnitResult, load_listed, needless, problems

from memorycluster.valkey.build import Variant, build


def main() -> int:
    """Run what the command line asks for; 0 if nothing unexpected happened, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat.run", description=__doc__)
    add = parser.add_argument
    add(
        "--unit",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only these, e.g. 'unit/type/*'; repeatable",
    )
    add("--io-threads", type=int, default=1, metavar="N", help="I/O threads of the engine (default 1)")
    add("--delay", type=int, default=0, metavar="MS", help="commit writes so much later (default 0)")
    add("--all", action="store_true", help="run listed tests too, and report those that pass")
    add("--stock", action="store_true", help="run stock Valkey, with nothing left out: the baseline")
    add("--jobs", type=int, default=2, help="units to run at the same time (default 2)")
    add("--base-port", type=int, default=26000, help="first port to use (default 26000)")
    add("--engine", type=Path, metavar="DIR", help="use the engine built in DIR")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    mode = Mode(holding=not options.stock, io_threads=options.io_threads, delay=options.delay)
    listed = [] if options.stock else load_listed()
    variant = Variant.STOCK if options.stock else Variant.DURABLE
    engine = options.engine or asyncio.run(build(_progress, variant=variant))
    work = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))  # short: paths of unix sockets are limited
    suite = Suite(engine, work, slots=options.jobs, base_port=options.base_port)
    unknown = sorted({entry.unit for entry in listed} - set(suite.units))
    wrong = [f"{unit}: listed in skipped.toml, but there is no such unit" for unit in unknown]
    patterns = options.unit or ["*"]
    units = [unit for unit in suite.units if any(fnmatch.fnmatchcase(unit, pattern) for pattern in patterns)]
    if not units:
        parser.error("no unit matches")
    if any(unit.startswith(MODULE_UNITS) for unit in units):
        _progress("compiling the suite's test modules")
        suite.build_modules()
    wrong += _run(suite, units, mode, listed, jobs=options.jobs, everything=options.all)
    if wrong:
        print(f"\n{len(wrong)} problems ({mode}; logs in {suite.logs}):")
        print("\n".join(f"- {problem}" for problem in wrong))
        return 1
    shutil.rmtree(work)
    return 0


def _run(
    suite: Suite, units: list[str], mode: Mode, listed: list[Listed], *, jobs: int, everything: bool
) -> list[str]:
    wrong: list[str] = []
    results: list[UnitResult] = []
    start = time.monotonic()
    executor = ThreadPoolExecutor(jobs)
    try:
        running = {}
        for unit in units:
            entries = [entry for entry in listed if entry.applies(unit, mode)]
            if any(entry.test is None for entry in entries) and not everything:
                print(f"{unit:<45} not run: {entries[0].reason}")
                continue
            names = [] if everything else [entry.test for entry in entries if entry.test]
            running[executor.submit(suite.run, unit, mode, names)] = entries
        for future in as_completed(running):
            result, entries = future.result(), running[future]
            results.append(result)
            print(result.line(), flush=True)
            if everything:
                whole = any(entry.test is None for entry in entries)
                expected = {entry.test for entry in entries}
                for failure in result.failed:
                    known = whole or failure.test in expected
                    print(f"    {'listed' if known else 'FAILED'}: {failure.test}", flush=True)
                    if not known:
                        wrong.append(f"{result.unit}: {failure.test}: {failure.detail}")
                for name in needless(result, entries):
                    print(f"    listed, but passes: {name}", flush=True)
            else:
                wrong += [f"{result.unit}: {problem}" for problem in problems(result, entries)]
                for failure in result.failed:
                    print(f"    FAILED: {failure.test}", flush=True)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        suite.close()
    passed, skipped, failed = (
        sum(len(getattr(result, kind)) for result in results) for kind in ("passed", "skipped", "failed")
    )
    print(
        f"\n{mode}: {len(results)} units, {passed} tests passed, {skipped} skipped, {failed} failed, "
        f"{time.monotonic() - start:.0f} s"
    )
    return wrong


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
