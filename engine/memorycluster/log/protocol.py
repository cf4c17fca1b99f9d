"""The client's side of NATS' protocol: bytes in, messages out, and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

CRLF = b"\r\n"
HEADERS = b"NATS/1.0"
LONGEST_LINE = 64 * 1024
"""Bytes of a control line. The server's greeting is the longest one, as it lists all servers."""

EPOCH = datetime.fromtimestamp(0, UTC)

PING = b"PING\r\n"
PONG = b"PONG\r\n"


class ProtocolError(ValueError):
    """What came is not this protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that the server delivers."""

    subscription: int
    subject: str
    reply: str
    """Subject for an answer; may be empty."""
    head: bytes
    """The raw headers; may be empty."""
    data: bytes

    @property
    def status(self) -> str:
        """The status that the server itself gives it, as ``503``; empty if it has none."""
        at = len(HEADERS) + 1
        return self.head[at : at + 3].decode() if self.head[at - 1 : at] == b" " else ""

    def header(self, name: str) -> str:
        """Return the value of a header; empty if it is not there."""
        for line in self.head.split(CRLF)[1:]:
            key, _, value = line.decode().partition(":")
            if key == name:
                return value.strip()
        return ""


class Parser:
    """Takes bytes as they arrive, and tells what is in them."""

    def __init__(self, on_message: Callable[[Message], None], on_line: Callable[[str, str], None]) -> None:
        """``on_line`` gets the word and the rest of a line that is no message: INFO, PING, PONG, -ERR..."""
        self._on_message = on_message
        self._on_line = on_line
        self._rest = bytearray()
        self._needed = 0
        """Bytes that the rest must have before it is worth looking at."""

    def feed(self, data: bytes) -> None:
        """Take what has arrived.

        :raises ProtocolError:
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at = self._needed = 0
        while (end := data.find(CRLF, at)) >= 0:
            line = data[at:end]
            if line.startswith((b"MSG ", b"HMSG ")):
                after = self._message(data, line, end + len(CRLF))
                if after > len(data):
                    self._needed = after - at
                    break
                at = after
            else:
                word, _, rest = line.decode(errors="replace").partition(" ")
                at = end + len(CRLF)
                self._on_line(word.upper(), rest)
        else:
            if len(data) - at > LONGEST_LINE:
                raise ProtocolError("a line that does not end")
        self._rest += data[at:]

    def _message(self, data: bytes, line: bytes, begin: int) -> int:
        """Tell of the message whose payload begins at ``begin``; return where it ends, here or beyond."""
        words = line.split()
        with_head = words[0] == b"HMSG"
        try:
            size = int(words[-1])
            head = int(words[-2]) if with_head else 0
            subject, subscription = words[1].decode(), int(words[2])
            reply = words[3].decode() if len(words) == 5 + with_head else ""
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"not a message: {line[:200]!r}") from error
        end = begin + size
        if end + len(CRLF) <= len(data):
            if data[end : end + len(CRLF)] != CRLF or not 0 <= head <= size:
                raise ProtocolError(f"not as long as it says: {line[:200]!r}")
            self._on_message(
                Message(subscription, subject, reply, data[begin : begin + head], data[begin + head : end])
            )
        return end + len(CRLF)


def connect(*, user: str, password: str, name: str) -> bytes:
    """Return the line that answers the server's greeting."""
    options: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "user": user,
        "pass": password,
        "name": name,
        "lang": "python",
        "version": "1",
        "protocol": 1,
        "headers": True,
        "no_responders": True,
    }
    return b"CONNECT " + json.dumps(options).encode() + CRLF


def publish(
    subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return the bytes that send ``payload`` to ``subject``."""
    to = f"{subject} {reply} " if reply else f"{subject} "
    if headers is None:
        return b"".join((f"PUB {to}{len(payload)}\r\n".encode(), payload, CRLF))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{HEADERS.decode()}\r\n{lines}\r\n".encode()
    return b"".join((f"HPUB {to}{len(head)} {len(head) + len(payload)}\r\n".encode(), head, payload, CRLF))


def subscribe(subject: str, subscription: int) -> bytes:
    """Return the line that asks for what is sent to ``subject``."""
    return f"SUB {subject} {subscription}\r\n".encode()


def unsubscribe(subscription: int) -> bytes:
    """Return the line that undoes it."""
    return f"UNSUB {subscription}\r\n".encode()


def delivered(reply: str) -> tuple[int, int, datetime]:
    """Return the sequences in the log and in its feed of a message that JetStream delivered, and its time.

    The time is the log's leader's when it took the message, to the microsecond.

    Its reply subject says: ``$JS.ACK.[domain.account.]stream.consumer.times.sequence.feed.time.pending[.x]``.

    :raises ProtocolError:
    """
    words = reply.split(".")
    at = 5 if len(words) == 9 else 7
    try:
        if words[:2] != ["$JS", "ACK"]:
            raise ValueError
        took = EPOCH + timedelta(microseconds=int(words[at + 2]) // 1000)
        return int(words[at]), int(words[at + 1]), took
    except (ValueError, IndexError, OverflowError) as error:
        raise ProtocolError(f"not a message of a log: {reply!r}") from error
