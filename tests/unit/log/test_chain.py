"""The chain rule: which records a reader accepts, and what it calls corruption."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.log.records import Writer

from memorycluster.log.chain import Position, Read, read
from memorycluster.log.interface import LogCorrupt
from memorycluster.log.record import Flags, Kind, Record
from memorycluster.log.service import genesis

GENERATION = UUID(int=1)


@st.composite
def logs(draw: st.DrawFn) -> list[bytes]:
    """A right log: what leaders append, each after what it has read."""
    writer = Writer(GENERATION)
    log = [genesis(GENERATION)]
    steps = draw(st.lists(st.sampled_from(["claim", "data", "open", "renew", "release"]), max_size=25))
    for step in ["claim", *steps]:
        if step == "claim":
            data = writer.claim(leader=draw(st.sampled_from(["a", "b"])) * 40)
        elif writer.position.released:
            continue
        elif step in ("data", "open"):
            flags = Flags.CONTINUES if step == "open" else Flags.NONE
            data = writer.data(draw(st.binary(min_size=1, max_size=20)), flags)
        elif step == "renew":
            data = writer.renew()
        else:
            data = writer.release(draw(st.sampled_from(["", "b" * 40])))
        log.append(writer.accept(data))
    return log


def read_all(log: list[bytes], position: Position | None = None) -> list[Read]:
    position = position or Position(GENERATION)
    reads = []
    for sequence, data in enumerate(log[position.sequence :], position.sequence + 1):
        reads.append(read(position, sequence, data))
        position = reads[-1].position
    return reads


def applied(reads: list[Read]) -> bytes:
    """What a follower's engine is fed: whole units that were not voided."""
    fed, unit = b"", b""
    for each in reads:
        if each.voided:
            unit = unit[: -each.voided]
        if each.record.kind is Kind.DATA:
            unit += each.record.stream
            if not each.record.flags & Flags.CONTINUES:
                fed, unit = fed + unit, b""
    return fed


@given(logs())
def test_a_right_log_is_read_to_its_end(log: list[bytes]) -> None:
    reads = read_all(log)
    last = reads[-1].position
    assert last.sequence == len(log)
    assert len(applied(reads)) == last.unit_end
    assert last.unit_end <= last.open_end


@given(logs(), st.data())
def test_all_readers_agree_wherever_they_start(log: list[bytes], draw: st.DataObject) -> None:
    whole = read_all(log)
    start = draw.draw(st.integers(0, len(log) - 1))
    assert read_all(log, whole[start].position) == whole[start + 1 :]


@given(logs(), st.data())
@settings(max_examples=200)
def test_a_missing_doubled_or_moved_record_is_corruption(log: list[bytes], draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(log) - 1))
    to = draw.draw(st.integers(0, len(log) - 1).filter(lambda to: to != at))
    wrong = {
        "missing": log[:at] + log[at + 1 :] if at + 1 < len(log) else None,
        "doubled": [*log[: at + 1], log[at], *log[at + 1 :]],
        "exchanged": [log[to] if i == at else log[at] if i == to else data for i, data in enumerate(log)],
    }
    for what, damaged in wrong.items():
        if damaged is not None:
            with pytest.raises(LogCorrupt):
                raise AssertionError(f"{what}: {read_all(damaged)}")


@given(logs(), st.data())
def test_a_gap_in_the_sequence_is_corruption(log: list[bytes], draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(log) - 1))
    position = read_all(log)[at - 1].position if at else Position(GENERATION)
    for sequence in (at, at + 2, at + 100):
        with pytest.raises(LogCorrupt):
            read(position, sequence, log[at])


