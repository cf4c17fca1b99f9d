"""One fault under the workload, and everything that must hold afterwards."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.faults.cluster import Cluster
from tests.faults.faults import Fault, Strike
from tests.faults.history import now
from tests.faults.judge import Verdict, judge
from tests.faults.workload import Workload, two_primaries

runs = count()
"""Numbers that make the keys of one run this process's only ones on a cluster."""

WARM_UP = 1.5
COOL_DOWN = 1.5
RECOVERY = 60.0
"""Seconds within which a healed cluster must serve again; times are measured by `tests.faults.times`."""


@dataclass(slots=True)
class Report:
    """What one fault did."""

    fault: str
    seed: int
    verdict: Verdict
    problems: list[str] = field(default_factory=list)
    pause: float = 0.0
    """Longest time without an acknowledged write, in seconds, from the strike on."""
    refusals: dict[str, int] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.verdict.ok and not self.problems

    def __str__(self) -> str:
        said = [
            f"{self.fault} (seed {self.seed}): longest pause of writes {self.pause:.2f} s; {self.verdict}"
        ]
        if self.refusals:
            said.append("refused: " + ", ".join(f"{n} {code}" for code, n in self.refusals.items()))
        return "\n  ".join(said + self.problems)


async def suffer(cluster: Cluster, fault: Fault, *, seed: int, outage: float, keep: Path) -> Report:
    """Do one fault to a cluster that serves a workload, and judge what its clients were told.

    :param outage: seconds for which faults last that last as long as they are asked to.
    :param keep: directory for the history; it stays there if something is wrong.
    """
    chance = random.Random(seed)
    work = Workload(cluster.shards(), seed=seed, prefix=f"r{next(runs)}-")
    work.start()
    problems: list[str] = []
    try:
        await asyncio.sleep(WARM_UP)
        async with fault.strike(cluster, chance, outage) as strike:
            await asyncio.sleep(fault.lasts(cluster))
            healed = now()
        problems += await _served_again(work, healed)
        await asyncio.sleep(COOL_DOWN)
        ended = now()
    finally:
        try:
            await work.finish(seconds=RECOVERY)
        except TimeoutError as error:
            problems.append(str(error))
    problems += blocked(work, strike, healed, cluster.lease)
    problems += work.tally.unexpected[:5]
    problems += two_primaries(work.tally.served)[:5]
    if not problems:
        await cluster.whole(seconds=RECOVERY)
        problems += await work.compare_replicas(seconds=20)
    file = keep / f"{fault.name.replace(' ', '-')}-{seed}.jsonl"
    await asyncio.to_thread(work.history.save, file)
    verdict = await judge(file)
    report = Report(
        fault.name,
        seed,
        verdict,
        problems,
        work.tally.longest_pause(strike.at, ended),
        dict(work.tally.refusals),
        dict(work.tally.samples),
    )
    if report.ok:
        file.unlink()
    else:
        report.problems.append(f"its history: {file}")
    return report


async def _served_again(work: Workload, since: int) -> list[str]:
    """Wait until each shard has acknowledged a write that was sent after a moment."""
    try:
        async with asyncio.timeout(RECOVERY):
            while work.unserved(since):
                await asyncio.sleep(0.05)
    except TimeoutError:
        return [f"no write was acknowledged for {RECOVERY} s after healing: {work.tally.samples}"]
    return []


def blocked(work: Workload, strike: Strike, healed: int, lease: float) -> list[str]:
    """Return what is wrong with how writes were refused while none could be made durable."""
    if not strike.blocks:
        return []
    problems = []
    acked = [w for w in work.tally.writes if strike.at < w.called and w.returned < healed]
    if acked:
        problems.append(f"{len(acked)} writes were acknowledged that nothing could have made durable:")
        problems += [f"  {write.what}, {(write.called - strike.at) / 1e9:.3f} s after" for write in acked[:5]]
    refused = [code for at, code in work.tally.refused_at if strike.at < at < healed]
    if not refused and healed - strike.at > 2 * lease * 1e9:
        problems.append("writes did not fail with an error while the log had no quorum")
    return problems
