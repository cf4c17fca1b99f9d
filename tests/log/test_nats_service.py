"""Making logs, and refusing what is not as it must be."""

from __future__ import annotations

import asyncio
import json
import os
from uuid import uuid4

import pytest
from tests.log.conftest import MAX_BYTES, Shard, shard_of
from tests.log.contract import message
from tests.log.records import Writer
from tests.log.servers import Service, running
from tests.log.test_nats_rot import follow_to

from memorycluster.log.chain import Position
from memorycluster.log.interface import LogConflict, LogMissing, LogUnavailable
from memorycluster.log.nats import NatsLog
from memorycluster.log.record import MAX_PAYLOAD, Flags, Kind, Record
from memorycluster.log.server import ServerUnfit
from memorycluster.log.service import LogUnfit, genesis, stream_config


async def test_made_once_and_found_again(three: Service, shard: Shard) -> None:
    async with three.service() as admin:
        for _ in range(3):
            await admin.create(shard.stream, shard.generation, max_bytes=MAX_BYTES)
            await admin.verify(shard.stream, shard.generation)
        log = await shard.client()
        assert await log.end() == 1
        assert Record.decode(await log.get(1) or b"").kind is Kind.GENESIS
        health = await admin.health(shard.stream)
        assert {member.zone for member in health.members} == {"zone-a", "zone-b", "zone-c"}


async def test_made_by_many_at_once(three: Service) -> None:
    async with three.service() as one, three.service() as other:
        stream, generation = f"t{uuid4().hex[:12]}", uuid4()
        await asyncio.gather(*(each.create(stream, generation, max_bytes=MAX_BYTES) for each in (one, other)))
        await one.verify(stream, generation)
        async with three.log(stream) as log:
            assert await log.end() == 1
        await three.delete(stream)


async def test_another_generation_is_refused(three: Service, shard: Shard) -> None:
    async with three.service() as admin:
        for generation in (uuid4(), uuid4()):
            with pytest.raises(LogUnfit, match=f"generation {shard.generation}, not {generation}"):
                await admin.verify(shard.stream, generation)
            with pytest.raises(LogUnfit, match=f"generation {shard.generation}, not {generation}"):
                await admin.create(shard.stream, generation, max_bytes=MAX_BYTES)


async def test_the_generation_is_known_after_trimming(three: Service) -> None:
    async with shard_of(three) as shard, three.service() as admin:
        log, writer = await shard.client(), Writer(shard.generation)
        for sequence, data in enumerate([writer.accept(writer.claim()), writer.data(b"x")], 2):
            await log.append(data, sequence=sequence)
        await log.trim(3)
        await admin.verify(shard.stream, shard.generation)
        with pytest.raises(LogUnfit):
            await admin.verify(shard.stream, uuid4())


async def test_a_missing_log_is_not_made_anew(three: Service) -> None:
    async with three.service() as admin:
        with pytest.raises(LogMissing):
            await admin.verify("never-made", uuid4())
        with pytest.raises(LogMissing):
            await admin.health("never-made")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_bytes", 1 << 20),
        ("deny_delete", False),
        ("allow_direct", True),
        ("num_replicas", 1),
        ("max_age", 10**12),
    ],
)
async def test_a_log_that_is_configured_otherwise_is_refused(
    three: Service, field: str, value: object
) -> None:
    stream = f"t{uuid4().hex[:12]}"
    async with three.log(stream) as log, three.service() as admin:
        wanted = stream_config(stream, replicas=3, max_bytes=MAX_BYTES)
        await log._link.ask(f"STREAM.CREATE.{stream}", {**wanted, field: value})
        with pytest.raises(LogUnfit, match=field):
            await admin.create(stream, uuid4(), max_bytes=MAX_BYTES)
        assert await log.end() == 0  # and nothing was written
    await three.delete(stream)