@given(logs(), st.data())
def test_a_flipped_bit_is_corruption(log: list[bytes], draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(log) - 1))
    bit = draw.draw(st.integers(0, 8 * len(log[at]) - 1))
    damaged = bytearray(log[at])
    damaged[bit // 8] ^= 1 << bit % 8
    position = read_all(log)[at - 1].position if at else Position(GENERATION)
    with pytest.raises(LogCorrupt):
        read(position, at + 1, bytes(damaged))


@given(logs(), st.uuids())
def test_another_generations_log_is_corruption(log: list[bytes], other: UUID) -> None:
    with pytest.raises(LogCorrupt):
        read_all(log, Position(other if other != GENERATION else UUID(int=2)))


def led(*, unit: bytes = b"", open_unit: bytes = b"") -> Writer:
    writer = Writer(GENERATION)
    writer.accept(writer.claim())
    if unit:
        writer.accept(writer.data(unit))
    if open_unit:
        writer.accept(writer.data(open_unit, Flags.CONTINUES))
    return writer


def changed(data: bytes, **changes: object) -> bytes:
    return replace(Record.decode(data), **changes).encode()  # type: ignore[arg-type]


class TestClaim:
    def test_voids_the_open_unit(self) -> None:
        writer = led(unit=b"whole", open_unit=b"half")
        data = writer.claim(leader="b" * 40)
        after = read(writer.position, writer.position.sequence + 1, data)
        assert after.voided == 4
        assert (after.position.unit_end, after.position.open_end) == (5, 5)
        assert (after.position.epoch, after.position.leader) == (2, "b" * 40)

    def test_takes_over_from_a_release(self) -> None:
        writer = led(unit=b"whole")
        writer.accept(writer.release("b" * 40))
        assert (writer.position.released, writer.position.successor) == (True, "b" * 40)
        writer.accept(writer.claim())
        assert (writer.position.released, writer.position.successor) == (False, "")

    @pytest.mark.parametrize(
        "wrong", [{"start": 4}, {"start": 6}, {"start": 9}, {"running_crc": 0}, {"epoch": 1}], ids=str
    )
    def test_that_does_not_fit_is_corruption(self, wrong: dict[str, int]) -> None:
        writer = led(unit=b"whole", open_unit=b"half")
        data = changed(writer.claim(), **wrong)
        with pytest.raises(LogCorrupt):
            read(writer.position, writer.position.sequence + 1, data)

    def test_of_an_older_epoch_is_corruption(self) -> None:
        writer = led()
        for _ in range(3):
            writer.accept(writer.claim())
        data = changed(writer.claim(), epoch=2)
        with pytest.raises(LogCorrupt, match="of epoch 2, after epoch 4"):
            read(writer.position, writer.position.sequence + 1, data)


class TestData:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"start": 0},
            {"start": 6},
            {"running_crc": 1},
            {"epoch": 2},
            {"sequence": 9},
            {"payload": b"other"},
        ],
        ids=str,
    )
    def test_that_does_not_chain_is_corruption(self, wrong: dict[str, object]) -> None:
        writer = led(unit=b"whole")
        data = changed(writer.data(b"next!"), **wrong)
        with pytest.raises(LogCorrupt):
            read(writer.position, writer.position.sequence + 1, data)

    def test_of_a_deposed_leader_is_corruption(self) -> None:
        """It could not have landed: its condition was the record that the claim stands behind."""
        writer = led(unit=b"whole")
        late = writer.data(b"late")
        writer.accept(writer.claim())
        with pytest.raises(LogCorrupt, match="of epoch 1, after epoch 2"):
            read(writer.position, writer.position.sequence + 1, changed(late, sequence=5))

    def test_after_a_release_is_corruption(self) -> None:
        writer = led(unit=b"whole")
        data = writer.data(b"next")
        writer.accept(writer.release())
        with pytest.raises(LogCorrupt):
            read(writer.position, writer.position.sequence + 1, changed(data, sequence=5))

    def test_before_any_claim_is_corruption(self) -> None:
        writer = Writer(GENERATION)
        writer.epoch = 1
        with pytest.raises(LogCorrupt):
            writer.accept(writer.data(b"early"))


def test_genesis_stands_at_the_start_and_nowhere_else() -> None:
    writer = led()
    with pytest.raises(LogCorrupt):
        read(writer.position, 3, changed(genesis(GENERATION), sequence=3))
    with pytest.raises(LogCorrupt):
        read(Position(GENERATION), 1, changed(writer.renew(), sequence=1))
