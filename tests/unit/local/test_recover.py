"""Who puts back what the log has lost: decided from what the agents answer."""

from __future__ import annotations

from typing import Any

from memorycluster.local.recover import decide


def said(verdict: str, *, epoch: int = 3, holds: int = 100) -> dict[str, Any]:
    return {"verdict": verdict, "reason": "because", "epoch": epoch, "holds": holds, "logEnd": 50}


def test_nothing_to_do() -> None:
    course = decide({"a": said("nothing"), "b": None})
    assert not course.nodes
    assert not course.refusal


def test_who_knows_the_most_goes_first() -> None:
    course = decide({"a": said("refuse", holds=90), "b": said("append"), "c": said("nothing")})
    assert course.nodes == ["b", "a"]
    course = decide({"a": said("append", epoch=2, holds=500), "b": said("append")})
    assert course.nodes == ["b", "a"]


def test_of_two_that_know_the_same_the_one_that_can_goes_first() -> None:
    assert decide({"a": said("refuse"), "b": said("append")}).nodes == ["b", "a"]


def test_nothing_is_done_if_who_knows_the_most_can_not_put_it_back() -> None:
    course = decide({"a": said("append"), "b": said("refuse", holds=101)})
    assert not course.nodes
    assert "b holds the most" in course.refusal
    assert "because" in course.refusal


def test_nothing_is_done_while_a_node_is_silent() -> None:
    answers = {"a": said("append"), "b": None}
    course = decide(answers)
    assert not course.nodes
    assert "b does not answer" in course.refusal
    assert decide(answers, without=["b"]).nodes == ["a"]
