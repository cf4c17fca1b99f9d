"""SET: throughput, latency at fixed rates, latency against a bare append, and who takes the CPU time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any
from uuid import UUID

from benchmarks.figures import Goal, Ratio, Section, in_turn, middle, short
from benchmarks.load import Closed, Flow, benchmark, flows
from benchmarks.programs import BenchError, cpu
from benchmarks.systems import VALUE, Durable, System
from memorycluster.log.nats import NatsLog
from memorycluster.log.record import Kind, Record, extend_crc
from memorycluster.log.service import stream_config
from memorycluster.log.wire import Link


async def set_throughput(
    ours: System,
    stock: System,
    always: System,
    waits: Sequence[System],
    *,
    clients: Sequence[int],
    rounds: int,
    seconds: float,
) -> Section:
    section = Section(
        "SET throughput",
        """
        `valkey-benchmark`; *stock* keeps nothing, *AOF always* fsyncs one local disk before it
        answers. WAITAOF 1 1 is sent by our own client, since `valkey-benchmark` has no command
        after each pipeline: each connection sends P SETs and one `WAITAOF 1 1 0` in one write
        and goes on when that is answered (with P=16 one WAITAOF covers 16 SETs); its ratio is
        to the durable cluster under the same client without WAITAOF. Primary and replica of
        *WAITAOF* have an append-only file with `appendfsync` as named; no cluster mode.
        """,
        ["clients", "pipeline", "system", "SET/s", "p50 ms", "p99 ms", "durable's SET/s to this"],
    )
    for count in clients:
        for pipeline in (1, 16):

            async def load(system: System, count: int = count, pipeline: int = pipeline) -> Closed:
                return await benchmark(system, "set", clients=count, pipeline=pipeline, seconds=seconds)

            async def load_by_us(system: System, count: int = count, pipeline: int = pipeline) -> Closed:
                flow = Flow(
                    system.name,
                    system.address,
                    "set",
                    connections=count,
                    pipeline=pipeline,
                    waitaof=system in waits,
                )
                result = (await flows(flow, seconds=seconds))[0]
                return Closed(result["Rate"], result["p50"], result["p99"])

            by_tool = await in_turn(rounds, (ours, stock, always), load)
            by_us = await in_turn(rounds, (ours, *waits), load_by_us)
            section.raw[f"{count} clients, pipeline {pipeline}"] = {
                "valkey-benchmark": {k: [asdict(each) for each in v] for k, v in by_tool.items()},
                "own client": {k: [asdict(each) for each in v] for k, v in by_us.items()},
            }
            for found, mark in ((by_tool, ""), (by_us, " (own client)")):
                mine = [each.rate for each in found[ours.name]]
                for name, runs in found.items():
                    rates = [each.rate for each in runs]
                    section.rows.append(
                        [
                            *(str(count), str(pipeline), name + mark, middle(rates)),
                            *(middle([each.p50 for each in runs]), middle([each.p99 for each in runs])),
                            "" if name == ours.name else str(Ratio.of(mine, rates)),
                        ]
                    )
    return section


async def open_loop(
    ours: System, others: Sequence[System], *, rates: Sequence[int], rounds: int, seconds: float
) -> Section:
    section = Section(
        "Open-loop SET",
        """
        Commands are due at fixed times, whatever the server does; 10 connections, what is due
        at once on one connection leaves in one write. Latency in ms from the moment at which a
        command was due; medians of the rounds. *Worst* is the worst round's p99. *Late* is how
        late the load generator itself sent (p99).
        """,
        ["SET/s", "system", "answered/s", "p50", "p99", "p99.9", "worst p99", "late"],
    )
    for rate in rates:

        async def load(system: System, rate: int = rate) -> dict[str, Any]:
            return (await flows(Flow("set", system.address, "set", rate=rate), seconds=seconds))[0]

        found = await in_turn(rounds, (ours, *others), load)
        section.raw[str(rate)] = found
        for name, runs in found.items():
            cells = [middle([run[key] for run in runs]) for key in ("Rate", "p50", "p99", "p999", "LateP99")]
            worst = short(max(run["p99"] for run in runs))
            section.rows.append([f"{rate:,}", name, *cells[:4], worst, cells[4]])
        p99 = median([run["p99"] for run in found[ours.name]])
        section.goals.append(
            Goal(f"open-loop SET at {rate:,}/s: p99 below 10 ms", f"{short(p99)} ms", p99 < 10)
        )
    return section


TURNS = 5
"""Turns of SETs and appends in a round: short, as a disk's speed drifts."""

APPENDS_PER_TURN = 200
STREAM = "benchmark"


@dataclass
class Bare:
    """A log of its own in the cluster's log service, laid out as the shard's."""

    log: NatsLog
    sequence: int = 0

    async def append(self, payload: bytes) -> float:
        """Append a record; return the seconds that it took."""
        self.sequence += 1
        record = Record(
            kind=Kind.DATA,
            generation=UUID(int=1),
            epoch=1,
            sequence=self.sequence,
            nonce=1,
            start=0,
            running_crc=extend_crc(0, payload),
            payload=payload,
        )
        data = record.encode()
        started = time.perf_counter()
        await self.log.append(data, sequence=self.sequence)
        return time.perf_counter() - started


