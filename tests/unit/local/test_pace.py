"""What is said of how far a restore is."""

from __future__ import annotations

from memorycluster.local.pace import Pace
from memorycluster.snapshot.maker import Progress

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_bytes_then_rate_and_time_left() -> None:
    pace = Pace(clock := Clock())
    assert pace(Progress("load", 0, 100 * MIB)) == "load 0 B of 100.0 MiB (0%)"
    clock.now += 2
    said = pace(Progress("load", 20 * MIB, 100 * MIB))
    assert said == "load 20.0 MiB of 100.0 MiB, 10.0 MiB/s, 0:00:08 left (20%)"
    clock.now += 8
    assert pace(Progress("load", 100 * MIB, 100 * MIB)) == "load 100.0 MiB of 100.0 MiB, 10.0 MiB/s (100%)"


def test_each_step_has_a_rate_of_its_own() -> None:
    pace = Pace(clock := Clock())
    pace(Progress("load", 0, MIB))
    clock.now += 10
    assert pace(Progress("save", 5 * MIB, 0)) == "save 5.0 MiB"
    clock.now += 2
    assert pace(Progress("save", 9 * MIB, 0)) == "save 9.0 MiB, 2.0 MiB/s"


def test_a_step_that_begins_again_is_measured_anew() -> None:
    """As when the next shard is loaded."""
    pace = Pace(clock := Clock())
    pace(Progress("load", 50 * MIB, 60 * MIB))
    clock.now += 5
    assert pace(Progress("load", 0, 60 * MIB)) == "load 0 B of 60.0 MiB (0%)"
    clock.now += 1
    assert "1.0 MiB/s" in pace(Progress("load", MIB, 60 * MIB))
