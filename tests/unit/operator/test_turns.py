"""Who is made when: the oldest first, a few at once, and everybody in the end."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorycluster_operator.cache import ClusterKey
from memorycluster_operator.turns import FAIR, Line, Turns, needs_turn


def key(number: int) -> ClusterKey:
    return ClusterKey("shop", f"cluster-{number:03}")


def created(number: int) -> str:
    return f"2026-11-29T00:{number // 60:02}:{number % 60:02}Z"


@pytest.mark.parametrize(
    ("obj", "needs"),
    [
        ({"metadata": {}}, True),
        ({"metadata": {}, "status": {"identity": {}}}, True),
        ({"metadata": {}, "status": {"phase": "Pending"}}, True),
        ({"metadata": {}, "status": {"phase": "Ready"}}, False),
        ({"metadata": {}, "status": {"phase": "Degraded"}}, False),
        ({"metadata": {}, "status": {"phase": "Unavailable"}}, False),
        ({"metadata": {"deletionTimestamp": "2026-11-29T00:00:00Z"}}, False),
    ],
)
def test_only_what_has_never_served_waits(obj: dict[str, object], needs: bool) -> None:
    assert needs_turn(obj) is needs


@given(st.lists(st.integers(0, 300), unique=True, min_size=1, max_size=40))
def test_the_oldest_come_first_but_for_one_in_a_few(numbers: list[int]) -> None:
    line = Line()
    for each in numbers:
        line.join(key(each), created(each))
    left = list(numbers)
    for turn in range(1, len(numbers) + 1):
        wanted = left[0] if turn % FAIR == 0 else min(left)
        assert line.next() == key(wanted)
        left.remove(wanted)
    assert line.next() is None


@given(st.integers(1, 30), st.integers(0, 30))
def test_everybodys_turn_comes_although_older_ones_ask_again_and_again(older: int, before: int) -> None:
    """A few old clusters that never get ready, and make pass after pass, hold nobody back for ever."""
    line, young = Line(), key(500)
    for each in range(older):
        line.join(key(each), created(each))
    for _ in range(before):
        line.join(again := line.next() or young, created(0))
        assert again != young
    line.join(young, created(500))
    given = 0
    while (found := line.next()) != young:
        assert found is not None
        line.join(found, created(0))
        given += 1
        assert given < FAIR * (older + 1)


@given(st.lists(st.integers(0, 300), unique=True, min_size=1, max_size=20), st.data())
def test_who_has_left_gets_no_turn(numbers: list[int], data: st.DataObject) -> None:
    line = Line()
    for each in numbers:
        line.join(key(each), created(each))
    gone = data.draw(st.sets(st.sampled_from(numbers)))
    for each in gone:
        line.leave(key(each))
    given = [line.next() for _ in range(len(line))]
    assert sorted(map(str, given)) == sorted(str(key(each)) for each in set(numbers) - gone)


async def test_no_more_than_a_few_at_once_and_all_in_the_end() -> None:
    turns, now, most, done = Turns(at_once=3), 0, 0, []

    async def one(number: int) -> None:
        nonlocal now, most
        with turns.ask(key(number), created(number)) as turn:
            assert await turn.comes(60)
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
        done.append(number)

    await asyncio.gather(*map(one, range(50)))
    assert most == 3
    assert sorted(done) == list(range(50))


async def test_who_holds_a_turn_for_long_waits_for_somebody_else_and_keeps_nobody() -> None:
    turns = Turns(at_once=1, held_for=0.01)
    with turns.ask(key(1), created(1)) as held:
        assert await held.comes(60)
        with turns.ask(key(2), created(2)) as second:
            assert await second.comes(60)
    first, other = turns.ask(key(3), created(3)), turns.ask(key(4), created(4))
    assert await first.comes(60)
    assert not await other.comes(0), "what was given back by time is not given back once more at the end"


async def test_who_is_cancelled_while_it_waits_takes_no_turn_from_others() -> None:
    turns = Turns(at_once=1)
    with turns.ask(key(1), created(1)) as held:
        assert await held.comes(60)

        async def wait() -> None:
            with turns.ask(key(2), created(2)) as turn:
                await turn.comes(60)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        third = turns.ask(key(3), created(3))
    assert await third.comes(60)
