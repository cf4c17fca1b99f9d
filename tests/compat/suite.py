"""Runs units of Valkey's own test suite on an engine, and judges their results by skipped.toml.

Upstream's runner is started once per unit, in a private copy of its `tests/` tree, so that units can run
side by side and one that crashes or hangs takes nothing else with it.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
HOLDING = ("--config", "txlog-enabled", "yes", "--config", "txlog-autoack", "yes")
TOOLS = ("valkey-check-aof", "valkey-check-rdb", "valkey-sentinel")  # the server under other names
TRAITS = ("io-threads", "delay")
MODULE_UNITS = "unit/moduleapi/"
WITHOUT_TESTS = ("integration/aof-race",)
"""Units that assert outside of any test: they end with an error, or have passed."""
_SMALL_BACKLOG = ("--config", "repl-backlog-size", "16384")
_ARGUMENTS = {
    # Upstream allows defragmentation 5 ms at a time; on a busy machine stock Valkey takes 7 to 20 ms too.
    "unit/memefficiency": ("--no-latency", *_SMALL_BACKLOG),
    # These too compute with used_memory, and expect that no replication stream adds to it.
    "unit/maxmemory": _SMALL_BACKLOG,
    "unit/lazyfree": _SMALL_BACKLOG,
}
PORTS_PER_SLOT = 1000

# A unit that shows no progress for this long is stuck: upstream's runner reports it and ends.
STALL_SECONDS = 240
UNIT_SECONDS = 1800

_STATUS = re.compile(r"^\[(ok|err|skip|ignore|exception|TIMEOUT|\d+/\d+ done)\]: (.*)$")
_OK = re.compile(r"^(.*) \(\d+ ms\)$")
_IN_PROGRESS = re.compile(r"\(IN PROGRESS\) (.*)")  # in the report of a stall
_IN_FILE = re.compile(r"^(.*) in tests/\S+?\.tcl\b")


@dataclass(frozen=True)
class Mode:
    """How the engine is run: with holding or as stock Valkey, and with how many I/O threads.

    With holding, what is written commits `delay` ms later; 0: before the next look at the sockets.
    """

    holding: bool = True
    io_threads: int = 1
    delay: int = 0

    def __str__(self) -> str:
        parts = ["holding" if self.holding else "stock"]
        if self.delay:
            parts.append(f"commits after {self.delay} ms")
        if self.io_threads > 1:
            parts.append(f"{self.io_threads} I/O threads")
        return ", ".join(parts)

    def traits(self) -> set[str]:
        """What an entry of skipped.toml may be limited to by `only-with`."""
        present = (self.io_threads > 1, self.delay > 0)
        return {name for name, here in zip(TRAITS, present, strict=True) if here}

    def arguments(self) -> list[str]:
        """The arguments for upstream's runner."""
        arguments = list(HOLDING) if self.holding else []
        if self.holding and self.delay:
            arguments += ["--config", "txlog-autoack-delay", str(self.delay)]
        if self.io_threads > 1:
            # Upstream's flag also marks the tests that cannot run with I/O threads; it starts 2 of them.
            arguments += ["--io-threads", "--config", "io-threads", str(self.io_threads)]
        return arguments


@dataclass(frozen=True)
class Listed:
    """A test (or with no name, a whole unit) that is not run, and why; perhaps only in some modes."""

    unit: str
    test: str | None
    reason: str
    only_with: str | None = None

    def applies(self, unit: str, mode: Mode) -> bool:
        """Whether the entry is about this unit in this mode."""
        return self.unit == unit and (self.only_with is None or self.only_with in mode.traits())


@dataclass(frozen=True)
class Failure:
    """A test that failed, with what upstream's runner printed about it."""

    test: str
    detail: str


