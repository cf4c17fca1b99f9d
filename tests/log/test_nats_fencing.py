"""A deposed writer gets nothing into the log after the claim that deposed it, whatever was on its way."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from tests.log.conftest import Shard, shard_of
from tests.log.contract import fill, message, read_to_end
from tests.log.servers import Service

from memorycluster.log.interface import LogConflict, LogUnavailable
from memorycluster.log.nats import NatsLog, subject_of


async def others(shard: Shard, name: str) -> list[str]:
    return [other for other in shard.service.names if other != name]


class Lossy:
    """A link on which messages, or the answers to them, get lost."""

    def __init__(self, log: NatsLog) -> None:
        self._log = log
        self._wire = log._link.wire
        self.lose_requests = 0
        self.lose_answers = 0
        self.held = asyncio.Event()
        log._link.wire = self.wire  # type: ignore[method-assign]

    async def wire(self) -> object:
        wire = await self._wire()
        if not hasattr(wire, "lossless"):
            wire.lossless = wire.request  # type: ignore[attr-defined]
            wire.request = self._lossy(wire)  # type: ignore[method-assign]
        return wire

    def _lossy(self, wire: object) -> object:
        async def request(subject: str, payload: bytes = b"", **options: object) -> object:
            if subject.startswith("log."):
                if self.lose_requests:
                    self.lose_requests -= 1
                    raise LogUnavailable("lost on its way")
                if self.lose_answers:
                    self.lose_answers -= 1
                    await wire.lossless(subject, payload, **options)  # type: ignore[attr-defined]
                    self.held.set()
                    raise LogUnavailable("its answer was lost")
            return await wire.lossless(subject, payload, **options)  # type: ignore[attr-defined]

        return request


class TestOneAppendInFlight:
    async def test_the_answer_is_lost(self, one: Service) -> None:
        async with shard_of(one) as shard:
            log = await shard.client()
            lossy = Lossy(log)
            lossy.lose_answers = 3
            data = message(2)
            await log.append(data, sequence=2)
            assert await read_to_end(log, 1) == {2: data}

    async def test_the_message_is_lost(self, one: Service) -> None:
        async with shard_of(one) as shard:
            log = await shard.client()
            Lossy(log).lose_requests = 3
            data = message(2)
            await log.append(data, sequence=2)
            assert await read_to_end(log, 1) == {2: data}

    async def test_the_answer_is_lost_and_a_claim_lands_behind_it(self, one: Service) -> None:
        async with shard_of(one) as shard:
            stale, claimant = await shard.client(), await shard.client()
            lossy = Lossy(stale)
            lossy.lose_answers = 1
            mine, claim = message(2), message(3)
            append = asyncio.create_task(stale.append(mine, sequence=2))
            await lossy.held.wait()
            await claimant.append(claim, sequence=3)
            await append  # it was there before the claim
            with pytest.raises(LogConflict):
                await stale.append(message(3), sequence=3)
            assert await read_to_end(claimant, 1) == {2: mine, 3: claim}

    async def test_the_message_is_lost_and_a_claim_takes_its_place(self, one: Service) -> None:
        async with shard_of(one) as shard:
            stale, claimant = await shard.client(), await shard.client()
            lossy = Lossy(stale)
            lossy.lose_requests = 2
            claim = message(2)
            append = asyncio.create_task(stale.append(message(2), sequence=2))
            await claimant.append(claim, sequence=2)
            with pytest.raises(LogConflict):
                await append
            assert await read_to_end(claimant, 1) == {2: claim}

    async def test_what_was_sent_before_the_claim_arrives_after_it(self, one: Service) -> None:
        async with shard_of(one) as shard:
            stale, claimant = await shard.client(), await shard.client()
            await fill(stale, 2, 5)
            claim = message(6)
            await claimant.append(claim, sequence=6)
            wire = await stale._link.wire()

            async def arrives(sequence: int) -> bool:
                headers = {
                    "Nats-Expected-Last-Sequence": str(sequence - 1),
                    "Nats-Msg-Id": f"late-{sequence}",
                }
                answer = await wire.request(subject_of(shard.stream), b"late", headers=headers, within=5)
                return b"error" not in answer.data

            assert not await arrives(5)
            assert not await arrives(6)
            assert await read_to_end(claimant, 5) == {6: claim}
            # The hole that "one append in flight" closes: the one after it, sent without waiting, would fit.
            assert await arrives(7)

    async def test_another_record_with_the_same_id_is_not_taken_for_ours(self, one: Service) -> None:
        async with shard_of(one) as shard:
            log = await shard.client()
            data = message(2)
            wire = await log._link.wire()
            sent: list[dict[str, str]] = []
            request = wire.request

            async def spy(subject: str, payload: bytes = b"", **options: object) -> object:
                headers = options.get("headers")
                if subject == subject_of(shard.stream) and isinstance(headers, dict):
                    if not sent:  # the other writer's record comes first, under the very same id
                        await request(subject, b"another", headers=headers, within=5)
                    sent.append(headers)
                return await request(subject, payload, **options)  # type: ignore[arg-type]

            wire.request = spy  # type: ignore[method-assign, assignment]
            with pytest.raises(LogConflict):
                await log.append(data, sequence=2)
            assert sent
            assert await log.get(2) == b"another"


class TestWhileTheLogElects:
    @pytest.mark.parametrize("where", ["with the frozen leader", "elsewhere"])
    async def test_a_claim_lands_while_an_append_is_in_flight(
        self, three: Service, shard: Shard, where: str
    ) -> None:
        leader = await shard.leader()
        rest = await others(shard, leader)
        stale = await shard.client(*([leader] if where == "with the frozen leader" else [rest[0]]))
        claimant = await shard.client(rest[1])
        written = await fill(stale, 2, 30)
        three.freeze(leader)
        mine, claim = message(31), message(31)
        append = asyncio.create_task(stale.append(mine, sequence=31))
        await asyncio.sleep(0.2)  # it is under way
        async with asyncio.timeout(40):
            await asyncio.gather(claimant.append(claim, sequence=31), return_exceptions=True)
            winner = await claimant.get(31)
            assert winner in (mine, claim)
            await fill(claimant, 32, 40)
            three.thaw(leader)
            outcome = (await asyncio.gather(append, return_exceptions=True))[0]
        if winner == mine:
            assert outcome is None
        else:
            assert isinstance(outcome, LogConflict)
            with pytest.raises(LogConflict):
                await stale.append(message(32), sequence=32)
        held = await read_to_end(await shard.client(), 1)
        assert held[31] == winner
        assert len(held) == 39
        assert {sequence: held[sequence] for sequence in written} == written


async def test_writers_that_depose_each_other_while_servers_fail(three: Service, shard: Shard) -> None:
    """Writers take turns; answers get lost, calls are cancelled, the log's leader is killed and frozen."""
    chance = random.Random(7)
    acked: dict[int, bytes] = {}
    offered: dict[int, set[bytes]] = {}
    stop = asyncio.Event()

    async def writer(log: NatsLog) -> None:
        lossy = Lossy(log)
        while not stop.is_set():
            sequence = await log.end() + 1
            with contextlib.suppress(LogConflict, TimeoutError):
                for _ in range(chance.randrange(1, 20)):
                    data = message(sequence)
                    offered.setdefault(sequence, set()).add(data)
                    lossy.lose_requests = chance.random() < 0.1
                    lossy.lose_answers = chance.random() < 0.1
                    async with asyncio.timeout(chance.choice([None, 30, 0.001, 0.003])):
                        await log.append(data, sequence=sequence)
                    assert sequence not in acked
                    acked[sequence] = data
                    sequence += 1

    async def forever(log: NatsLog) -> None:
        while not stop.is_set():
            with contextlib.suppress(LogUnavailable):
                await writer(log)

    tasks = [asyncio.create_task(forever(await shard.client())) for _ in range(3)]
    try:
        for fault in ("kill", "freeze"):
            await asyncio.sleep(1.5)
            leader = await shard.leader()
            if fault == "kill":
                await three.kill(leader)
            else:
                three.freeze(leader)
            done = len(acked)
            async with asyncio.timeout(40):
                while len(acked) < done + 30:
                    await asyncio.sleep(0.05)
            await three.restore()
        await asyncio.sleep(1)
    finally:
        stop.set()
        async with asyncio.timeout(40):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [outcome for outcome in outcomes if outcome is not None]
    held = await read_to_end(await shard.client(), 1)
    assert len(acked) > 100
    assert all(held[sequence] == data for sequence, data in acked.items())
    assert all(data in offered[sequence] for sequence, data in held.items())
