"""The judge itself: hand-made histories that must be judged bad, and good ones that must pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.faults.history import History, Operation
from tests.faults.judge import Verdict, judge

UNKNOWN = object()
Step = tuple[Any, ...]
"""(op, *args, result, call, return[, node of a replica])."""


async def judged(model: str, steps: Sequence[Step], path: Path) -> Verdict:
    history = History()
    for number, step in enumerate(steps):
        replica = isinstance(step[-1], str)
        node = step[-1] if replica else "primary"
        op, *args, result, called, returned = step[:-1] if replica else step
        history.record(
            Operation(
                key="k",
                model=model,
                op=op,
                args=tuple(args),
                result=None if result is UNKNOWN else result,
                known=result is not UNKNOWN,
                called=called,
                returned=returned,
                client=number,
                node=node,
                replica=replica,
            )
        )
    file = path / "history.jsonl"
    history.save(file)
    return await judge(file, limit=10)


GOOD: dict[str, tuple[str, list[Step]]] = {
    "a write, then its value": ("register", [("set", "a", None, 0, 1), ("get", "a", 2, 3)]),
    "nothing was written": ("register", [("get", None, 0, 1)]),
    "a read beside a write may see either": (
        "register",
        [("set", "a", None, 0, 9), ("get", None, 1, 2), ("get", "a", 3, 4)],
    ),
    "an unknown write may show": ("register", [("set", "a", UNKNOWN, 0, 1), ("get", "a", 5, 6)]),
    "an unknown write may never show": ("register", [("set", "a", UNKNOWN, 0, 1), ("get", None, 5, 6)]),
    "an unknown write may show late": (
        "register",
        [("set", "a", UNKNOWN, 0, 1), ("get", None, 2, 3), ("get", "a", 4, 5)],
    ),
    "compare and set": (
        "register",
        [("cas", "", "a", True, 0, 1), ("cas", "b", "c", False, 2, 3), ("cas", "a", "d", True, 4, 5)],
    ),
    "counting": ("counter", [("incr", 1, 0, 1), ("incr", 2, 2, 3), ("get", 2, 4, 5)]),
    "unknown increments, some applied": (
        "counter",
        [
            ("incr", UNKNOWN, 0, 1),
            ("incr", UNKNOWN, 0, 1),
            ("get", 1, 2, 3),
            ("incr", 2, 4, 5),
            ("get", 3, 6, 7),
        ],
    ),
    "a list": (
        "list",
        [
            ("push", "a", 1, 0, 1),
            ("push", "b", 2, 2, 3),
            ("read", ["a", "b"], 4, 5),
            ("pop", "a", 6, 7),
            ("len", 1, 8, 9),
        ],
    ),
    "an unknown pop": (
        "list",
        [
            ("push", "a", 1, 0, 1),
            ("pop", UNKNOWN, 2, 3),
            ("read", ["a"], 4, 5),
            ("read", [], 6, 7),
            ("pop", None, 8, 9),
        ],
    ),
    "a hash": (
        "map",
        [
            ("set", "f", "a", 1, 0, 1),
            ("set", "g", "b", 1, 2, 3),
            ("set", "f", "c", 0, 4, 5),
            ("get", "f", "c", 6, 7),
            ("del", "g", 1, 8, 9),
            ("read", {"f": "c"}, 10, 11),
            ("get", "g", None, 12, 13),
        ],
    ),
    "a stream, and a replica that is late": (
        "stream",
        [
            ("push", "a", "1-0", 0, 1),
            ("push", "b", "2-0", 2, 3),
            ("read", [["1-0", "a"]], 10, 11, "r1"),
            ("read", [], 10, 11, "r2"),
            ("read", [["1-0", "a"], ["2-0", "b"]], 12, 13),
        ],
    ),
    "bundles": (
        "bundle",
        [
            ("write", "a", 1, 0, 1),
            ("read", ["a", "a", 1], 2, 3),
            ("write", "b", UNKNOWN, 4, 5),
            ("read", ["b", "b", 2], 6, 7),
            ("read", ["a", "a", 1], 8, 9, "r1"),
            ("read", [None, None, 0], 8, 9, "r2"),
        ],
    ),
}

BAD: dict[str, tuple[str, str, list[Step]]] = {
    "a lost write": ("register", "linearizability", [("set", "a", None, 0, 1), ("get", None, 2, 3)]),
    "a stale read": (
        "register",
        "linearizability",
        [("set", "a", None, 0, 1), ("set", "b", None, 2, 3), ("get", "a", 4, 5)],
    ),
    "a value that was read vanishes": (
        "register",
        "linearizability",
        [("set", "a", UNKNOWN, 0, 1), ("get", "a", 2, 3), ("get", None, 4, 5)],
    ),
    "two clients see two orders": (
        "register",
        "linearizability",
        [
            ("set", "a", None, 0, 9),
            ("set", "b", None, 0, 9),
            ("get", "a", 10, 11),
            ("get", "b", 12, 13),
        ],
    ),
    "a refused write is seen": ("register", "identity", [("get", "a", 0, 1)]),
    "a value from the future": ("register", "identity", [("get", "a", 0, 1), ("set", "a", None, 2, 3)]),
    "compare and set on what was not there": (
        "register",
        "linearizability",
        [("set", "a", None, 0, 1), ("cas", "b", "c", True, 2, 3)],
    ),
    "a lost increment": ("counter", "linearizability", [("incr", 1, 0, 1), ("incr", 1, 2, 3)]),
    "an increment applied twice": (
        "counter",
        "linearizability",
        [("incr", 1, 0, 1), ("get", 2, 2, 3)],
    ),
    "an unknown increment applied twice": (
        "counter",
        "linearizability",
        [("incr", UNKNOWN, 0, 1), ("get", 2, 2, 3)],
    ),
    "the same increment to two clients: two primaries": (
        "counter",
        "linearizability",
        [("incr", 1, 0, 9), ("incr", 1, 0, 9)],
    ),
    "a lost element": (
        "list",
        "linearizability",
        [("push", "a", 1, 0, 1), ("push", "b", 2, 2, 3), ("read", ["b"], 4, 5)],
    ),
    "an element pushed twice": (
        "list",
        "linearizability",
        [("push", "a", 1, 0, 1), ("read", ["a", "a"], 2, 3)],
    ),
    "an element popped twice": (
        "list",
        "linearizability",
        [("push", "a", 1, 0, 1), ("pop", "a", 2, 3), ("pop", "a", 4, 5)],
    ),
    "elements swap": (
        "list",
        "linearizability",
        [("push", "a", 1, 0, 1), ("push", "b", 2, 2, 3), ("read", ["b", "a"], 4, 5)],
    ),
    "a field comes back": (
        "map",
        "linearizability",
        [("set", "f", "a", 1, 0, 1), ("del", "f", 1, 2, 3), ("read", {"f": "a"}, 4, 5)],
    ),
    "a field vanishes": (
        "map",
        "linearizability",
        [("set", "f", "a", 1, 0, 1), ("set", "g", "b", 1, 0, 1), ("read", {"f": "a"}, 4, 5)],
    ),
    "a wrong count": ("map", "linearizability", [("set", "f", "a", 1, 0, 1), ("set", "f", "b", 1, 2, 3)]),
    "an entry of a stream is lost": (
        "stream",
        "linearizability",
        [("push", "a", "1-0", 0, 1), ("push", "b", "2-0", 2, 3), ("read", [["2-0", "b"]], 4, 5)],
    ),
    "an entry changes its id": (
        "stream",
        "identity",
        [("push", "a", "1-0", 0, 1), ("read", [["3-0", "a"]], 4, 5)],
    ),
    "a replica shows what is lost afterwards": (
        "stream",
        "replica",
        [("push", "a", UNKNOWN, 0, 1), ("read", [["1-0", "a"]], 2, 3, "r1"), ("read", [], 4, 5)],
    ),
    "a replica goes back": (
        "stream",
        "replica",
        [
            ("push", "a", "1-0", 0, 1),
            ("read", [["1-0", "a"]], 2, 3, "r1"),
            ("read", [], 4, 5, "r1"),
            ("read", [["1-0", "a"]], 6, 7),
        ],
    ),
    "a replica has another order": (
        "stream",
        "replica",
        [
            ("push", "a", "1-0", 0, 9),
            ("push", "b", "2-0", 0, 9),
            ("read", [["2-0", "b"]], 2, 3, "r1"),
            ("read", [["1-0", "a"], ["2-0", "b"]], 10, 11),
        ],
    ),
    "a replica counts on what the primary then lacks": (
        "counter",
        "replica",
        [("incr", UNKNOWN, 0, 1), ("get", 1, 2, 3, "r1"), ("get", 0, 4, 5)],
    ),
    "a replica sees a write that the primary shows only later": (
        "register",
        "linearizability",
        [("set", "a", None, 0, 20), ("get", "a", 2, 3, "r1"), ("get", None, 4, 5), ("get", "a", 21, 22)],
    ),
    "a torn transaction": (
        "bundle",
        "linearizability",
        [("write", "a", 1, 0, 1), ("write", "b", 2, 2, 3), ("read", ["b", "a", 2], 4, 5)],
    ),
    "half an unknown transaction": (
        "bundle",
        "linearizability",
        [("write", "a", 1, 0, 1), ("write", "b", UNKNOWN, 2, 3), ("read", ["a", "a", 2], 4, 5)],
    ),
    "a torn transaction on a replica": (
        "bundle",
        "replica",
        [("write", "a", 1, 0, 1), ("write", "b", 2, 2, 3), ("read", ["b", "a", 2], 4, 5, "r1")],
    ),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_history_passes(name: str, tmp_path: Path) -> None:
    model, steps = GOOD[name]
    verdict = await judged(model, steps, tmp_path)
    assert verdict.ok, str(verdict)
    assert verdict.operations == len(steps)


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_history_is_found(name: str, tmp_path: Path) -> None:
    model, kind, steps = BAD[name]
    verdict = await judged(model, steps, tmp_path)
    assert [problem.kind for problem in verdict.problems][:1] == [kind], str(verdict)


async def test_many_unknown_writes_are_decided(tmp_path: Path) -> None:
    """As after a long outage: 48 increments, 12 sets and 12 pushes are unknown, beside others."""
    chance = random.Random(7)
    history = History()

    def record(
        key: str, model: str, op: str, args: tuple[str, ...], result: Any, at: int, *, known: bool
    ) -> None:
        history.record(
            Operation(key, model, op, args, result, known, at, at + chance.randrange(5, 40), 0, "n")
        )

    count = 0
    value: str | None = None
    elements: list[str] = []
    for number in range(400):
        at = number * 10  # up to four overlap
        unknown = 150 <= number < 222 and number % 3 != 0
        applied = not unknown or chance.random() < 0.5
        count += applied
        record("c", "counter", "incr", (), count, at, known=not unknown)
        if number % 6 == 0 or not unknown:
            value = f"v{number}" if applied else value
            record("r", "register", "set", (f"v{number}",), None, at, known=not unknown)
            elements += [f"e{number}"] if applied else []
            record("l", "list", "push", (f"e{number}",), len(elements), at, known=not unknown)
    record("c", "counter", "get", (), count, 5000, known=True)
    record("l", "list", "read", (), elements, 5000, known=True)
    file = tmp_path / "history.jsonl"
    history.save(file)
    verdict = await judge(file, limit=20)
    assert verdict.ok, str(verdict)


@pytest.mark.parametrize("lost", [False, True])
async def test_unknown_writes_that_nobody_saw_are_interchangeable(lost: bool, tmp_path: Path) -> None:
    """30 unknown writes of each kind, none of them ever seen, and with or without one lost write: decided."""
    history = History()

    def record(
        key: str, model: str, op: str, args: tuple[str, ...], result: Any, at: int, *, known: bool
    ) -> None:
        history.record(Operation(key, model, op, args, result, known, at, at + 5, 0, "n"))

    for at in range(30):
        record("r", "register", "set", (f"u{at}",), None, at, known=False)
        record("l", "list", "push", (f"u{at}",), None, at, known=False)
        record("s", "stream", "push", (f"u{at}",), None, at, known=False)
        record("m", "map", "set", ("abc"[at % 3], f"u{at}"), None, at, known=False)
        record("b", "bundle", "write", (f"u{at}",), None, at, known=False)
        record("c", "counter", "incr", (), None, at, known=False)
    for at in range(0, 40, 2):  # beside them
        record("r", "register", "set", (f"k{at}",), None, at, known=True)
        record("s", "stream", "push", (f"k{at}",), f"{at}-0", at, known=True)
        record("l", "list", "push", (f"k{at}",), 1 + at // 2, at, known=True)
    written = [f"k{at}" for at in range(0, 40, 2)]
    record("r", "register", "get", (), "u99" if lost else "k38", 1000, known=True)
    record("r", "register", "set", ("u99",), None, 1200, known=True)
    record("s", "stream", "read", (), [[f"{v[1:]}-0", v] for v in written[lost:]], 1000, known=True)
    record("l", "list", "read", (), written[lost:], 1000, known=True)
    record("m", "map", "read", (), {}, 1000, known=True)
    record("b", "bundle", "read", (), [None, None, int(lost)], 1000, known=True)
    record("c", "counter", "get", (), 31 if lost else 30, 1000, known=True)
    file = tmp_path / "history.jsonl"
    history.save(file)
    verdict = await judge(file, limit=20)
    kinds = {(problem.key, problem.kind) for problem in verdict.problems}
    bad = {(key, "linearizability") for key in "slbc"} | {("r", "identity")}
    assert kinds == (bad if lost else set()), str(verdict)


async def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text('{"key": "k", "model": "abacus", "op": "set", "args": []}\n')
    with pytest.raises(RuntimeError, match="line 1: no such model"):
        await judge(file)
