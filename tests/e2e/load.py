"""The load: what runs in the client's pod. `python -m tests.e2e.load SERVICE NODES PREFIX SEED DIRECTORY`

It finds the cluster through SERVICE (host:port), waits until that tells of NODES nodes, and then runs the
workload of the fault tests and some applications, until there is a file `stop` in DIRECTORY. Meanwhile
`status.json` there says what has been acknowledged lately; in the end there are `history.jsonl` and then
`report.json`. Both are read, and judged, outside.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.e2e.applications import Application
from tests.faults.history import now
from tests.faults.resp import Address, Connection, NotSent
from tests.faults.workload import Shard, Workload, Write, two_primaries

DISCOVERY = 45.0
"""Seconds within which all nodes must be known."""
FINISH = 90.0
"""Seconds within which every key must be readable in the end."""
REPLICAS = 30.0
"""Seconds within which all nodes must show the same in the end."""
FIRST_APPLICATION = 1000
"""Number of the first application among the history's clients."""


@dataclass(slots=True)
class Report:
    """What the load has to say beside its history."""

    problems: list[str] = field(default_factory=list)
    writes: int = 0
    """Acknowledged."""
    pause: float = 0.0
    """Seconds for which some shard acknowledged no write to whoever asked; the longest of all."""
    application_pauses: dict[str, float] = field(default_factory=dict)
    """The same of each application: what its library adds by its own timeouts and backing off."""
    refusals: dict[str, int] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    """Errors that the applications saw."""


class Load:
    """The workload and the applications."""

    def __init__(self, service: Address, shards: Sequence[Shard], *, prefix: str, seed: int) -> None:
        self._service = service
        self._work = Workload(
            shards, seed=seed, prefix=prefix, clients=3, pipelines=1, pause=0.03, patience=(1.0, 3.0, 8.0)
        )
        kinds = [("valkey", 1), ("valkey", 8), ("redis", 1), ("redis", 8)]
        self._applications = [
            Application(
                library,
                service,
                depth=depth,
                number=FIRST_APPLICATION + index,
                prefix=prefix,
                seed=seed + index,
                history=self._work.history,
                shards=shards,
            )
            for index, (library, depth) in enumerate(kinds)
        ]
        for one in self._applications:
            one.others = [other for other in self._applications if other is not one]

    def start(self) -> None:
        self._began = now()
        self._work.start()
        for one in self._applications:
            one.start()

    def status(self) -> dict[str, Any]:
        """Return when, for each shard and for each application, a write was sent that was acknowledged.

        And what has stood against that up to now.
        """
        shards = range(len(self._work.router.shards))
        return {
            "now": now(),
            "shards": [_newest(w for w in self._work.tally.writes[-2000:] if w.shard == s) for s in shards],
            "applications": {one.name: _newest(one.writes[-1:]) for one in self._applications},
            "refused": self._work.tally.refusals | self._work.tally.doubts,
            "unreachable": self._work.unreachable,
            "errors": {one.name: one.last_error for one in self._applications},
        }

    async def finish(self, directory: Path) -> None:
        """Stop everything, read everything once more, and write down what was seen."""
        ended = now()
        for one in self._applications:
            one.stop()
        report = Report()
        try:
            await self._work.finish(seconds=FINISH)
        except TimeoutError as error:
            report.problems.append(str(error))
        async with asyncio.timeout(FINISH):
            while any(one.is_alive() and one.failed is None for one in self._applications):
                await asyncio.sleep(0.1)
        for one in self._applications:
            if one.failed is not None:
                report.problems.append(f"{one.name}: {one.failed!r}")
            for message, times in one.errors.items():
                report.errors[message] = report.errors.get(message, 0) + times
        tally = self._work.tally
        report.problems += tally.unexpected[:5] + two_primaries(tally.served)[:5]
        if not report.problems:
            # Nodes have come or gone since.
            self._work.router.shards[:] = await discover(self._service, 0)
            report.problems += await self._work.compare_replicas(seconds=REPLICAS)
        report.refusals, report.samples = dict(tally.refusals), tally.samples
        self._measure(report, ended)
        self._work.history.save(directory / "history.jsonl")
        write(directory / "report.json", asdict(report))

    def _measure(self, report: Report, ended: int) -> None:
        tally = self._work.tally
        for shard in range(len(self._work.router.shards)):
            # The probes of each node write all the time, so none of them waits for a node that is gone.
            told = [w.returned for w in tally.writes if w.shard == shard]
            told += [s.returned for s in tally.served if s.shard == shard]
            report.pause = max(report.pause, longest_pause(told, self._began, ended))
            for one in self._applications:
                told = [w.returned for w in one.writes if w.shard == shard]
                before = report.application_pauses.get(one.name, 0.0)
                report.application_pauses[one.name] = max(before, longest_pause(told, self._began, ended))
        report.writes = len(tally.writes) + sum(len(one.writes) for one in self._applications)


