"""Engines for the tests: one process each, on loopback, ended with the test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engine.agent import Engine, engines

from memorycluster.valkey.build import Variant, build


def _programs(variant: Variant) -> Path:
    given = os.environ.get("MEMORYCLUSTER_TEST_PROGRAMS")  # of an engine that is being worked on
    if given and variant is Variant.DURABLE:
        return Path(given)
    return asyncio.run(build(print, variant=variant))


@pytest.fixture(scope="session")
def programs() -> Path:
    return _programs(Variant.DURABLE)


@pytest.fixture(scope="session")
def stock_programs() -> Path:
    return _programs(Variant.STOCK)


@pytest.fixture
async def follower(programs: Path) -> AsyncIterator[Engine]:
    """An engine that has just booted; nobody has promoted it."""
    async with engines(programs) as ((engine,),):
        await engine.start()
        await engine.attach()
        yield engine


@pytest.fixture
async def engine(programs: Path) -> AsyncIterator[Engine]:
    """A leader with a long lease, whose agent commits at once."""
    async with engines(programs) as ((engine,),):
        await engine.start()
        await engine.lead()
        yield engine


@pytest.fixture(params=[1, 3], ids=["io1", "io3"])
async def any_io(programs: Path, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """``engine``, without and with I/O threads."""
    async with engines(programs) as ((engine,),):
        await engine.start(io_threads=str(request.param))
        await engine.lead()
        yield engine
