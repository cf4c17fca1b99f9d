"""Log services that many tests share: each test has logs of its own, and leaves the servers whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import pytest
from tests.log.servers import Service, kept_running

from memorycluster.log.nats import NatsLog

MAX_BYTES = 256 << 20


@pytest.fixture(scope="session")
def one_server() -> Iterator[Service]:
    yield from kept_running(1)


@pytest.fixture(scope="session")
def three_servers() -> Iterator[Service]:
    yield from kept_running(3)


@pytest.fixture
async def one(one_server: Service) -> AsyncIterator[Service]:
    yield one_server
    await one_server.restore()


@pytest.fixture
async def three(three_servers: Service) -> AsyncIterator[Service]:
    """A log service of three servers, all of them well."""
    yield three_servers
    await three_servers.restore()


class Shard:
    """A log in a log service, and clients of it."""

    def __init__(self, service: Service, stack: contextlib.AsyncExitStack) -> None:
        self.service = service
        self.stream = f"t{uuid4().hex[:12]}"
        self.generation: UUID = uuid4()
        self._stack = stack

    async def client(self, *servers: str) -> NatsLog:
        """Another client, of these servers only if any are named."""
        return await self._stack.enter_async_context(self.service.log(self.stream, *servers))

    async def leader(self) -> str:
        async with self.service.log(self.stream) as log, asyncio.timeout(40):
            while True:
                for member in (await log.health()).members:
                    if member.leader:
                        return member.name
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def shard_of(service: Service, *, max_bytes: int = MAX_BYTES) -> AsyncIterator[Shard]:
    async with contextlib.AsyncExitStack() as stack:
        shard = Shard(service, stack)
        async with service.service() as admin:
            await admin.create(shard.stream, shard.generation, max_bytes=max_bytes)
        try:
            yield shard
        finally:
            await service.restore()
            await service.delete(shard.stream)


@pytest.fixture
async def shard(three: Service) -> AsyncIterator[Shard]:
    """A log of three members that holds its genesis record."""
    async with shard_of(three) as made:
        yield made
