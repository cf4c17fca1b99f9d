"""The manifest vouches for a position of the log, so nothing but what was written is one."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.unit.snapshot.manifests import manifest

from memorycluster.log.chain import Position
from memorycluster.snapshot.manifest import InvalidManifest, Manifest, position_fields

WRITTEN = manifest().encode()

positions = st.builds(
    lambda generation, sequence, epoch, leader, released, offset, crc: Position(
        generation, sequence, epoch, leader, released, leader if released else "", offset, crc, offset, crc
    ),
    st.uuids(),
    st.integers(2, 2**62),
    st.integers(0, 2**62),
    st.text(max_size=20),
    st.booleans(),
    st.integers(0, 2**62),
    st.integers(0, 2**64 - 1),
)


@given(positions)
def test_a_position_survives_whole(position: Position) -> None:
    written = manifest(**position_fields(position)).encode()
    assert Manifest.decode(written).position == position


def test_a_position_within_a_unit_can_not_be_said() -> None:
    with pytest.raises(ValueError, match="open"):
        position_fields(Position(manifest().generation, 5, unit_end=10, open_end=11))


@given(st.integers(0, 8 * len(WRITTEN) - 1))
def test_a_flipped_bit_makes_it_none_or_changes_nothing(bit: int) -> None:
    damaged = bytearray(WRITTEN)
    damaged[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(InvalidManifest):
        assert Manifest.decode(bytes(damaged)) == manifest()  # white space


@given(st.integers(0, len(WRITTEN) - 2))
def test_a_shorter_one_is_none(length: int) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.decode(WRITTEN[:length])


@given(st.binary(max_size=200))
def test_other_bytes_are_none(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.decode(data)


@pytest.mark.parametrize("value", ["[]", "null", '{"checksum": "x"}', "[" * 5000, "{}"])
def test_other_json_is_none(value: str) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.decode(value.encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("reason", "retention"),
        ("more", 1),
        ("sequence", 0),
        ("offset", -1),
        ("runningCrc", "ff"),
        ("sha256", "A" * 64),
        ("size", 0),
        ("slots", [[5, 4]]),
        ("createdAt", "2026-11-24T12:00:00"),
        ("cluster", "../other"),
    ],
)
def test_a_right_checksum_of_wrong_fields_is_not_enough(field: str, value: object) -> None:
    from memorycluster.snapshot.manifest import _checksum

    fields = json.loads(WRITTEN)
    del fields["checksum"]
    fields[field] = value
    with pytest.raises(InvalidManifest, match=field):
        Manifest.decode(json.dumps(fields | {"checksum": _checksum(fields)}).encode())


def test_nothing_precedes_the_first_record() -> None:
    with pytest.raises(ValidationError):
        manifest(1, offset=7)
