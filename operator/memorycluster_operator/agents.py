"""The agents of all clusters: what they say, over long polls, and what they are asked to do.

A long poll is answered when something of weight changes, so news arrive at once, and nobody is asked at rest.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
from aiohttp import AddrInfoType

from memorycluster_operator.cache import ClusterKey
from memorycluster_operator.snapshot import AgentReport

logger = logging.getLogger(__name__)

POLL = 45.0
"""Seconds for which an agent holds a long poll while nothing changes."""

ANSWER_WITHIN = 4.0
"""Seconds for an answer that need not wait for anything."""

FAILOVER_WITHIN = 25.0
"""Seconds for a planned failover; the agent itself gives up sooner."""

END_WITHIN = 3.0
"""Seconds for the polls to end."""

RETRY = (0.5, 5.0)
"""Seconds until an agent that did not answer is asked again: at first, at most."""

UNAUTHORIZED = 401

TRANSPORT = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


class AgentError(Exception):
    """The agent refused, or did not answer."""


class Node(NamedTuple):
    """Where a node's agent is."""

    name: str
    pod_uid: str
    address: str
    """The pod's IP."""


@dataclass(slots=True)
class _Watch:
    node: Node
    token: str
    report: AgentReport | None = None
    denied: bool = False
    """It has refused the token."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has answered, or has not."""
    task: asyncio.Task[None] | None = None


