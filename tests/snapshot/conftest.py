"""One log service and the built engine, for all tests of snapshots."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.log.servers import Service, kept_running
from tests.snapshot.world import World, world_of

from memorycluster.log.interface import SNAPSHOTS_STREAM, LogMissing
from memorycluster.valkey.build import build


@pytest.fixture(scope="session")
def programs() -> Path:
    return asyncio.run(build(lambda _: None))


@pytest.fixture(scope="session")
def one_server() -> Iterator[Service]:
    yield from kept_running(1)


@pytest.fixture(scope="session")
def three_servers() -> Iterator[Service]:
    yield from kept_running(3)


@pytest.fixture
async def three(three_servers: Service) -> AsyncIterator[Service]:
    """A log service of three servers, without snapshots, which all are well again afterwards."""
    yield three_servers
    await three_servers.restore()
    with contextlib.suppress(LogMissing):
        await three_servers.delete(SNAPSHOTS_STREAM)


@pytest.fixture
async def world(one_server: Service, programs: Path) -> AsyncIterator[World]:
    """A log that holds its genesis record, and no snapshots."""
    async with world_of(one_server, programs) as made:
        yield made