def _newest(writes: Iterable[Write]) -> int:
    return max((write.called for write in writes), default=0)


def longest_pause(acknowledged: Iterable[int], since: int, until: int) -> float:
    """Return the longest time between two acknowledgements, in seconds."""
    times = [since, *sorted(at for at in acknowledged if since < at < until), until]
    return max(b - a for a, b in pairwise(times)) / 1e9


async def discover(service: Address, nodes: int) -> list[Shard]:
    """Return the shards that the cluster tells of, once they have at least `nodes` nodes in all.

    :raises TimeoutError: if that takes too long.
    """
    said: Any = None
    try:
        async with asyncio.timeout(DISCOVERY):
            while True:
                try:
                    link = await Connection.open(service)
                    said = (await link.call([("CLUSTER", "SHARDS")], seconds=5))[0].value
                    link.close()
                except NotSent as error:
                    said = error
                shards = shards_of(said, service[0]) if isinstance(said, list) else []
                if shards and sum(len(shard.nodes) for shard in shards) >= nodes:
                    return shards
                await asyncio.sleep(0.2)
    except TimeoutError as error:
        raise TimeoutError(
            f"{service} does not tell of {nodes} nodes within {DISCOVERY} s: {said}"
        ) from error


def shards_of(said: Sequence[Any], asked: str) -> list[Shard]:
    """Return what `CLUSTER SHARDS` says; empty if some shard has no slots or no primary.

    :param asked: the host that said it: where a node has told no name of its own.
    """
    shards = []
    for flat in said:
        shard = dict(zip(flat[::2], flat[1::2], strict=True))
        nodes = [dict(zip(node[::2], node[1::2], strict=True)) for node in shard["nodes"]]
        addresses = [(node["endpoint"] or asked, node["port"]) for node in nodes]
        roles = [node["role"] for node in nodes]
        if not shard["slots"] or "master" not in roles:
            return []
        first, last = shard["slots"]
        shards.append(Shard(first, last, addresses, addresses[roles.index("master")]))
    return sorted(shards, key=lambda shard: shard.first)


def write(path: Path, what: object) -> None:
    """Replace a file as a whole: who reads it never sees half of it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(what))
    new.rename(path)


async def main(service: Address, nodes: int, prefix: str, seed: int, directory: Path) -> None:
    try:
        load = Load(service, await discover(service, nodes), prefix=prefix, seed=seed)
        load.start()
        while not (directory / "stop").exists():
            write(directory / "status.json", load.status())
            await asyncio.sleep(0.2)
        await load.finish(directory)
    except Exception:
        write(directory / "report.json", asdict(Report(problems=[traceback.format_exc()])))
        raise


if __name__ == "__main__":
    at, number, stem, chance, where = sys.argv[1:]
    host, _, port = at.rpartition(":")
    asyncio.run(main((host, int(port)), int(number), stem, int(chance), Path(where)))
