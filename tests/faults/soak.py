"""Random faults for as long as asked: `python -m tests.faults.soak SECONDS [--seed N] [--shards N] ...`.

Prints a line for each fault. Ends with exit status 1 at the first that does harm; its history and the
cluster's files stay where the last lines say.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.cluster import Broken, Cluster, stoppable
from tests.faults.conftest import base_port
from tests.faults.faults import FAULTS
from tests.faults.scenario import Report, suffer


async def soak(cluster: Cluster, *, seconds: float, seed: int, outage: float, only: list[str]) -> bool:
    """Do faults until time is up, or one does harm."""
    chance = random.Random(seed)
    names = [name for name in FAULTS if not only or any(word in name for word in only)]
    done: Counter[str] = Counter()
    worst: dict[str, float] = {}
    operations = unknown = 0
    ends = time.monotonic() + seconds
    report: Report | None = None
    while time.monotonic() < ends and (report is None or report.ok):
        name, each = chance.choice(names), chance.randrange(1 << 32)
        print(time.strftime("%H:%M:%S"), name, flush=True)
        report = await suffer(cluster, FAULTS[name], seed=each, outage=outage, keep=cluster.directory)
        print(" ", report, flush=True)
        done[name] += 1
        worst[name] = max(worst.get(name, 0.0), report.pause)
        operations += report.verdict.operations
        unknown += report.verdict.unknown
    print(f"\n{sum(done.values())} faults, {operations} operations, {unknown} writes of unknown outcome")
    for name in sorted(done):
        print(f"  {done[name]:4} x {name}: longest pause of writes {worst[name]:.2f} s")
    return report is None or report.ok


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 24))
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--lease", default="5s")
    parser.add_argument("--outage", type=float, default=60, help="seconds for which the log lacks a quorum")
    parser.add_argument(
        "--only", action="append", default=[], help="faults whose name holds this; repeatable"
    )
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="mc-soak-"))
    cluster = Cluster(
        directory, base_port=base_port(), shards=given.shards, replicas=given.replicas, lease=given.lease
    )
    good = False
    try:
        await cluster.start()
        await cluster.whole()
        good = await soak(
            cluster, seconds=given.seconds, seed=given.seed, outage=given.outage, only=given.only
        )
    except (Broken, TimeoutError) as error:
        print(f"seed {given.seed}: {error}")
    finally:
        await cluster.stop()
    if good:
        shutil.rmtree(directory)
        return 0
    print(f"seed {given.seed} did harm: the history and the cluster's files stay in {directory}")
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(stoppable(main())))
