"""Who counts as current in a log's health."""

from __future__ import annotations

from typing import Any

import pytest

from memorycluster.log.nats import health_of


def current(**replica: Any) -> bool:
    answer = {
        "state": {"first_seq": 1, "last_seq": 1000, "bytes": 1},
        "config": {"max_bytes": 1},
        "cluster": {"leader": "a", "replicas": [{"name": "b", "active": 10_000_000, **replica}]},
    }
    return health_of(answer).members[1].current


@pytest.mark.parametrize(
    ("replica", "expected"),
    [
        ({"current": True}, True),
        ({"current": False, "lag": 1}, True),  # what every second replica is while appends go on
        ({"current": False, "lag": 1000}, False),
        ({"current": False, "lag": 1, "active": 10_000_000_000}, False),
        ({"current": True, "offline": True}, False),
        ({"current": False, "lag": 1, "offline": True}, False),
    ],
)
def test_current(replica: dict[str, Any], expected: bool) -> None:
    assert current(**replica) == expected
