"""Whom an engine is made to meet, and to forget."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from tests.unit.pod.test_config import cluster

from memorycluster.api.topology import Node
from memorycluster.pod.peers import (
    Members,
    Seen,
    hosts_file,
    name_service,
    parse_nodes,
    to_forget,
    to_look_up,
    to_meet,
)

ME = "orders-0-1"
MEMBERS = Members.of(cluster(), ME)
NAMES = {node.name: node for node in MEMBERS.others}
GONE = next(node for node in MEMBERS.surplus.values() if node.name == "orders-0-3")


def seen(node: Node, *flags: str, linked: bool = True) -> Seen:
    return Seen(node.id, frozenset(flags or ("slave",)), linked)


def everybody() -> list[Seen]:
    return [seen(MEMBERS.myself, "myself", "master"), *(seen(node) for node in NAMES.values())]


def test_the_answer_of_an_engine_is_understood() -> None:
    text = (
        "a1 :6379@16379,h slave b2 1 0 1 disconnected\n"
        "b2 10.0.0.2:6379@16379,h myself,master,nofailover - 0 0 0 connected 0-8191\n"
    )
    assert parse_nodes(text) == [
        Seen("a1", frozenset({"slave"}), linked=False),
        Seen("b2", frozenset({"myself", "master", "nofailover"}), linked=True),
    ]


def test_at_rest_nothing_is_looked_up() -> None:
    assert to_look_up(everybody(), MEMBERS) == []
    assert to_forget(everybody(), MEMBERS, {}) == []


def test_who_is_not_linked_is_met_once_its_address_is_known() -> None:
    lost = NAMES["orders-1-0"]
    view = [each for each in everybody() if each.id != lost.id]
    for now in (view, [*view, seen(lost, "slave", "fail?", linked=False)]):
        assert to_look_up(now, MEMBERS) == [lost]
        assert to_meet(now, MEMBERS, {lost.name: "10.0.0.7"}) == [lost]
        assert to_meet(now, MEMBERS, {lost.name: None}) == []
        assert to_meet(now, MEMBERS, {}) == []
        assert to_forget(now, MEMBERS, {lost.name: None}) == [], "a member is never forgotten"


def test_who_has_left_is_forgotten_once_not_even_its_name_is_there() -> None:
    view = [*everybody(), seen(GONE, linked=False)]
    assert to_look_up(view, MEMBERS) == [GONE]
    assert to_forget(view, MEMBERS, {GONE.name: None}) == [GONE.id]
    assert to_forget(view, MEMBERS, {GONE.name: "10.0.0.9"}) == [], "it is on its way in, or out"
    assert to_forget(view, MEMBERS, {}) == [], "the name service did not answer"
    assert to_meet(view, MEMBERS, {GONE.name: "10.0.0.9"}) == [], "whoever joins meets us"
    assert to_forget([*everybody(), seen(GONE)], MEMBERS, {GONE.name: None}) == [], "it is linked"


def test_a_stranger_is_forgotten_and_a_handshake_is_not_one() -> None:
    stranger = Seen("f" * 40, frozenset({"master"}), linked=True)
    greeting = Seen("e" * 40, frozenset({"handshake"}), linked=False)
    assert to_forget([*everybody(), stranger, greeting], MEMBERS, {}) == [stranger.id]


def test_a_node_that_is_one_too_many_knows_the_others() -> None:
    members = Members.of(cluster(nodes_per_shard=1), "orders-1-2")
    assert [node.name for node in members.others] == ["orders-0-0", "orders-1-0"]
    assert members.myself.id not in members.surplus
    assert to_forget([seen(members.myself, "myself")], members, {}) == []


async def test_hosts_are_looked_up_as_the_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# nobody\n127.0.0.2 a.x  b.x # two\n\n")
    resolve = hosts_file(path)
    assert [await resolve(host) for host in ("a.x", "b.x", "x", "#")] == [
        "127.0.0.2",
        "127.0.0.2",
        None,
        None,
    ]
    path.write_text("127.0.0.3 a.x\n")
    assert await resolve("a.x") == "127.0.0.3"


@pytest.mark.parametrize(("own", "family"), [("10.0.0.1", socket.AF_INET), ("fd00::1", socket.AF_INET6)])
async def test_a_host_is_looked_up_among_addresses_of_our_own_family(
    monkeypatch: pytest.MonkeyPatch, own: str, family: int
) -> None:
    known = {socket.AF_INET: "10.0.0.7", socket.AF_INET6: "fd00::7"}

    async def getaddrinfo(*_: object, family: int, **__: object) -> list[tuple[object, ...]]:
        return [(family, socket.SOCK_STREAM, 6, "", (known[family], 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await name_service(own)("orders-0-0.orders-nodes") == known[family]
