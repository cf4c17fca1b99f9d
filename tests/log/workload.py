"""A writer and readers that run while something breaks, and what must be true of them afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.log.contract import message, read_to_end

from memorycluster.log.nats import NatsLog


@dataclass
class Workload:
    """What has happened so far."""

    size: int
    acked: dict[int, bytes] = field(default_factory=dict)
    seen: list[dict[int, bytes]] = field(default_factory=list)
    confirmed: int = 0
    pauses: list[float] = field(default_factory=list)
    """Seconds between one ack and the next."""

    async def write(self, log: NatsLog) -> None:
        sequence = await log.end()
        last = time.monotonic()
        while True:
            sequence += 1
            data = message(sequence, self.size)
            await log.append(data, sequence=sequence)
            self.acked[sequence] = data
            now = time.monotonic()
            self.pauses.append(now - last)
            last = now

    async def read(self, log: NatsLog, after: int, seen: dict[int, bytes]) -> None:
        async for entry in log.tail(after):
            if entry is None:
                self.confirmed += 1
            else:
                after += 1
                assert entry.sequence == after
                seen[entry.sequence] = entry.data

    async def progress(self, count: int = 50, seconds: float = 40) -> None:
        """Return when ``count`` more appends were acknowledged."""
        wanted = len(self.acked) + count
        async with asyncio.timeout(seconds):
            while len(self.acked) < wanted:
                await asyncio.sleep(0.01)

    async def check(self, log: NatsLog) -> None:
        """All that was acknowledged is there as it was written, and each reader has seen it."""
        held = await read_to_end(log)
        assert self.acked
        lost = [sequence for sequence, data in self.acked.items() if held.get(sequence) != data]
        assert not lost
        async with asyncio.timeout(30):
            for seen in self.seen:
                while max(seen, default=0) < max(self.acked):
                    await asyncio.sleep(0.02)
        for seen in self.seen:
            # At most the append that was cancelled at the end is beyond what was acknowledged.
            assert all(held[sequence] == data for sequence, data in seen.items() if sequence in held)


@contextlib.asynccontextmanager
async def workload(writer: NatsLog, *readers: NatsLog, size: int = 300) -> AsyncIterator[Workload]:
    """Write, and read with each of ``readers``, until the end of the context. Checks everything then."""
    work = Workload(size)
    after = await writer.end()
    tasks = [asyncio.create_task(work.write(writer))]
    for reader in readers:
        work.seen.append({})
        tasks.append(asyncio.create_task(work.read(reader, after, work.seen[-1])))
    try:
        await work.progress(20)
        yield work
        await work.progress(20)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        await work.check(writer)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [
        o for o in outcomes if isinstance(o, BaseException) and not isinstance(o, asyncio.CancelledError)
    ]
    if failures:
        raise failures[0]