class Agents:
    """All agents."""

    def __init__(self, wake: Callable[[ClusterKey], None], *, port: int = 8080) -> None:
        """Prepare to ask.

        :param wake: called when an agent of a cluster says something new, or does not answer any more.
        """
        self._wake = wake
        self._port = port
        self._watches: dict[ClusterKey, dict[str, _Watch]] = {}
        # A poll holds its connection, so there is no limit but that of files.
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_socket)
        self._session = aiohttp.ClientSession(connector=connector)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [watch.task for watches in self._watches.values() for watch in watches.values() if watch.task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_WITHIN)
        await self._session.close()

    def watch(self, cluster: ClusterKey, nodes: Mapping[str, Node], token: str) -> None:
        """Follow what these nodes of a cluster say from now on, and no others of it."""
        watches = self._watches.setdefault(cluster, {})
        for name, watch in list(watches.items()):
            if nodes.get(name) != watch.node or watch.token != token:
                if watch.task:
                    watch.task.cancel()
                del watches[name]
        for name, node in nodes.items():
            if name not in watches:
                watches[name] = watch = _Watch(node, token)
                watch.task = asyncio.create_task(self._follow(cluster, watch), name=f"agent {name}")
        if not watches:
            del self._watches[cluster]

    def reports(self, cluster: ClusterKey) -> dict[str, AgentReport]:
        """Return what the agents of a cluster said last, by node; those that don't answer are left out."""
        watches = self._watches.get(cluster, {})
        return {name: watch.report for name, watch in watches.items() if watch.report}

    def denied(self, cluster: ClusterKey) -> frozenset[str]:
        """Return the nodes of a cluster whose agents refused the token."""
        return frozenset(name for name, watch in self._watches.get(cluster, {}).items() if watch.denied)

    async def asked(self, cluster: ClusterKey) -> None:
        """Return once each agent of a cluster has been asked at least once."""
        for watch in list(self._watches.get(cluster, {}).values()):
            await watch.asked.wait()

    async def ask(self, cluster: ClusterKey) -> dict[str, AgentReport]:
        """Ask all agents of a cluster now, and return what they say, by node."""
        watches = list(self._watches.get(cluster, {}).values())

        async def one(watch: _Watch) -> AgentReport | None:
            try:
                report, _ = await self._status(watch)
            except TRANSPORT:
                return None
            return report

        reports = await asyncio.gather(*map(one, watches))
        return {watch.node.name: said for watch, said in zip(watches, reports, strict=True) if said}

    async def fail_over(
        self, cluster: ClusterKey, primary: str, pod_uid: str, *, successor: str, epoch: int
    ) -> None:
        """Have a primary give leadership to ``successor``, if it leads in that epoch; return once one leads.

        :raises AgentError: it refuses, or does not answer.
        """
        watch = self._find(cluster, primary, pod_uid)
        try:
            said, _ = await self._status(watch)
        except TRANSPORT as error:
            raise AgentError(f"{primary}: its agent does not answer: {_brief(error)}") from error
        if said.role != "leader" or said.epoch != epoch:
            raise AgentError(
                f"{primary} is {said.role} in epoch {said.epoch}, no longer the leader of {epoch}"
            )
        await self._send(watch, "POST", "/v1/failover", {"successor": successor}, within=FAILOVER_WITHIN)

    async def set_parameters(
        self, cluster: ClusterKey, node: str, pod_uid: str, *, revision: str, parameters: Mapping[str, str]
    ) -> None:
        """Tell a node's engine its parameters. Raises AgentError."""
        watch = self._find(cluster, node, pod_uid)
        body = {"revision": revision, "parameters": dict(parameters)}
        await self._send(watch, "PUT", "/v1/parameters", body, within=ANSWER_WITHIN)

    def _find(self, cluster: ClusterKey, node: str, pod_uid: str) -> _Watch:
        watch = self._watches.get(cluster, {}).get(node)
        if watch is None or watch.node.pod_uid != pod_uid:
            raise AgentError(f"{node} is another pod by now")
        return watch

    async def _follow(self, cluster: ClusterKey, watch: _Watch) -> None:
        tag, delay = "", RETRY[0]
        while True:
            try:
                report, tag = await self._status(watch, after=tag)
                delay = RETRY[0]
                changed = watch.report is None or _weight(report) != _weight(watch.report)
                watch.report, watch.denied = report, False
                watch.asked.set()
                if changed:
                    self._wake(cluster)
                if not tag:  # an agent that holds no polls
                    await asyncio.sleep(RETRY[1])
            except TRANSPORT as error:
                tag = ""
                watch.asked.set()
                denied = isinstance(error, aiohttp.ClientResponseError) and error.status == UNAUTHORIZED
                if watch.report is not None or watch.denied != denied:
                    watch.report, watch.denied = None, denied
                    logger.info(
                        "%s: the agent of %s does not answer: %s", cluster, watch.node.name, _brief(error)
                    )
                    self._wake(cluster)
                await asyncio.sleep(delay * random.uniform(0.7, 1.3))
                delay = min(delay * 2, RETRY[1])

    async def _status(self, watch: _Watch, *, after: str = "") -> tuple[AgentReport, str]:
        parameters = {"after": after, "wait": f"{POLL:.0f}"} if after else {}
        within = ANSWER_WITHIN + (POLL if after else 0)
        async with self._session.get(
            self._url(watch, "/v1/status"),
            params=parameters,
            headers=_authorization(watch),
            timeout=aiohttp.ClientTimeout(total=within, sock_connect=ANSWER_WITHIN),
        ) as response:
            response.raise_for_status()
            data = await response.json()
            if not isinstance(data, dict) or "node" not in data or "role" not in data:
                raise ValueError("not a status")
            report = AgentReport.parse(watch.node.pod_uid, data)
            if report.node != watch.node.name:
                raise ValueError(f"{watch.node.address} is {report.node}, not {watch.node.name}")
            return report, str(data.get("etag") or "")

    async def _send(
        self, watch: _Watch, method: str, path: str, body: Mapping[str, Any], *, within: float
    ) -> None:
        try:
            async with self._session.request(
                method,
                self._url(watch, path),
                json=body,
                headers=_authorization(watch),
                timeout=aiohttp.ClientTimeout(total=within, sock_connect=ANSWER_WITHIN),
            ) as response:
                if response.status < 300:
                    return
                try:
                    reason = (await response.json())["error"]
                except (aiohttp.ClientError, ValueError, KeyError, TypeError):
                    reason = response.reason
        except TRANSPORT as error:
            raise AgentError(f"{watch.node.name}: its agent does not answer: {_brief(error)}") from error
        raise AgentError(f"{watch.node.name}: {reason}")

    def _url(self, watch: _Watch, path: str) -> str:
        address = watch.node.address
        return f"http://{f'[{address}]' if ':' in address else address}:{self._port}{path}"


def _socket(address: AddrInfoType) -> socket.socket:
    """Return a socket that notices within seconds that the other machine is gone, even while it waits."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _authorization(watch: _Watch) -> dict[str, str]:
    return {"Authorization": f"Bearer {watch.token}"}


def _weight(report: AgentReport) -> tuple[object, ...]:
    """Return what of a report is worth a look: not offsets and leases, which always move."""
    return (
        report.role,
        report.epoch,
        report.leader,
        report.serving,
        report.ready,
        report.message,
        report.parameters_revision,
        report.parameters_applied,
        report.parameters_message,
        report.findings,
    )


def _brief(error: BaseException) -> str:
    return str(error) or type(error).__name__
