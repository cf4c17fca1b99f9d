"""Reading that is put off: nothing is lost, nothing comes twice, and an end is noticed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from memorycluster.agent.engine import Channel


class Heard(Channel):
    def __init__(self) -> None:
        self.data = b""
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def story() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    _, heard = await loop.create_connection(Heard, sock=ours)
    heard.read_now()
    heard.read_on()  # It is on.
    theirs.send(b"one ")
    await until(lambda: heard.data == b"one ")
    heard.put_off()
    heard.put_off()
    heard.read_now()  # There is nothing.
    theirs.send(b"two ")
    theirs.send(b"three ")
    await asyncio.sleep(0.05)
    assert heard.data == b"one "
    heard.read_now()
    assert heard.data == b"one two three "
    theirs.send(b"four")
    heard.read_on()
    await until(lambda: heard.data == b"one two three four")
    heard.put_off()
    theirs.send(b"!")
    theirs.close()
    heard.read_now()
    heard.read_now()  # It has ended; that is noticed when reading on.
    assert not heard.ended.is_set()
    heard.read_on()
    await asyncio.wait_for(heard.ended.wait(), 30)
    assert heard.data == b"one two three four!"
    heard.read_now()
    heard.put_off()
    heard.read_on()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_reading_that_is_put_off(run: Callable[..., None]) -> None:
    run(story())
