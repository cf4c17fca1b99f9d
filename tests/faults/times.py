"""How long writes pause: `python -m tests.faults.times [--runs 20] [--lease 5s]`. Prints a table in Markdown.

A probe of each node sends a small write every few milliseconds, whatever its role. The pause is the time
from the fault to the first acknowledged write that was sent after it, by whichever node; for a planned
failover, the longest time between two acknowledged writes around it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.cluster import Cluster, Member, Node, stoppable
from tests.faults.conftest import base_port
from tests.faults.history import now
from tests.faults.resp import Connection, NotSent

from memorycluster.log.interface import LogUnavailable
from memorycluster.log.nats import NatsLog

PERIOD = 0.005


@dataclass(frozen=True, slots=True)
class Target:
    """A fault, and the pause that it may cause at most: given the lease, and the log's own election."""

    name: str
    members: Callable[[Node, Member], list[Member]]
    limit: Callable[[float, float], float]
    pauses: bool = False


def at_once(_: float, __: float) -> float:
    return 1.0


def after_lease(lease: float, _: float) -> float:
    return 1.2 * lease + 1


def after_election(_: float, election: float) -> float:
    return election + 1.5


TARGETS = [
    Target("primary engine killed", lambda node, _: [node.engine], at_once),
    Target("primary's agent killed", lambda node, _: [node.agent], at_once),
    Target("both killed", lambda node, _: [node.engine, node.agent], at_once),
    Target("primary engine paused", lambda node, _: [node.engine], after_lease, pauses=True),
    Target("primary's agent paused", lambda node, _: [node.agent], after_lease, pauses=True),
    Target("both paused", lambda node, _: [node.engine, node.agent], after_lease, pauses=True),
    Target("log's leader killed", lambda _, log: [log], after_election),
    Target("log's leader and primary engine killed", lambda node, log: [log, node.engine], after_election),
    Target("log's leader and both killed", lambda node, log: [log, node.engine, node.agent], after_election),
]


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement, in seconds."""

    pause: float
    limit: float
    election: float | None = None
    """How long the log itself could not be asked."""


class Probe:
    """Writes to every node all the time, and remembers when a write was acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self.acked: list[tuple[int, int]] = []
        """(called, returned)."""
        self._tasks = [
            asyncio.create_task(self._write(node, lane)) for node in cluster.nodes for lane in range(3)
        ]

    async def _write(self, node: Node, lane: int) -> None:
        """Several lanes, because a write that waits must not hide that the next one would be served."""
        connection: Connection | None = None
        for value in itertools.count():
            await asyncio.sleep(PERIOD)
            try:
                if connection is None or not connection.open_now:
                    connection = await Connection.open(node.address, seconds=0.2)
                called = now()
                answer = (await connection.call([("SET", f"probe{lane}", value)], seconds=0.3))[0]
                if answer.value == "OK":
                    self.acked.append((called, answer.at))
            except NotSent:
                continue

    async def first_after(self, moment: int, *, seconds: float) -> float:
        """Return the seconds from `moment` to the first acknowledged write that was sent after it."""
        async with asyncio.timeout(seconds):
            while not (later := [returned for called, returned in self.acked if called > moment]):
                await asyncio.sleep(0.005)
        return (min(later) - moment) / 1e9

    def longest_gap(self, since: int) -> float:
        """Return the longest time in seconds between two acknowledged writes since a moment."""
        times = sorted(returned for _, returned in self.acked if returned > since)
        return max(b - a for a, b in itertools.pairwise(times)) / 1e9

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def once(cluster: Cluster, target: Target) -> Run:
    """Return the pause that a fault causes."""
    await cluster.whole()
    leader, log_leader = await cluster.leader(), await cluster.log_leader()
    members = target.members(leader, log_leader)
    probe = Probe(cluster)
    try:
        async with cluster.open_log() as log:
            await log.end()
            await asyncio.sleep(0.5 + random.random() / 2)
            (cluster.pause if target.pauses else cluster.kill)(*members)
            moment = now()
            election = asyncio.create_task(answers_again(log, moment))
            pause = await probe.first_after(moment, seconds=60)
            if log_leader not in members:
                election.cancel()
                return Run(pause, target.limit(cluster.lease, 0.0))
            elected = await asyncio.wait_for(election, 60)
            return Run(pause, target.limit(cluster.lease, elected), elected)
    finally:
        await probe.stop()
        if target.pauses:
            cluster.resume(members)


async def answers_again(log: NatsLog, moment: int) -> float:
    """Return the seconds from `moment` until the log has a leader that says where it ends."""
    while True:
        try:
            await log.end()
            return (now() - moment) / 1e9
        except LogUnavailable:
            continue


async def planned(cluster: Cluster) -> float:
    """Return the pause that a planned failover causes."""
    await cluster.whole()
    probe = Probe(cluster)
    try:
        await asyncio.sleep(0.5 + random.random() / 2)
        since = now()
        await cluster.fail_over(0)
        await probe.first_after(now(), seconds=30)
        await asyncio.sleep(0.3)
        return probe.longest_gap(since - 100_000_000)
    finally:
        await probe.stop()


HEAD = "| fault | median | worst | limit | within | log's election: median | worst |\n" + "|---" * 7 + "|"


def row(name: str, runs: list[Run]) -> str:
    """Return a row of the table."""
    pauses = [run.pause for run in runs]
    within = sum(run.pause <= run.limit for run in runs)
    elections = [run.election for run in runs if run.election is not None]
    limits = sorted({round(run.limit, 2) for run in runs})
    cells = [
        name,
        f"{statistics.median(pauses):.2f}",
        f"{max(pauses):.2f}",
        f"{limits[0]:g}" if len(limits) == 1 else f"{limits[0]:g} to {limits[-1]:g}",
        f"{within} of {len(runs)}",
        f"{statistics.median(elections):.2f}" if elections else "",
        f"{max(elections):.2f}" if elections else "",
    ]
    return f"| {' | '.join(cells)} |"


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.times", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--lease", default="5s")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="mc-times-"))
    cluster = Cluster(directory, base_port=base_port(), lease=given.lease)
    try:
        await cluster.start()
        print(f"lease {given.lease}, {given.runs} runs each; seconds without an acknowledged write\n")
        print(HEAD, flush=True)
        for target in TARGETS:
            if given.only in target.name:
                print(row(target.name, [await once(cluster, target) for _ in range(given.runs)]), flush=True)
        if given.only in "planned failover":
            runs = [Run(await planned(cluster), 0.2) for _ in range(given.runs)]
            print(row("planned failover", runs), flush=True)
    finally:
        await cluster.stop()
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(stoppable(main())))
