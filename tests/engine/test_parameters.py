"""Which parameters the engine takes live, and what it has when nothing is said: the table is true."""

from __future__ import annotations

from tests.engine.agent import Engine

from memorycluster.api.parameters import list_parameters
from memorycluster.valkey.parameters import LIVE, READ_AT_START


async def test_the_table_names_what_a_manifest_may_set() -> None:
    assert set(list_parameters()) == LIVE.keys() | READ_AT_START.keys()
    assert not LIVE.keys() & READ_AT_START.keys()


async def test_the_engines_own_values_are_in_the_table(follower: Engine) -> None:
    table = LIVE | READ_AT_START
    client = await follower.client()
    pairs = await client.call("CONFIG", "GET", *table)
    found = {pairs[i].decode(): pairs[i + 1].decode() for i in range(0, len(pairs), 2)}
    assert found == table


async def test_what_is_called_live_can_be_set_live(follower: Engine) -> None:
    for name, value in LIVE.items():
        await follower.configure(name, value)
    client = await follower.client()
    for name, value in READ_AT_START.items():
        answer = await client.call("CONFIG", "SET", name, value)
        assert "immutable" in str(answer)
