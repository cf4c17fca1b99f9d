"""The short form of Valkey's own suite on this engine: one test per unit, two units at a time.

`python -m tests.compat.run` runs all of it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from tests.compat.suite import (
    HERE,
    MODULE_UNITS,
    UNIT_SECONDS,
    Mode,
    Suite,
    UnitResult,
    load_listed,
    problems,
)

from memorycluster.valkey.build import build

Case = tuple[str, Mode]

LISTED = load_listed()
MODES = {"plain": Mode(), "delay": Mode(delay=1), "io-threads": Mode(io_threads=2)}
SHORT = tomllib.loads((HERE / "short.toml").read_text())
CASES: list[Case] = [(unit, mode) for name, mode in MODES.items() for unit in SHORT[name]]


def _case_id(case: Case) -> str:
    unit, mode = case
    return "+".join([unit, *sorted(mode.traits())])


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    work = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))  # short: paths of unix sockets are limited
    prepared = Suite(asyncio.run(build(print)), work)
    try:
        yield prepared
    finally:
        prepared.close()
        shutil.rmtree(work)


@pytest.fixture(scope="module")
def result_of(suite: Suite, request: pytest.FixtureRequest) -> Iterator[Callable[[Case], UnitResult]]:
    """Start every selected unit, two at a time; each test then waits for its own."""
    selected = [
        cast(Case, item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test_unit.__name__
    ]
    if any(unit.startswith(MODULE_UNITS) for unit, _ in selected):
        suite.build_modules()
    executor = ThreadPoolExecutor(2)
    running: dict[Case, Future[UnitResult]] = {}
    for unit, mode in selected:
        names = [entry.test for entry in LISTED if entry.applies(unit, mode) and entry.test]
        running[unit, mode] = executor.submit(suite.run, unit, mode, names)
    yield lambda case: running[case].result()
    executor.shutdown(wait=False, cancel_futures=True)


@pytest.mark.timeout(UNIT_SECONDS)
@pytest.mark.parametrize("case", CASES, ids=_case_id)
def test_unit(case: Case, result_of: Callable[[Case], UnitResult]) -> None:
    result = result_of(case)
    print(result.line())
    wrong = problems(result, [entry for entry in LISTED if entry.applies(*case)])
    assert not wrong, "\n".join(wrong)


def test_every_listed_unit_exists(suite: Suite) -> None:
    assert {entry.unit for entry in LISTED} <= set(suite.units)


def test_a_failing_test_is_found(suite: Suite) -> None:
    """Upstream's suite has a test that always fails, made for this."""
    result = suite.run("unit/other", Mode(), extra=["--force-failure", "--only", "Failing test"])
    assert [failure.test for failure in result.failed] == ["Failing test"]
    assert problems(result, [])


def test_an_engine_that_does_not_start_is_found(suite: Suite) -> None:
    result = suite.run("unit/quit", Mode(), extra=["--config", "no-such-parameter", "1"])
    assert problems(result, [])
