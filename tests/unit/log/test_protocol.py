"""NATS' protocol: what is in the bytes, however they are cut."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorycluster.log import protocol
from memorycluster.log.protocol import Message, Parser, ProtocolError

Item = Message | tuple[str, str]

messages = st.builds(
    Message,
    st.integers(1, 99),
    st.sampled_from(["a", "log.demo-0", "_INBOX.x.7"]),
    st.sampled_from(["", "$JS.ACK.s.c.1.2.3.4.5"]),
    st.sampled_from([b"", b"NATS/1.0\r\n\r\n", b"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\n\r\n"]),
    st.one_of(st.binary(max_size=300), st.just(b"\r\nMSG a 1 1\r\n")),
)
lines = st.sampled_from([("PING", ""), ("PONG", ""), ("+OK", ""), ("-ERR", "'no'"), ("INFO", '{"a": "b c"}')])


def bytes_of(item: Item) -> bytes:
    if not isinstance(item, Message):
        return f"{item[0]} {item[1]}".rstrip().encode() + b"\r\n"
    words = [item.subject, str(item.subscription), *([item.reply] if item.reply else [])]
    words = ["HMSG", *words, str(len(item.head))] if item.head else ["MSG", *words]
    line = " ".join([*words, str(len(item.head) + len(item.data))]).encode()
    return b"\r\n".join((line, item.head + item.data, b""))


def read(pieces: list[bytes]) -> list[Item]:
    found: list[Item] = []
    parser = Parser(found.append, lambda word, rest: found.append((word, rest)))
    for piece in pieces:
        parser.feed(piece)
    return found


@given(st.lists(messages | lines, max_size=8), st.lists(st.integers(0, 3000), max_size=20))
def test_whatever_the_pieces_are(items: list[Item], cuts: list[int]) -> None:
    data = b"".join(map(bytes_of, items))
    at = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(at)]
    assert read(pieces) == items
    assert read([data[i : i + 1] for i in range(len(data))]) == items


@pytest.mark.parametrize(
    "data",
    [
        b"MSG a 1\r\n",
        b"MSG a one 3\r\nabc\r\n",
        b"MSG a 1 3\r\nabcd\r\n",
        b"HMSG a 1 9 3\r\nabc\r\n",
        b"HMSG a 1\r\n",
        b"x" * (protocol.LONGEST_LINE + 1),
    ],
)
def test_what_is_not_the_protocol(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read([data, b"PING\r\n"])


def test_what_is_sent() -> None:
    assert protocol.publish("a", b"xyz") == b"PUB a 3\r\nxyz\r\n"
    assert protocol.publish("a", b"xyz", reply="b") == b"PUB a b 3\r\nxyz\r\n"
    assert protocol.publish("a", b"xyz", reply="b", headers={"K": "v"}) == (
        b"HPUB a b 18 21\r\nNATS/1.0\r\nK: v\r\n\r\nxyz\r\n"
    )
    assert protocol.subscribe("a.*", 7) == b"SUB a.* 7\r\n"
    assert protocol.unsubscribe(7) == b"UNSUB 7\r\n"
    assert protocol.connect(user="u", password='p"', name="n").startswith(b"CONNECT {")


def test_headers() -> None:
    head = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: $JS.FC.x\r\nB: c:d\r\n\r\n"
    message = Message(1, "a", "", head, b"")
    assert message.status == "100"
    assert message.header("Nats-Consumer-Stalled") == "$JS.FC.x"
    assert message.header("B") == "c:d"
    assert message.header("C") == ""
    assert Message(1, "a", "", b"", b"").status == ""
    assert Message(1, "a", "", b"NATS/1.0\r\nA: 503\r\n\r\n", b"").status == ""


def test_where_a_message_of_a_log_stands() -> None:
    time = datetime(2023, 11, 14, 22, 13, 20, 5, UTC)
    assert protocol.delivered("$JS.ACK.demo-0.feed.1.12.3.1700000000000005999.4") == (12, 3, time)
    assert protocol.delivered("$JS.ACK._.hash.demo-0.feed.1.12.3.1700000000000005999.4.x") == (12, 3, time)
    for reply in ("", "$JS.ACK.demo-0", "$JS.FC.demo-0.feed.1.12.3.1700000000.4", "$JS.ACK.a.b.c.d.e.f.g"):
        with pytest.raises(ProtocolError):
            protocol.delivered(reply)