async def single_client(ours: Durable, *, rounds: int, seconds: float) -> Section:
    section = Section(
        "One client: SET against one bare append",
        """
        A client that sends one SET at a time, in turn with bare appends of a record of the same
        size through `memorycluster.log.nats.NatsLog` to another stream of the same log service,
        with the same leader, and from the same server as the primary's agent uses.
        """,
        ["", "p50 ms", "p99 ms"],
    )
    agent = ours.nodes[ours.primary].agent
    login = {"user": agent["log_user"], "password": agent["log_password"]}
    servers = agent["log_servers"]
    await _make_stream(servers[0], agent["stream"], login)
    command = f"*3\r\n$3\r\nSET\r\n$16\r\nkey:{0:012d}\r\n${VALUE}\r\n".encode() + b"x" * VALUE + b"\r\n"
    sets: list[dict[str, Any]] = []
    appends: list[list[float]] = []
    log = await NatsLog.connect(servers, STREAM, **login)
    try:
        bare = Bare(log)
        for _ in range(50):
            await bare.append(command)
        for _ in range(rounds * TURNS):
            flow = Flow("one", ours.address, "set", connections=1)
            sets.append((await flows(flow, seconds=seconds / TURNS, warmup=0.1))[0])
            appends.append(sorted([await bare.append(command) for _ in range(APPENDS_PER_TURN)]))
    finally:
        await log.close()
    half = [each[len(each) // 2] * 1e3 for each in appends]
    worst = [each[len(each) * 99 // 100] * 1e3 for each in appends]
    above = [s["p50"] - a for s, a in zip(sets, half, strict=True)]
    section.rows = [
        ["bare append", middle(half), middle(worst)],
        ["SET", middle([s["p50"] for s in sets]), middle([s["p99"] for s in sets])],
        [
            "on top",
            f"**{short(median(above))}** ({short(min(above))} to {short(max(above))})",
            middle([s["p99"] - a for s, a in zip(sets, worst, strict=True)]),
        ],
    ]
    section.raw = {"set": sets, "append ms": [[round(x * 1e3, 4) for x in each] for each in appends]}
    section.goals.append(
        Goal(
            "one client's SET: at most 0.3 ms on top of a bare append (p50)",
            f"{short(median(above))} ms",
            median(above) <= 0.3,
        )
    )
    return section


async def _make_stream(server: str, like: str, login: dict[str, str]) -> None:
    """Make the stream ``STREAM`` in the log service, led by the server that leads ``like``."""
    link = Link([server], name="benchmark", **login)

    async def ask(what: str, **question: Any) -> dict[str, Any]:
        said = await link.ask(f"STREAM.{what}", question, within=10)
        if "error" in said and said["error"].get("err_code") != 10059:  # there is no such stream
            raise BenchError(f"log service: {what}: {said['error']['description']}")
        return said

    try:
        model = await ask(f"INFO.{like}")
        leader = model.get("cluster", {}).get("leader")
        await ask(f"DELETE.{STREAM}")
        replicas = model["config"]["num_replicas"]
        await ask(f"CREATE.{STREAM}", **stream_config(STREAM, replicas=replicas, max_bytes=64 << 20))
        async with asyncio.timeout(30):
            while (await ask(f"INFO.{STREAM}")).get("cluster", {}).get("leader") != leader:
                await ask(f"LEADER.STEPDOWN.{STREAM}", placement={"preferred": leader})
                await asyncio.sleep(0.5)
    finally:
        await link.close()


async def cpu_shares(ours: Durable, *, rounds: int, seconds: float) -> Section:
    section = Section(
        "Who takes the CPU time",
        """
        CPU time per second of each process while 50 clients write with pipelines of 16
        (`valkey-benchmark`), and while nothing happens.
        """,
        [
            "",
            "SET/s",
            "primary's engine",
            "its agent",
            "agent to engine",
            "other engines",
            "other agents",
            "log servers",
        ],
    )
    groups = {
        "engine": ours.pids("engine", ours.primary),
        "agent": ours.pids("agent", ours.primary),
        "engines": [p for p in ours.pids("engine") if p not in ours.pids("engine", ours.primary)],
        "agents": [p for p in ours.pids("agent") if p not in ours.pids("agent", ours.primary)],
        "log": ours.pids("log"),
    }
    runs: list[dict[str, float]] = []
    for busy in [False] + [True] * rounds:
        began, before = time.monotonic(), {name: cpu(pids) for name, pids in groups.items()}
        rate = 0.0
        if busy:
            rate = (await benchmark(ours, "set", clients=50, pipeline=16, seconds=seconds)).rate
        else:
            await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        runs.append({"rate": rate, **{name: (cpu(p) - before[name]) / passed for name, p in groups.items()}})
    section.raw = {"runs": runs}
    for title, some in (("writing", runs[1:]), ("idle", runs[:1])):
        cells = {key: middle([run[key] for run in some]) for key in runs[0]}
        ratio = ""
        if title == "writing":
            ratio = str(Ratio.of([run["agent"] for run in some], [run["engine"] for run in some]))
        section.rows.append(
            [
                *(title, cells["rate"], cells["engine"], cells["agent"], ratio),
                *(cells["engines"], cells["agents"], cells["log"]),
            ]
        )
    share = median([run["agent"] / run["engine"] for run in runs[1:]])
    section.goals.append(
        Goal("the agent takes less CPU time than the engine, 50 pipelining clients", short(share), share < 1)
    )
    return section
