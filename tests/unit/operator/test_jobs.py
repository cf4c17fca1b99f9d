"""How far Jobs are: what they tell, and who is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.log.servers import free_ports, until

from memorycluster.snapshot.maker import Progress as Said
from memorycluster.snapshot.telling import TellConfig, telling
from memorycluster_operator.cache import ClusterKey
from memorycluster_operator.jobs import Jobs
from memorycluster_operator.makings import Progress

KEY = ClusterKey("shop", "orders")


class Job:
    """One that tells how far it is."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.now: Said | None = None
        self.woken = 0

    def wake(self, key: ClusterKey) -> None:
        assert key == KEY
        self.woken += 1


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[Job]:
    (tmp_path / "token").write_text("token-of-the-test\n")
    (port,) = free_ports(1)
    job = Job(port)
    async with telling(TellConfig(port=port, token_file=tmp_path / "token"), lambda: job.now):
        yield job


def asking(job: Job) -> Jobs:
    return Jobs(job.wake, port=job.port, ask_every=0.02)


async def test_what_it_says_is_known_and_wakes_when_it_is_new(job: Job) -> None:
    async with asking(job) as jobs:
        jobs.watch(KEY, {"a": "127.0.0.1"}, "token-of-the-test")
        await asyncio.sleep(0.2)
        assert (jobs.progress(KEY), job.woken) == ({}, 0), "it has not begun"
        job.now = Said("upload", 10, 40)

        async def told() -> bool:
            return jobs.progress(KEY) == {"a": Progress("upload", 10, 40)}

        await until(told, 30, "it is told")
        assert job.woken == 1
        await asyncio.sleep(0.2)
        assert job.woken == 1, "nothing new"
        jobs.watch(KEY, {"a": "127.0.0.1", "b": "127.0.0.2"}, "token-of-the-test")

        async def both() -> bool:
            return set(jobs.progress(KEY)) == {"a", "b"}

        await until(both, 30, "the other one is asked as well")
        jobs.watch(KEY, {"b": "127.0.0.2"}, "token-of-the-test")
        assert set(jobs.progress(KEY)) == {"b"}, "the first one is finished"
        jobs.watch(KEY, {}, "token-of-the-test")
        assert jobs.progress(KEY) == {}


async def test_it_tells_nobody_else(job: Job) -> None:
    job.now = Said("upload", 10, 40)
    async with asking(job) as jobs:
        jobs.watch(KEY, {"a": "127.0.0.1"}, "another-token")
        await asyncio.sleep(0.2)
        assert jobs.progress(KEY) == {}


async def test_one_that_is_gone_keeps_what_it_said_and_does_no_harm(job: Job) -> None:
    async with asking(job) as jobs:
        job.now = Said("save", 5, 0)
        jobs.watch(KEY, {"a": "127.0.0.1", "nowhere": "192.0.2.1"}, "token-of-the-test")

        async def told() -> bool:
            return set(jobs.progress(KEY)) == {"a"}

        await until(told, 60, "the other one is told of")


def test_it_is_said_in_words() -> None:
    assert str(Progress("upload", 1 << 20, 3 << 20)) == "upload 1.0 MiB of 3.0 MiB"
    assert str(Progress("save", 5, 0)) == "save 5 B"
