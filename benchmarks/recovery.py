"""Recovery: how fast a log is replayed, and how fast a follower that has nothing catches up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

from benchmarks.figures import Section, short
from benchmarks.load import fill
from benchmarks.programs import BenchError, kill
from benchmarks.systems import Durable, durable
from memorycluster.log.chain import Position, read
from memorycluster.log.nats import NatsLog

SIZES = {"16 B": 16, "1 KiB": 1024}


async def recovery(programs: Path, root: Path, *, megabytes: int, repeats: int) -> Section:
    section = Section(
        "Recovery",
        f"""
        A log of about {megabytes} MB of SETs. *Replay* is a reader that verifies every record
        (`NatsLog.tail` and `chain.read`); *bootstrap* is a replica's engine killed and started
        again with nothing, from the kill until its agent says that it is ready and has applied
        all; megabytes of the replication stream.
        """,
        ["values", "commands", "MB", "records", "replay MB/s", "bootstrap s", "bootstrap MB/s", "commands/s"],
    )
    for title, size in SIZES.items():
        commands = megabytes * 1_000_000 // (size + 52)
        async with durable(programs, root / f"r{size}", replicas=1) as system:
            await fill(system, commands, size=size)
            runs = [await _once(system) for _ in range(repeats)]
        section.raw[title] = runs
        megas = runs[0]["bytes"] / 1e6
        boots = [run["bootstrap"] for run in runs]
        rates = [megas / run["replay"] for run in runs]
        section.rows.append(
            [
                *(title, f"{commands:,}", short(megas), f"{runs[0]['records']:,}"),
                f"**{short(median(rates))}** ({short(min(rates))} to {short(max(rates))})",
                f"{short(median(boots))} ({short(min(boots))} to {short(max(boots))})",
                *(f"**{short(megas / median(boots))}**", short(commands / median(boots))),
            ]
        )
    return section


async def _once(system: Durable) -> dict[str, Any]:
    position, took = await replay(system.nodes[system.primary].agent)
    replica = next(name for name in system.nodes if name != system.primary)
    return {
        "bytes": position.unit_end,
        "records": position.sequence,
        "replay": took,
        "bootstrap": await bootstrap(system, replica, position.unit_end),
    }


async def replay(agent: dict[str, Any]) -> tuple[Position, float]:
    """Read and verify a shard's log; return its end, and the seconds to the last record."""
    position = Position(UUID(str(agent["generation"])))
    log = await NatsLog.connect(
        agent["log_servers"], agent["stream"], user=agent["log_user"], password=agent["log_password"]
    )
    began = ended = time.perf_counter()
    try:
        async with contextlib.aclosing(log.tail(0)) as entries:
            async for entry in entries:
                if entry is None:
                    break
                position = read(position, entry.sequence, entry.data).position
                ended = time.perf_counter()
    finally:
        await log.close()
    return position, ended - began


async def bootstrap(system: Durable, replica: str, offset: int) -> float:
    """Kill a replica's engine; return the seconds until it is ready again, having applied ``offset``."""
    engines = system.pids("engine", replica)
    if len(engines) != 1:
        raise BenchError(f"{replica}: {len(engines)} engines")
    began = time.perf_counter()
    kill(engines[0])
    down = False
    async with asyncio.timeout(120):
        while True:
            status = (await system.statuses()).get(replica, {})
            caught_up = bool(status.get("ready")) and (status.get("applied") or 0) >= offset
            if down and caught_up:
                return time.perf_counter() - began
            down = down or not caught_up
            await asyncio.sleep(0.02)
