"""The Jobs of all clusters that make snapshots: how far they are, by their own words.

Kubernetes tells what a Job says only at its end; and what is asked here, and seldom, needs no rights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp

from memorycluster_operator.agents import ANSWER_WITHIN, END_WITHIN, TRANSPORT
from memorycluster_operator.cache import ClusterKey
from memorycluster_operator.makings import Progress

ASK_EVERY = 20.0
"""Seconds between two questions to the Jobs of a cluster: a status is written as often, not more."""


@dataclass(slots=True)
class _Watch:
    token: str
    addresses: Mapping[str, str]
    """By the Job's name."""
    said: dict[str, Progress] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class Jobs:
    """All Jobs that run."""

    def __init__(
        self, wake: Callable[[ClusterKey], None], *, port: int = 8080, ask_every: float = ASK_EVERY
    ) -> None:
        """Prepare to ask.

        :param wake: called when Jobs of a cluster are further than they were.
        """
        self._wake = wake
        self._port = port
        self._ask_every = ask_every
        self._watches: dict[ClusterKey, _Watch] = {}
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [watch.task for watch in self._watches.values() if watch.task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_WITHIN)
        await self._session.close()

    def watch(self, cluster: ClusterKey, addresses: Mapping[str, str], token: str) -> None:
        """Ask these Jobs of a cluster from now on, which are at these addresses, and no others of it."""
        watch = self._watches.get(cluster)
        if not addresses or not token:
            if watch is not None:
                if watch.task:
                    watch.task.cancel()
                del self._watches[cluster]
            return
        if watch is None:
            self._watches[cluster] = watch = _Watch(token, addresses)
            watch.task = asyncio.create_task(self._follow(cluster, watch), name=f"jobs of {cluster}")
        watch.token, watch.addresses = token, addresses
        watch.said = {name: said for name, said in watch.said.items() if name in addresses}

    def progress(self, cluster: ClusterKey) -> Mapping[str, Progress]:
        """Return what the Jobs of a cluster said last, by name."""
        watch = self._watches.get(cluster)
        return dict(watch.said) if watch else {}

    async def _follow(self, cluster: ClusterKey, watch: _Watch) -> None:
        while True:
            asked = dict(watch.addresses)
            answers = await asyncio.gather(*(self._ask(watch, each) for each in asked.values()))
            said = {name: answer for name, answer in zip(asked, answers, strict=True) if answer}
            news = {name: each for name, each in said.items() if name in watch.addresses}
            if any(watch.said.get(name) != each for name, each in news.items()):
                watch.said |= news
                self._wake(cluster)
            await asyncio.sleep(self._ask_every)

    async def _ask(self, watch: _Watch, address: str) -> Progress | None:
        """Return what a Job says; None: nothing yet, or it does not answer."""
        where = f"[{address}]" if ":" in address else address
        headers = {"Authorization": f"Bearer {watch.token}"}
        try:
            async with self._session.get(
                f"http://{where}:{self._port}/v1/progress", headers=headers
            ) as response:
                response.raise_for_status()
                said = await response.json()
                return Progress(str(said["step"]), int(said["done"]), int(said["total"]))
        except (*TRANSPORT, KeyError, TypeError):
            return None
