import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorycluster.api.units import format_bytes, format_duration, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("1.5s", 1.5), ("1h", 3600), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(0, 10**9))
def test_durations_say_what_they_said(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize("text", ["", "5", "5x", "-5s", "5 s", "s", "5s ", "1e3s", "5S"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("4Gi", 4 << 30), ("1.5Ki", 1536), ("4G", 4 * 10**9), ("1Mi", 1 << 20)]
)
def test_quantities(text: str, count: int) -> None:
    assert parse_quantity(text) == count


@pytest.mark.parametrize("text", ["", "4GB", "4gi", "-1", "Gi", "4 Gi", "1e3"])
def test_what_is_not_a_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


@given(st.integers(0, 10**6), st.sampled_from(["Ki", "Mi", "Gi", "Ti", "Pi"]))
def test_quantities_are_exact(number: int, suffix: str) -> None:
    power = 1 + ["Ki", "Mi", "Gi", "Ti", "Pi"].index(suffix)
    assert parse_quantity(f"{number}{suffix}") == number << (10 * power)


def test_bytes_for_people() -> None:
    assert [format_bytes(each) for each in (0, 1023, 1536, 5 << 30, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
