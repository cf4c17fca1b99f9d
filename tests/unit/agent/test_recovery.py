"""Putting back what the log has lost: only what is proved, and otherwise a refusal that says why."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from uuid import UUID

import pytest
from tests.log.records import Writer
from tests.unit.agent.hand import unit

from memorycluster.agent.engine import EngineError
from memorycluster.agent.machine import EngineState, Machine, Phase
from memorycluster.agent.recovery import Plan, Refused, Verdict, examine, put_back
from memorycluster.log.chain import Position, read
from memorycluster.log.findings import Findings
from memorycluster.log.interface import Entry, LogConflict, LogHealth, LogTrimmed, Member
from memorycluster.log.record import MAX_PAYLOAD, Flags, Kind, Record
from memorycluster.log.service import genesis

GENERATION = UUID(int=7)


class Log:
    """A log in memory."""

    trouble = ""

    def __init__(self, entries: list[bytes]) -> None:
        self.entries = entries
        self.findings = Findings()
        self.first = 1
        self.meanwhile: bytes | None = None
        """What somebody else appends before the next append."""

    async def append(self, data: bytes, *, sequence: int) -> None:
        if self.meanwhile:
            self.entries.append(self.meanwhile)
        if sequence != len(self.entries) + 1:
            raise LogConflict("another one is there")
        self.entries.append(data)

    async def tail(self, after: int, *, avoid: Collection[str] = ()) -> AsyncGenerator[Entry | None, None]:
        if after + 1 < self.first:
            raise LogTrimmed(f"log record {after + 1}: trimmed")
        for sequence, data in enumerate(self.entries[after:], after + 1):
            yield Entry(sequence, data, "m")
        yield None

    async def get(self, sequence: int) -> bytes | None:
        return self.entries[sequence - 1]

    async def end(self) -> int:
        return len(self.entries)

    async def trim(self, before: int) -> None: ...

    async def health(self) -> LogHealth:
        return LogHealth(1, 1, 1, 1, (Member("m", "", True, True),))

    def position(self) -> Position:
        """Where a reader of all of it stands: every record follows."""
        position = Position(GENERATION)
        for sequence, data in enumerate(self.entries, 1):
            position = read(position, sequence, data).position
        return position

    def stream(self) -> bytes:
        """What a reader of all of it has read."""
        position, stream = Position(GENERATION), bytearray()
        for sequence, data in enumerate(self.entries, 1):
            step = read(position, sequence, data)
            position = step.position
            if step.voided:
                del stream[position.open_end :]
            stream += step.record.stream
        return bytes(stream)


class World:
    """A leader of epoch 1, its engine, and the log, of which everything after ``keep`` records is lost."""

    def __init__(self, *sizes: int, keep: int, extra: int = 0) -> None:
        writer = Writer(GENERATION)
        self.whole = [genesis(GENERATION), writer.accept(writer.claim("a"))]
        self.stream = b""
        for size in sizes:
            data = unit(size + len(self.stream))[len(self.stream) :]
            self.stream += data
            self.whole.append(writer.accept(writer.data(data)))
        self.log = Log(self.whole[:keep])
        self.backlog = self.stream + b"never acknowledged"[:extra]
        engine = EngineState(True, 1, len(self.backlog), len(self.stream), 0x090102, silent=True)
        self.machine = Machine("a", 5_000_000, writer.position, Phase.FROZEN, engine=engine, epoch=1)
        self.fetched: list[tuple[int, int]] = []
        self.beginning = Position(GENERATION)

    async def fetch(self, start: int, end: int) -> bytes:
        self.fetched.append((start, end))
        return self.backlog[start:end]

    async def begin(self, offset: int) -> Position:
        self.begun = offset
        return self.beginning

    async def examine(self) -> Plan:
        return await examine(self.log, self.machine, self.begin, self.fetch)

    def trim(self, before: int) -> None:
        """Trim the log; a snapshot ends there."""
        for sequence, data in enumerate(self.log.entries[: before - 1], 1):
            self.beginning = read(self.beginning, sequence, data).position
        self.log.first = before

    async def put_back(self, plan: Plan, *, lease: float = 0.0) -> None:
        await put_back(self.log, plan, node="a", nonce=9, lease=lease)

    def go_on(self, *payloads: bytes) -> None:
        """Let another node claim the shortened log, and write."""
        writer = Writer(GENERATION)
        for data in self.log.entries[1:]:
            writer.accept(data)
        self.log.entries.append(writer.accept(writer.claim("b")))
        for payload in payloads:
            self.log.entries.append(writer.accept(writer.data(payload)))


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
@pytest.mark.parametrize("last", [10, MAX_PAYLOAD, 2 * MAX_PAYLOAD + 5])
async def test_the_lost_tail_is_put_back(keep: int, last: int) -> None:
    world = World(100, 30, last, keep=keep, extra=18)
    plan = await world.examine()
    assert plan.verdict is Verdict.APPEND
    assert "put back" in plan.reason
    await world.put_back(plan)
    at = world.log.position()
    assert (at.unit_end, at.released, at.leader) == (len(world.stream), True, "a")
    assert at.epoch == 2, "an epoch is never used twice, also if the log has lost its claim"
    assert at.unit_crc == world.machine.position.unit_crc
    assert world.log.stream() == world.stream, "and nothing that was not acknowledged"
    assert all(len(Record.decode(data).payload) <= MAX_PAYLOAD for data in world.log.entries)
    assert (await world.examine()).verdict is Verdict.RESUME


@pytest.mark.parametrize("keep", [3, 4, 5, 6])
async def test_of_a_trimmed_log_what_is_left_is_read(keep: int) -> None:
    world = World(100, 30, 20, 10, keep=keep)
    world.log.first = 4
    with pytest.raises(LogTrimmed):
        await world.examine()
    world.trim(4)
    plan = await world.examine()
    assert world.begun == len(world.stream)
    if keep == len(world.whole):
        assert plan.verdict is Verdict.RESUME
        return
    assert plan.verdict is Verdict.APPEND
    await world.put_back(plan)
    assert world.log.stream() == world.stream
    assert (await world.examine()).verdict is Verdict.RESUME


async def test_an_open_unit_at_the_end_is_voided() -> None:
    world = World(100, 30, keep=3)
    writer = Writer(GENERATION)
    for data in world.log.entries[1:]:
        writer.accept(data)
    writer.epoch = 1
    world.log.entries.append(writer.accept(writer.data(b"torn", Flags.CONTINUES)))
    plan = await world.examine()
    assert plan.verdict is Verdict.APPEND
    await world.put_back(plan)
    assert world.log.stream() == world.stream


async def test_a_node_that_is_not_frozen_has_nothing_to_do() -> None:
    world = World(100, 30, keep=3)
    world.machine.phase = Phase.FOLLOWING
    assert (await world.examine()).verdict is Verdict.NOTHING
    world.machine.corrupt = True
    assert (await world.examine()).verdict is Verdict.APPEND


async def test_a_log_that_has_everything_again_lets_the_node_go_on() -> None:
    world = World(100, 30, keep=4)
    assert (await world.examine()).verdict is Verdict.RESUME
    assert not world.fetched
    world.go_on(b"more")
    assert (await world.examine()).verdict is Verdict.RESUME


async def test_also_if_its_records_are_cut_otherwise() -> None:
    world = World(100, 30, keep=2)
    follower = replace(world.machine.position)
    await world.put_back(await world.examine())
    world.machine.position = replace(follower, unit_end=100, unit_crc=read_crc(world, 100))
    world.machine.engine = EngineState(False, 0, 100, 0, 0x090102)
    assert (await world.examine()).verdict is Verdict.RESUME


def read_crc(world: World, offset: int) -> int:
    records = map(Record.decode, world.whole)
    return next(each.running_crc for each in records if each.kind is Kind.DATA and each.end == offset)


async def test_a_log_that_has_gone_on_with_other_data_is_not_touched() -> None:
    world = World(100, 30, keep=3)
    world.go_on(b"other data")
    plan = await world.examine()
    assert plan.verdict is Verdict.REFUSE
    assert "gone on with other data" in plan.reason
    world.go_on(b"and more of it than there was before")
    plan = await world.examine()
    assert plan.verdict is Verdict.REFUSE
    assert "other data up to offset 130" in plan.reason


async def test_bytes_that_do_not_chain_to_what_was_acknowledged_are_not_put_back() -> None:
    world = World(100, 30, keep=3)
    world.backlog = bytes(len(world.backlog))
    assert (await world.examine()).verdict is Verdict.REFUSE


async def test_a_backlog_that_does_not_reach_back_is_refused() -> None:
    world = World(100, 30, keep=3)

    async def fetch(start: int, end: int) -> bytes:
        raise EngineError("NOCONTINUE: the stream holds 120 to 131")

    plan = await examine(world.log, world.machine, world.begin, fetch)
    assert plan.verdict is Verdict.REFUSE
    assert "holds 120 to 131" in plan.reason


async def test_who_can_prove_nothing_is_refused() -> None:
    world = World(100, 30, keep=3)
    world.machine.epoch = 0  # Its agent was started again.
    plan = await world.examine()
    assert plan.verdict is Verdict.REFUSE
    assert "started again" in plan.reason

    world = World(100, 30, keep=3)
    world.machine.engine = None
    plan = await world.examine()
    assert plan.verdict is Verdict.REFUSE
    assert "its engine is gone" in plan.reason

    world = World(100, 30, keep=3)
    assert world.machine.engine
    world.machine.engine = replace(world.machine.engine, silent=False)
    plan = await world.examine()
    assert plan.verdict is Verdict.REFUSE
    assert "must not serve" in plan.reason

    world = World(100, 30, keep=3)
    world.machine.engine = EngineState(False, 0, 130, 0, 0x090102)
    plan = await world.examine()
    assert plan.verdict is Verdict.REFUSE
    assert "followed" in plan.reason

    world.machine.engine = EngineState(False, 0, 140, 0, 0x090102)  # Fed by an earlier life of its agent.
    assert (await world.examine()).verdict is Verdict.REFUSE
    assert not world.fetched


async def test_whoever_leads_meanwhile_is_not_deposed() -> None:
    world = World(100, 30, keep=3)
    world.go_on()
    plan = await world.examine()
    assert plan.verdict is Verdict.APPEND, "nothing but a claim came after"
    count = len(world.log.entries)

    class Renewing(Log):
        async def end(self) -> int:
            return count + 1

    with pytest.raises(Refused, match="b leads in epoch 2"):
        await put_back(Renewing(world.log.entries), plan, node="a", nonce=9, lease=0.0)
    assert len(world.log.entries) == count
    await world.put_back(plan)
    assert world.log.position().epoch == 3
    assert world.log.stream() == world.stream


async def test_a_claim_that_comes_in_between_ends_it() -> None:
    world = World(100, 30, keep=3)
    plan = await world.examine()
    writer = Writer(GENERATION)
    for data in world.log.entries[1:]:
        writer.accept(data)
    world.log.meanwhile = writer.claim("b")
    with pytest.raises(Refused, match="gone on"):
        await world.put_back(plan)