async def test_a_log_of_something_else_is_refused(one: Service) -> None:
    stream = f"t{uuid4().hex[:12]}"
    async with one.log(stream) as log, one.service() as admin:
        wanted = stream_config(stream, replicas=1, max_bytes=MAX_BYTES)
        await log._link.ask(f"STREAM.CREATE.{stream}", wanted)
        with pytest.raises(LogUnfit, match="empty"):
            await admin.verify(stream, uuid4())
        await log.append(b"something else", sequence=1)
        with pytest.raises(LogUnfit, match="not a record"):
            await admin.create(stream, uuid4(), max_bytes=MAX_BYTES)
    await one.delete(stream)


async def test_safe_servers_are_accepted(three: Service) -> None:
    async with three.service() as admin:
        await admin.assert_safe()
        await three.kill("log-1")
        with pytest.raises(LogUnavailable, match="log-1"):
            await admin.assert_safe()


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("sync_interval", "2m", "sync_interval"),
        ("max_payload", 1000, "max_payload"),
        ("jetstream", None, "JetStream"),
    ],
)
async def test_an_unsafe_server_is_refused(setting: str, value: object, reason: str) -> None:
    def change(text: str) -> str:
        conf = json.loads(text)
        (conf["jetstream"] if setting == "sync_interval" else conf)[setting] = value
        if value is None:
            del conf[setting]
        return json.dumps(conf)

    async with running(1, change=change) as service, service.service() as admin:
        with pytest.raises(ServerUnfit, match=reason):
            await admin.assert_safe()


async def test_wrong_credentials(one: Service) -> None:
    async with NatsLog(one.urls, "x", user="log", password="wrong") as log:
        with pytest.raises(LogUnavailable, match=r"(?i)authorization"):
            await log.end()


async def test_nobody_there() -> None:
    log = await NatsLog.connect(["nats://127.0.0.1:1"], "x", user="log", password="x")
    append = asyncio.create_task(log.append(b"x", sequence=1))
    with pytest.raises(LogUnavailable):
        await log.end()
    assert "127.0.0.1:1" in log.trouble
    append.cancel()
    await asyncio.gather(append, return_exceptions=True)
    await log.close()


async def test_a_large_value_is_many_records_in_order(three: Service, shard: Shard) -> None:
    value = os.urandom(40 * MAX_PAYLOAD + 17)
    log, writer = await shard.client(), Writer(shard.generation)
    follower = asyncio.create_task(follow_to(await shard.client(), shard, 43))
    await log.append(writer.accept(writer.claim()), sequence=2)
    for at in range(0, len(value), MAX_PAYLOAD):
        piece = value[at : at + MAX_PAYLOAD]
        flags = Flags.CONTINUES if at + len(piece) < len(value) else Flags.NONE
        await log.append(writer.accept(writer.data(piece, flags)), sequence=writer.position.sequence)
    reads = await follower
    assert b"".join(read.record.stream for read in reads) == value
    assert [read.position.unit_end for read in reads[:-1]] == [0] * 42
    assert reads[-1].position == writer.position
    assert reads[-1].position.unit_end == len(value)


async def test_a_record_that_is_too_large_is_refused(one: Service) -> None:
    async with shard_of(one) as shard:
        log = await shard.client()
        with pytest.raises(ValueError, match="size"):
            await log.append(message(2, MAX_PAYLOAD + 8000), sequence=2)
        assert await log.end() == 1


async def test_the_genesis_record_is_the_same_each_time() -> None:
    generation = uuid4()
    assert genesis(generation) == genesis(generation) != genesis(uuid4())
    assert Position(generation).sequence == 0


async def test_claims_on_a_fresh_log(three: Service, shard: Shard) -> None:
    """Two claimants that stand at the same end: one has it, the other is told."""
    clients = [await shard.client() for _ in range(2)]
    claims = [Writer(shard.generation).claim(leader=name * 40, nonce=i) for i, name in enumerate("ab")]
    outcomes = await asyncio.gather(
        *(log.append(claim, sequence=2) for log, claim in zip(clients, claims, strict=True)),
        return_exceptions=True,
    )
    assert sorted(map(type, outcomes), key=str) == sorted([type(None), LogConflict], key=str)
