"""What all cases have in common: a load runs, something happens, and then everything must be right again."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.e2e.client import Load, Outcome, load
from tests.e2e.cluster import Cluster

SEED = int(os.environ.get("MEMORYCLUSTER_TEST_SEED") or random.randrange(1 << 24))
LAPSE = 6.0
"""Seconds that at least pass until a replica takes over where nothing was handed over: 1.2 leases."""


@dataclass(slots=True)
class Row:
    """A line of the table that the session ends with; times in seconds."""

    case: str
    pause: float | None = None
    """For which some shard acknowledged no write."""
    application_pause: float | None = None
    """The same as valkey-py or redis-py saw it, whichever fared worse."""
    whole: float | None = None
    """From the end of what was done until the cluster was ready and whole."""
    writes: int | None = None
    """Acknowledged, and none of them missing."""


@dataclass(slots=True)
class Table:
    """The times of this session's cases."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def __str__(self) -> str:
        head = "| case | writes paused | as clients saw it | whole again | writes, none missing |"
        lines = [head, "|---" * 5 + "|"]
        for row in self.rows:
            times = [row.pause, row.application_pause, row.whole]
            cells = [row.case, *("" if each is None else f"{each:.1f} s" for each in times)]
            lines.append("| " + " | ".join([*cells, "" if row.writes is None else str(row.writes)]) + " |")
        return "\n".join(lines)


@dataclass(slots=True)
class Scene:
    """A case while it runs."""

    load: Load
    _outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """What came of it; only when it is over."""
        assert self._outcome is not None, "the case is not over"
        return self._outcome

    @property
    def pause(self) -> float:
        """Seconds for which some shard acknowledged no write."""
        return self.outcome.pause

    def over(self, outcome: Outcome) -> None:
        self._outcome = outcome


class Stage:
    """Runs cases: with this image for clients, into this table."""

    def __init__(self, image: str, table: Table) -> None:
        self._image = image
        self._table = table

    def created(self, what: str, cluster: Cluster) -> None:
        """Create a cluster, and put down how long that takes."""
        self._table.add(Row(f"created: {what}", whole=cluster.create()))

    @contextmanager
    def case(self, name: str, cluster: Cluster, *, whole: bool = True) -> Iterator[Scene]:
        """Run the load; the body does what the case is about. Then all must be served, whole, and right.

        What is right: no acknowledged write is missing, nothing that was read vanishes, every key's history
        is linearizable, no two nodes served as primary at a time, and in the end all nodes show the same.

        :param whole: whether the cluster must be whole, in the operator's words, before the load ends.
        """
        with load(cluster, self._image, seed=SEED) as one:
            scene = Scene(one)
            yield scene
            began = time.monotonic()
            one.served_again()
            if whole:
                cluster.whole()
            took = time.monotonic() - began
            outcome = one.finish()
        print(f"{name} (seed {SEED}): {outcome}")
        writes = outcome.report["writes"]
        self._table.add(Row(name, outcome.pause, outcome.application_pause, took, writes))
        scene.over(outcome)
        assert outcome.ok, str(outcome)
        assert outcome.verdict.operations > 300, "the load did something"
