from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorycluster.log.record import (
    MAGIC,
    OVERHEAD,
    Flags,
    InvalidRecord,
    Kind,
    Record,
    extend_crc,
    replication_id,
)

uint64 = st.integers(0, 2**64 - 1)
record_strategy = st.builds(
    Record,
    kind=st.sampled_from(Kind),
    generation=st.uuids(),
    epoch=uint64,
    sequence=uint64,
    nonce=uint64,
    start=uint64,
    running_crc=uint64,
    payload=st.binary(max_size=300),
    flags=st.sampled_from([Flags.NONE, Flags.CONTINUES]),
    engine_version=st.integers(0, 2**32 - 1),
)

SAMPLE = Record(
    Kind.DATA, UUID(int=7), 3, 12, 99, 1000, 5, b"*1\r\n$4\r\nPING\r\n", Flags.CONTINUES, 0x00090102
)


@given(record_strategy)
def test_round_trip(record: Record) -> None:
    data = record.encode()
    assert len(data) == OVERHEAD + len(record.payload)
    assert Record.decode(data) == record


@pytest.mark.parametrize("byte", range(len(SAMPLE.encode())))
def test_every_single_bit_flip_is_refused(byte: int) -> None:
    for bit in range(8):
        data = bytearray(SAMPLE.encode())
        data[byte] ^= 1 << bit
        with pytest.raises(InvalidRecord):
            Record.decode(bytes(data))


@given(record_strategy, st.data())
def test_any_damage_is_refused(record: Record, draw: st.DataObject) -> None:
    data = record.encode()
    at = draw.draw(st.integers(0, len(data) - 1))
    mask = draw.draw(st.binary(min_size=1, max_size=min(16, len(data) - at)).filter(any))
    damaged = bytearray(data)
    for offset, bits in enumerate(mask):
        damaged[at + offset] ^= bits
    with pytest.raises(InvalidRecord):
        Record.decode(bytes(damaged))


@given(record_strategy, st.data())
def test_any_other_length_is_refused(record: Record, draw: st.DataObject) -> None:
    data = record.encode()
    with pytest.raises(InvalidRecord):
        Record.decode(data[: draw.draw(st.integers(0, len(data) - 1))])
    with pytest.raises(InvalidRecord):
        Record.decode(data + draw.draw(st.binary(min_size=1, max_size=8)))


@given(st.binary(max_size=400))
def test_what_is_not_a_record_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRecord):
        Record.decode(data)
    with pytest.raises(InvalidRecord):
        Record.decode(MAGIC + data)


@pytest.mark.parametrize("wrong", [{"kind": 77}, {"kind": 0}])
def test_an_unknown_kind_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidRecord):
        Record.decode(replace(SAMPLE, **wrong).encode())  # type: ignore[arg-type]


@given(record_strategy)
def test_only_data_moves_the_offset(record: Record) -> None:
    moved = len(record.payload) if record.kind is Kind.DATA else 0
    assert record.end - record.start == moved == len(record.stream)


@given(st.lists(st.binary(max_size=50)))
def test_the_running_crc_does_not_depend_on_where_it_is_cut(pieces: list[bytes]) -> None:
    crc = 0
    for piece in pieces:
        crc = extend_crc(crc, piece)
    assert crc == extend_crc(0, b"".join(pieces))


@given(st.uuids(), st.uuids())
def test_a_generation_has_one_replication_id(one: UUID, other: UUID) -> None:
    assert len(bytes.fromhex(replication_id(one))) == 20
    assert (replication_id(one) == replication_id(other)) == (one == other)