@dataclass
class UnitResult:
    """What one run of one unit came to."""

    unit: str
    mode: Mode
    seconds: float = 0.0
    passed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    ignored: int = 0  # left out by upstream itself: tags that do not fit this machine or mode
    failed: list[Failure] = field(default_factory=list)
    log: Path | None = None

    def line(self) -> str:
        """One compact line."""
        return (
            f"{self.unit:<45} {len(self.passed):>4} passed {len(self.skipped):>3} skipped "
            f"{len(self.failed):>3} failed {self.seconds:>5.0f} s"
        )


def load_listed(path: Path = HERE / "skipped.toml") -> list[Listed]:
    """Read the list of what is not run; every entry must have a unit and a reason."""
    entries = []
    for raw in tomllib.loads(path.read_text())["skip"]:
        unknown = raw.keys() - {"unit", "tests", "reason", "only-with"}
        if unknown:
            raise ValueError(f"{path.name}: unknown field {min(unknown)!r} in an entry of {raw.get('unit')}")
        if not raw["reason"].strip():
            raise ValueError(f"{path.name}: an entry of {raw['unit']} has no reason")
        only_with = raw.get("only-with")
        if only_with not in (None, *TRAITS):
            raise ValueError(f"{path.name}: only-with must be one of {', '.join(TRAITS)}")
        for test in raw.get("tests", [None]):
            entries.append(Listed(raw["unit"], test, raw["reason"], only_with))
    return entries


def parse(output: str, result: UnitResult) -> None:
    """Add what upstream's runner printed to `result`."""
    detail: list[str] | None = None  # lines that belong to the failure printed last

    def close() -> None:
        if detail:
            text = "\n".join(detail).rstrip()
            named = _IN_FILE.match(detail[0]) or _IN_PROGRESS.search(text)
            name = named.group(1) if named else f"(outside of a test) {detail[0][:100]}"
            result.failed.append(Failure(name, text))

    for line in output.splitlines():
        # Everything after the summary repeats what was printed before.
        if line.strip() == "The End":
            break
        status = _STATUS.match(line)
        if not status:
            if detail is not None:
                detail.append(line)
            continue
        close()
        detail = None
        word, text = status.groups()
        if word == "ok":
            timed = _OK.match(text)
            result.passed.append(timed.group(1) if timed else text)
        elif word == "skip":
            named = _IN_FILE.match(text)
            result.skipped.append(named.group(1) if named else text)
        elif word == "ignore":
            result.ignored += 1
        elif word in ("err", "exception", "TIMEOUT"):
            detail = [text if word == "err" else f"{word}: {text}"]
    close()


def problems(result: UnitResult, listed: Iterable[Listed]) -> list[str]:
    """What makes this run of a unit a failure: empty if nothing does. The listed tests were not run."""
    found = [f"{failure.test}: {failure.detail}" for failure in result.failed]
    found += [
        f"{entry.test}: listed in skipped.toml, but the unit has no such test: remove it from there"
        for entry in listed
        if entry.test is not None and entry.test not in result.skipped
    ]
    if not result.passed and not result.failed and result.unit not in WITHOUT_TESTS:
        found.append("no test of this unit ran at all: list the unit in skipped.toml with the reason")
    return found


def needless(result: UnitResult, listed: Iterable[Listed]) -> list[str]:
    """Which of the listed tests passed, in a run that left none out."""
    passed, failed = Counter(result.passed), {failure.test for failure in result.failed}
    return [
        entry.test
        for entry in listed
        if entry.test is not None and passed[entry.test] and entry.test not in failed
    ]


