from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.log.conftest import shard_of
from tests.log.contract import LogContract, Made
from tests.log.servers import Service

from memorycluster.log.interface import Log
from memorycluster.log.nats import NatsLog

MAX_BYTES = 8 << 20


@contextlib.asynccontextmanager
async def made_on(service: Service) -> AsyncIterator[Made]:
    async with contextlib.AsyncExitStack() as stack, shard_of(service, max_bytes=MAX_BYTES) as shard:

        async def open_missing() -> Log:
            log: NatsLog = await stack.enter_async_context(service.log("never-made"))
            return log

        yield Made(shard.client, open_missing, MAX_BYTES)


class TestOneServer(LogContract):
    @pytest.fixture
    async def made(self, one: Service) -> AsyncIterator[Made]:
        async with made_on(one) as made:
            yield made


class TestThreeServers(LogContract):
    @pytest.fixture
    async def made(self, three: Service) -> AsyncIterator[Made]:
        async with made_on(three) as made:
            yield made
