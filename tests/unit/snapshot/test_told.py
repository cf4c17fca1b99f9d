"""What a making is told by an operator that is newer than it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from memorycluster.snapshot.job import JobConfig


def told(keep: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "cluster": "orders",
        "shard": 0,
        "slots": [[0, 16383]],
        "generation": "6d3a1b52-4a0e-4ed5-9a4e-7d1d1c5e2f10",
        "stream": "orders-0",
        "log_servers": ["nats://log:4222"],
        "log_user": "log",
        "store": {"s3": {"bucket": "b"}},
        "work": "/work",
        "keep": {"agents": {}, "api_token_file": "/token", **(keep or {})},
        **more,
    }


def test_what_is_not_known_is_ignored() -> None:
    config = JobConfig.model_validate(
        told({"listens": "x"}, tells={"y": 1}, tell={"port": 1, "token_file": "/t"})
    )
    assert config == JobConfig.model_validate(told(tell={"port": 1, "token_file": "/t"}))


@pytest.mark.parametrize(
    "config",
    [
        told({"stays": ["one"], "must_know": ["stays"]}),
        told(until=3, must_know=["reason", "until"]),
        told({"retention": {"count": 1, "years": 7}}),
        told(store={"tape": {"drive": 1}}),
    ],
)
def test_but_not_what_would_lose_something_or_store_it_elsewhere(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobConfig.model_validate(config)


def test_what_another_cluster_is_made_of_is_known() -> None:
    config = JobConfig.model_validate(told({"spared": ["one"], "must_know": ["spared"]}))
    assert config.keep
    assert config.keep.spared == ["one"]


def test_what_must_be_known_and_is_does_not_matter() -> None:
    assert JobConfig.model_validate(told({"held": True, "must_know": ["held"]})).keep is not None