class Suite:
    """Upstream's suite and an engine to run it on. Safe to call from several threads.

    `engine` is what `memorycluster.valkey.build` made: the programs, and `source/` with upstream's tests.
    `slots` is how many units may run at the same time; each has its own range of ports from `base_port` on.
    """

    def __init__(self, engine: Path, work: Path, *, slots: int = 2, base_port: int = 26000):
        self._trees: queue.Queue[tuple[int, Path]] = queue.Queue()
        self.logs = work / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.binaries = _with_tools(engine, work / "bin")
        self._template = work / "t"
        _copy_tests(engine / "source", self._template)
        self.units = _units(self._template)
        self._running: set[subprocess.Popen[bytes]] = set()
        for slot in range(slots):
            tree = work / str(slot)
            shutil.copytree(self._template, tree)
            self._trees.put((base_port + slot * PORTS_PER_SLOT, tree))
        self._slots = slots

    def build_modules(self) -> None:
        """Compile upstream's test modules, which the `unit/moduleapi` units load.

        Raises CalledProcessError if that fails.
        """
        jobs = str(os.cpu_count() or 1)
        trees = [self._trees.get() for _ in range(self._slots)]
        modules = self._template / "tests" / "modules"
        subprocess.run(["make", "-s", "-C", modules, "-j", jobs], check=True)
        for slot in trees:
            for module in modules.glob("*.so"):
                shutil.copy2(module, slot[1] / "tests" / "modules")
            self._trees.put(slot)

    def close(self) -> None:
        """End the units that still run, and every server that they have started."""
        for process in list(self._running):
            _kill(process)

    @contextmanager
    def _slot(self) -> Iterator[tuple[int, Path]]:
        slot = self._trees.get()
        try:
            yield slot
        finally:
            self._trees.put(slot)

    def run(self, unit: str, mode: Mode, skip: Iterable[str] = (), extra: Sequence[str] = ()) -> UnitResult:
        """Run one unit without the tests named in `skip`."""
        result = UnitResult(unit, mode)
        with self._slot() as (port, tree):
            command = [
                *("tclsh", "tests/test_helper.tcl", "--single", unit, "--clients", "1", "--durable"),
                *("--baseport", str(port + 50), "--portcount", str(PORTS_PER_SLOT - 50)),
                *("--timeout", str(STALL_SECONDS)),
                *_ARGUMENTS.get(unit, ()),
                *(argument for name in skip for argument in ("--skiptest", name)),
                *mode.arguments(),
                *extra,
            ]
            result.log = self.logs / f"{unit.replace('/', '.')}.{mode.io_threads}.{mode.delay}.log"
            environment = {**os.environ, "TERM": "dumb", "VALKEY_BIN_DIR": str(self.binaries)}
            start = time.monotonic()
            with result.log.open("w") as log:
                process = subprocess.Popen(
                    command,
                    cwd=tree,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process)
                try:
                    status: int | None = process.wait(UNIT_SECONDS)
                except subprocess.TimeoutExpired:
                    status = None
                finally:
                    _kill(process)
                    self._running.discard(process)
            result.seconds = time.monotonic() - start
        output = result.log.read_text(errors="replace")
        parse(output, result)
        if status is None:
            result.failed.append(Failure("(the unit)", f"did not end within {UNIT_SECONDS} s"))
        elif not result.failed and (status != 0 or " done]: " not in output):
            result.failed.append(Failure("(the unit)", f"exit status {status}; {output[-2000:]}"))
        return result


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a unit's process group: the servers that it started are in it too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _with_tools(binaries: Path, directory: Path) -> Path:
    directory.mkdir()
    for name in ("valkey-server", "valkey-cli", "valkey-benchmark"):
        (directory / name).symlink_to(binaries / name)
    for name in TOOLS:
        (directory / name).symlink_to(binaries / "valkey-server")
    return directory


def _copy_tests(source: Path, directory: Path) -> None:
    """Copy what the suite needs of Valkey's source: its tests and the header that modules include."""
    shutil.copytree(
        source / "tests", directory / "tests", ignore=shutil.ignore_patterns("tmp", "*.so", "*.xo")
    )
    (directory / "src").mkdir()
    shutil.copy2(source / "src" / "valkeymodule.h", directory / "src")


def _units(tree: Path) -> list[str]:
    tests = tree / "tests"
    found = []
    for directory in ("unit", "unit/type", "unit/cluster", "unit/moduleapi", "integration"):
        found += [f"{directory}/{path.stem}" for path in sorted((tests / directory).glob("*.tcl"))]
    return found
