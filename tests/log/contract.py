"""What every implementation of ``Log`` must do. Subclass ``LogContract`` and provide the fixture ``made``."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from memorycluster.log.interface import Log, LogConflict, LogFull, LogMissing, LogTrimmed
from memorycluster.log.record import MAX_PAYLOAD, OVERHEAD

LARGEST = MAX_PAYLOAD + OVERHEAD


@dataclass
class Made:
    """A log, made for one test: it holds message 1, and nothing else."""

    open: Callable[[], Awaitable[Log]]
    """Return another client of it; closed by the fixture."""
    open_missing: Callable[[], Awaitable[Log]]
    """Return a client of a log that was never made."""
    max_bytes: int
    """Its size limit, at most 8 MiB."""


def message(sequence: int, size: int = 32) -> bytes:
    """A message that can be told from every other one."""
    return (sequence.to_bytes(8, "big") + os.urandom(8)).ljust(size, b"x")


async def fill(log: Log, first: int, last: int, size: int = 32) -> dict[int, bytes]:
    written = {}
    for sequence in range(first, last + 1):
        written[sequence] = message(sequence, size)
        await log.append(written[sequence], sequence=sequence)
    return written


async def read_to_end(log: Log, after: int = 0) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    async with contextlib.aclosing(log.tail(after)) as entries, asyncio.timeout(30):
        async for entry in entries:
            if entry is None:
                return found
            assert entry.sequence == after + len(found) + 1
            found[entry.sequence] = entry.data
    raise AssertionError("the tail ended")


async def is_trimmed(read: Callable[[], Awaitable[object]]) -> None:
    """It comes to be trimmed on every member; one that has not heard of it yet may still serve it."""
    async with asyncio.timeout(30):
        while True:
            try:
                await read()
            except LogTrimmed:
                return


class LogContract:
    """The contract."""

    async def test_what_is_appended_is_read(self, made: Made) -> None:
        log = await made.open()
        written = await fill(log, 2, 50)
        assert await log.end() == 50
        for reader in (log, await made.open()):
            assert await reader.get(7) == written[7]
            assert {k: v for k, v in (await read_to_end(reader)).items() if k > 1} == written
            assert await read_to_end(reader, 48) == {49: written[49], 50: written[50]}
            assert await read_to_end(reader, 50) == {}

    async def test_beyond_the_end_there_is_nothing(self, made: Made) -> None:
        log = await made.open()
        assert await log.end() == 1
        assert await log.get(2) is None
        assert await log.get(1_000_000) is None

    @pytest.mark.parametrize("size", [16, 1000, LARGEST])
    async def test_messages_of_every_size(self, made: Made, size: int) -> None:
        log = await made.open()
        written = await fill(log, 2, 6, size)
        assert await read_to_end(log, 1) == written
        assert [await log.get(sequence) for sequence in written] == list(written.values())

    async def test_every_byte_is_kept(self, made: Made) -> None:
        log = await made.open()
        data = bytes(range(256)) + b"\r\n\r\nMSG PUB +OK -ERR\r\n"
        await log.append(data, sequence=2)
        assert await log.get(2) == data
        assert await read_to_end(log, 1) == {2: data}

    async def test_an_append_to_a_taken_place_is_refused(self, made: Made) -> None:
        log, other = await made.open(), await made.open()
        theirs = message(2)
        await other.append(theirs, sequence=2)
        with pytest.raises(LogConflict):
            await log.append(message(2), sequence=2)
        assert await log.get(2) == theirs
        assert await log.end() == 2
        await log.append(message(3), sequence=3)

    async def test_an_append_that_is_repeated_succeeds_and_is_there_once(self, made: Made) -> None:
        log, other = await made.open(), await made.open()
        data = message(2)
        for again in (log, log, other):
            await again.append(data, sequence=2)
        assert await log.end() == 2
        await log.append(message(3), sequence=3)
        await other.append(data, sequence=2)  # also when the log has gone on
        assert await log.end() == 3

    async def test_of_many_writers_one_wins_each_place(self, made: Made) -> None:
        logs = [await made.open() for _ in range(3)]
        for sequence in range(2, 42):
            offers = [message(sequence) for _ in logs]
            outcomes = await asyncio.gather(
                *(log.append(data, sequence=sequence) for log, data in zip(logs, offers, strict=True)),
                return_exceptions=True,
            )
            won = [data for data, outcome in zip(offers, outcomes, strict=True) if outcome is None]
            assert len(won) == 1
            assert all(outcome is None or isinstance(outcome, LogConflict) for outcome in outcomes)
            assert await logs[0].get(sequence) == won[0]

    async def test_a_cancelled_append_leaves_the_client_usable(self, made: Made) -> None:
        log = await made.open()
        sequence = 2
        for delay in (0, 0, 0.0002, 0.0005, 0.001, 0.002, 0.005):
            data = message(sequence)
            task = asyncio.create_task(log.append(data, sequence=sequence))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            # It may have been appended, now or a little later; repeating it decides.
            await log.append(data, sequence=sequence)
            assert await log.get(sequence) == data
            sequence += 1

    async def test_one_append_at_a_time(self, made: Made) -> None:
        log = await made.open()
        first = asyncio.create_task(log.append(message(2), sequence=2))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await log.append(message(3), sequence=3)
        await first

    async def test_the_tail_follows_a_concurrent_writer(self, made: Made) -> None:
        log, first, second = [await made.open() for _ in range(3)]

        async def read(reader: Log, after: int) -> dict[int, bytes]:
            found: dict[int, bytes] = {}
            async with contextlib.aclosing(reader.tail(after)) as entries:
                async for entry in entries:
                    if entry is not None:
                        assert entry.sequence == after + len(found) + 1
                        found[entry.sequence] = entry.data
                        if entry.sequence == 400:
                            break
            return found

        readers = [asyncio.create_task(read(first, 0)), asyncio.create_task(read(second, 1))]
        written = await fill(log, 2, 400, 500)
        async with asyncio.timeout(30):
            whole, part = await asyncio.gather(*readers)
        assert part == written
        assert {k: v for k, v in whole.items() if k > 1} == written

    async def test_the_end_is_confirmed_while_idle_and_under_load(self, made: Made) -> None:
        log, reader = await made.open(), await made.open()
        confirmed = last = 0

        async def read() -> None:
            nonlocal confirmed, last
            async for entry in reader.tail(0):
                if entry is None:
                    confirmed += 1
                else:
                    last = entry.sequence

        task = asyncio.create_task(read())
        try:
            await _until(lambda: confirmed >= 3)  # idle
            sequence = await log.end()
            enough = confirmed + 3
            async with asyncio.timeout(30):
                while confirmed < enough:  # never idle
                    sequence += 1
                    await log.append(message(sequence), sequence=sequence)
            await _until(lambda: last == sequence)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def test_a_slow_reader_loses_nothing(self, made: Made) -> None:
        log, reader = await made.open(), await made.open()
        written = await fill(log, 2, 20, 200_000)
        found = {}
        async with contextlib.aclosing(reader.tail(1)) as entries:
            async for entry in entries:
                if entry is None:
                    break
                found[entry.sequence] = entry.data
                await asyncio.sleep(0.02)
        assert found == written

    async def test_trimming(self, made: Made) -> None:
        log = await made.open()
        written = await fill(log, 2, 20)
        await log.trim(11)
        await log.trim(11)
        await log.trim(5)
        health = await log.health()
        assert (health.first_sequence, health.last_sequence) == (11, 20)
        assert await log.get(11) == written[11]
        await is_trimmed(lambda: log.get(10))
        await is_trimmed(lambda: read_to_end(log, 9))
        assert list(await read_to_end(log, 10)) == list(range(11, 21))
        await log.append(message(21), sequence=21)

    async def test_trimming_everything_keeps_the_count(self, made: Made) -> None:
        log = await made.open()
        await fill(log, 2, 9)
        await log.trim(10)
        assert await log.end() == 9
        assert await read_to_end(log, 9) == {}
        await is_trimmed(lambda: read_to_end(log, 3))
        with pytest.raises(LogConflict):
            await log.append(message(9), sequence=9)
        await log.append(message(10), sequence=10)
        assert list(await read_to_end(log, 9)) == [10]

    async def test_what_is_not_there_yet_can_not_be_trimmed(self, made: Made) -> None:
        log = await made.open()
        await fill(log, 2, 9)
        with pytest.raises(LogConflict, match="ends with record 9"):
            await log.trim(11)
        health = await log.health()
        assert (health.first_sequence, health.last_sequence) == (1, 9)

    async def test_a_full_log_refuses_and_goes_on_after_trimming(self, made: Made) -> None:
        log, reader = await made.open(), await made.open()
        sequence, size = 1, 200_000
        with contextlib.suppress(LogFull):
            while (sequence - 1) * size <= made.max_bytes:
                await log.append(message(sequence + 1, size), sequence=sequence + 1)
                sequence += 1
        assert made.max_bytes // 2 < (sequence - 1) * size <= made.max_bytes
        assert await log.end() == sequence
        assert len(await read_to_end(reader)) == sequence
        with pytest.raises(LogFull):
            await log.append(message(sequence + 1, size), sequence=sequence + 1)
        await log.trim(sequence)
        await log.append(message(sequence + 1, size), sequence=sequence + 1)
        assert list(await read_to_end(reader, sequence - 1)) == [sequence, sequence + 1]

    async def test_health(self, made: Made) -> None:
        log = await made.open()
        await fill(log, 2, 10, 1000)
        health = await log.health()
        assert (health.first_sequence, health.last_sequence) == (1, 10)
        assert 9000 < health.bytes < 20000
        assert health.max_bytes == made.max_bytes
        assert health.quorum
        assert sum(member.leader for member in health.members) == 1

    async def test_a_missing_log_is_missing(self, made: Made) -> None:
        log = await made.open_missing()
        async with asyncio.timeout(30):
            with pytest.raises(LogMissing):
                await log.get(1)
            with pytest.raises(LogMissing):
                await log.append(message(1), sequence=1)
            with pytest.raises(LogMissing):
                await read_to_end(log)


async def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
