"""What an answer says of an operation: done, refused or unknown (taken for refused, it would hide losses)."""

from __future__ import annotations

import random
from typing import Any

import hiredis
import pytest
from tests.faults.operations import NO_NEWS, Outcome, Repertoire, Unexpected, outcome
from tests.faults.resp import LOST, Answer

REPERTOIRE = Repertoire(random.Random(1), "")


def answers(*values: Any) -> list[Answer]:
    return [
        Answer(hiredis.ReplyError(v[1:]) if isinstance(v, str) and v[:1] == "-" else v, 0) for v in values
    ]


def of_set(*values: Any) -> Outcome:
    return outcome(REPERTOIRE.string("k", 0.1), answers(*values))


def of_block(*values: Any) -> Outcome:
    return outcome(REPERTOIRE.bundle("k", 0.1), answers(*values))


@pytest.mark.parametrize(
    "error",
    [
        "-CLUSTERDOWN The lease of this primary has lapsed: try again",
        "-MOVED 1 127.0.0.1:1",
        "-TRYAGAIN too much is uncommitted",
        "-TXLOGFULL the log is full",
        "-LOADING not yet",
    ],
)
def test_refusals(error: str) -> None:
    assert of_set(error).refusal == error[1:]
    block = of_block(
        "OK", error, "QUEUED", "QUEUED", "-EXECABORT Transaction discarded because of previous errors."
    )
    assert block.refusal == error[1:]
    assert of_block("OK", "QUEUED", "QUEUED", "QUEUED", error).refusal == error[1:]


def test_unknown() -> None:
    assert of_set(LOST).doubt
    assert of_set("-UNCERTAIN The log has not confirmed this write in time").doubt
    assert of_block("OK", "QUEUED", "QUEUED", "QUEUED", LOST).doubt


@pytest.mark.parametrize("error", ["-ERR anything", "-TXLOGFULL full. script: 12, on @user_script:3."])
def test_an_error_that_may_leave_half_of_it_done_is_no_refusal(error: str) -> None:
    with pytest.raises(Unexpected):
        of_set(error)


def test_an_error_within_a_transaction_is_no_success() -> None:
    with pytest.raises(Unexpected):
        of_block("OK", "QUEUED", "QUEUED", "QUEUED", ["OK", hiredis.ReplyError("ERR anything"), 1])


def test_done() -> None:
    assert of_set("OK").done
    assert of_block("OK", "QUEUED", "QUEUED", "QUEUED", ["OK", "OK", 3]).result == 3


def test_what_changes_nothing_is_no_write() -> None:
    pop = REPERTOIRE.list("k", 0.6)
    assert pop.op == "pop"
    assert pop.changed("1")
    assert not pop.changed(None)
    assert not REPERTOIRE.blocking_pop("k").changed(NO_NEWS)
    assert not REPERTOIRE.swap("k", 0.1).changed(False)
    assert REPERTOIRE.string("k", 0.1).changed(None)


def test_every_kind_of_operation_is_drawn() -> None:
    drawn = {(action.model, action.op) for action in (REPERTOIRE.draw() for _ in range(2000))}
    assert len(drawn) == 18
    names = {command[0] for action in (REPERTOIRE.draw() for _ in range(2000)) for command in action.commands}
    for name in [
        "SET",
        "GET",
        "INCR",
        "EVAL",
        "RPUSH",
        "LPOP",
        "LRANGE",
        "HSET",
        "HDEL",
        "ZADD",
        "ZREM",
        "XADD",
        "XRANGE",
        "MULTI",
        "EXEC",
        "MGET",
    ]:
        assert name in names
