"""GET: without writes, and of clean keys while others are written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.figures import Goal, Ratio, Section, in_turn, middle, short
from benchmarks.load import Flow, benchmark, fill, flows
from benchmarks.programs import cpu
from benchmarks.systems import System


@dataclass(frozen=True)
class Reading:
    """One run of GETs."""

    rate: float
    p50: float
    p99: float
    cost: float
    """µs of the engine's CPU time per command."""


async def get_without_writes(ours: System, stock: System, *, rounds: int, seconds: float) -> Section:
    section = Section(
        "GET, no writes",
        """
        `valkey-benchmark`, 50 clients, random keys that exist. *CPU* is the engine process's
        time per command: it does not depend on how much of the machine the client and other
        processes take.
        """,
        ["pipeline", "stock GET/s", "durable GET/s", "ratio", "stock CPU µs", "durable CPU µs", "ratio"],
    )
    for system in (ours, stock):
        await fill(system, 100_000)

    for pipeline in (1, 16):

        async def read(system: System, pipeline: int = pipeline) -> Reading:
            pid = await system.engine()
            before, commands = cpu([pid]), await processed(system)
            result = await benchmark(system, "get", clients=50, pipeline=pipeline, seconds=seconds)
            used, commands = cpu([pid]) - before, await processed(system) - commands
            return Reading(result.rate, result.p50, result.p99, used / commands * 1e6)

        found = await in_turn(rounds, (ours, stock), read)
        mine, theirs = found[ours.name], found[stock.name]
        rates = [each.rate for each in mine], [each.rate for each in theirs]
        costs = [each.cost for each in mine], [each.cost for each in theirs]
        ratio = Ratio.of(*rates)
        section.rows.append(
            [
                *(str(pipeline), middle(rates[1]), middle(rates[0]), str(ratio)),
                *(middle(costs[1]), middle(costs[0]), str(Ratio.of(*costs))),
            ]
        )
        section.raw[f"pipeline {pipeline}"] = {k: [asdict(each) for each in v] for k, v in found.items()}
        section.goals.append(
            Goal(
                f"GET without writes, P={pipeline}: at least 0.97 of stock's throughput",
                short(ratio.middle),
                ratio.middle >= 0.97,
            )
        )
    return section


async def processed(system: System) -> int:
    return int((await system.info("stats"))["total_commands_processed"])


@dataclass(frozen=True)
class Mixed:
    """Where the reads and where the writes of one point go."""

    name: str
    reads: System
    writes: System


async def clean_reads_under_writes(ours: System, stock: System, *, rounds: int, seconds: float) -> Section:
    reads, writes = 10_000, 5_000
    section = Section(
        "GET of clean keys while 5,000 SET/s run",
        f"""
        Open loop: {reads:,} GET/s on 10 connections and {writes:,} SET/s on 10 others, other
        keys; latency in ms from the moment at which a command was due. *Stock beside* is stock
        whose reads are measured while the SETs go to the durable cluster on the same machine:
        what the cluster's other processes cost it, without our engine in the read's way. *Late*
        is how late the load generator itself sent (p99).
        """,
        ["system", "p50", "to stock", "p99", "to stock", "p99.9", "late"],
    )
    for system in (ours, stock):
        await fill(system, 100_000, prefix="clean:")

    async def mixed(point: Mixed) -> dict[str, Any]:
        got, _ = await flows(
            Flow("get", point.reads.address, "get", rate=reads, prefix="clean:"),
            Flow("set", point.writes.address, "set", rate=writes, prefix="dirty:"),
            seconds=seconds,
        )
        if got["Nils"]:
            raise AssertionError(f"{got['Nils']} clean keys are gone")
        return got

    points = Mixed("stock", stock, stock), Mixed("durable", ours, ours), Mixed("stock beside", stock, ours)
    found = await in_turn(rounds, points, mixed)
    section.raw = dict(found)
    base = found["stock"]
    for name, each in found.items():
        ratios = [Ratio.of([x[q] for x in each], [x[q] for x in base]) for q in ("p50", "p99")]
        cells = [middle([x[q] for x in each]) for q in ("p50", "p99", "p999", "LateP99")]
        shown = ["", ""] if name == "stock" else [str(ratio) for ratio in ratios]
        section.rows.append([name, cells[0], shown[0], cells[1], shown[1], cells[2], cells[3]])
        if name == "durable":
            for quantile, ratio in zip(("p50", "p99"), ratios, strict=True):
                section.goals.append(
                    Goal(
                        f"GET of clean keys under 5,000 SET/s, {quantile}: at most 1.3 of stock's",
                        short(ratio.middle),
                        ratio.middle <= 1.3,
                    )
                )
    beside = Ratio.of([x["p99"] for x in found["durable"]], [x["p99"] for x in found["stock beside"]])
    section.how += f" Against *stock beside*, the durable p99 is {beside}."
    return section
