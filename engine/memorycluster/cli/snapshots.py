"""``memorycluster snapshot`` and ``memorycluster snapshots``: what they do and show."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from memorycluster.api.units import format_bytes
from memorycluster.local.layout import Layout
from memorycluster.local.logs import log_urls, shard_log
from memorycluster.local.plan import plan_topology
from memorycluster.local.snapshots import job_config, making, store_of
from memorycluster.local.state import State, load_secrets, running_pid
from memorycluster.snapshot.catalogue import Snapshot, open_catalogue
from memorycluster.snapshot.manifest import default_name
from memorycluster.snapshot.policy import reaches_back

STEPS = {
    "load": "loading the newest snapshot",
    "replay": "replaying the log",
    "save": "saving",
    "upload": "storing",
    "verify": "verifying",
}


async def take(layout: Layout, state: State, shards: Sequence[int], programs: Path, out: Console) -> bool:
    """Take a snapshot of each of ``shards`` now; say what becomes of it, and return whether all went well."""
    topology, secrets = plan_topology(state), load_secrets(layout)
    servers = log_urls(state)
    name = default_name(state.cluster, datetime.now(UTC))
    work = layout.work / f"command-{os.getpid()}"
    well = True
    try:
        for shard in shards:
            config = job_config(
                topology.shards[shard],
                cluster=state.cluster,
                generation=str(state.shards[shard].generation),
                log_servers=servers,
                secrets=secrets,
                store=store_of(state, layout),
                programs=programs,
                work=work,
                reason="user",
                name=name,
                # Taken together they have one name, by which they can be restored: also one with nothing new.
                anew=len(shards) > 1,
            )
            last: dict[str, Any] = {}
            with _Bar(f"shard {shard}", out) as bar:
                async for said in making(config, work):
                    last = said
                    if progress := said.get("progress"):
                        bar.show(**progress)
            if "made" in last:
                catalogue = open_catalogue(store_of(state, layout), state.cluster, shard)
                made = (await catalogue.read(last["made"])).manifest
                text = f"{made.name}, {format_bytes(made.size)}, {made.keys} keys, digest {made.digest}"
                out.print(f"shard {shard}: {text}", markup=False, soft_wrap=True)
            elif "nothing" in last:
                text = "nothing is newer than the newest snapshot, which is kept"
                out.print(f"shard {shard}: {text}", markup=False)
            else:
                well = False
                out.print(f"shard {shard}: no snapshot: {last.get('failed')}", markup=False, soft_wrap=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return well


class _Bar(contextlib.AbstractContextManager["_Bar"]):
    """Bytes, rate and time left of each step, on a terminal; elsewhere nothing."""

    def __init__(self, what: str, out: Console) -> None:
        self._what = what
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(30),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._step = ""
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: str, done: int, total: int) -> None:
        """Show how far a step is."""
        if step != self._step:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._step = step
            self._task = self._progress.add_task(f"{self._what}: {STEPS.get(step, step)}", total=None)
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total or None)


async def find(layout: Layout, state: State) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots of all shards, newest first, and what is wrong with others. Raises StoreError."""
    found, broken = [], list[str]()
    for shard in range(len(state.shards)):
        catalogue = open_catalogue(store_of(state, layout), state.cluster, shard)
        found += await catalogue.all(broken=broken.append)
    found.sort(key=lambda each: (each.manifest.created_at, -each.manifest.shard), reverse=True)
    return found, broken


async def moments(layout: Layout, state: State, snapshots: Sequence[Snapshot]) -> str:
    """Return since when any moment can be restored, in words; empty: the cluster does not run, or to none."""
    if running_pid(layout) is None:
        return ""
    secrets, since, whole = load_secrets(layout), list[datetime](), True
    for index, shard in enumerate(state.shards):
        ours = [each.manifest for each in snapshots if each.manifest.generation == shard.generation]
        async with shard_log(state, secrets, index) as log:
            first = (await log.health()).first_sequence
        if first <= 1 and state.restore_from is None:
            continue  # back to where the log began
        whole = False
        if (back := reaches_back(first, ours)) is None:
            return ""
        since.append(back)
    if whole:
        return "the cluster's beginning"
    return f"{max(since).astimezone(UTC) + timedelta(seconds=1):%Y-%m-%d %H:%M:%SZ}"  # whole seconds


def show(out: Console, snapshots: Sequence[Snapshot]) -> None:
    """Print the snapshots as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("NAME", "SHARD", "CREATED"):
        table.add_column(name, no_wrap=True)
    for name in ("SIZE", "KEYS", "OFFSET", "RECORD", "EPOCH"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("DIGEST", no_wrap=True)
    for manifest in (each.manifest for each in snapshots):
        table.add_row(
            manifest.name,
            str(manifest.shard),
            f"{manifest.created_at:%Y-%m-%d %H:%M:%SZ}",
            format_bytes(manifest.size),
            str(manifest.keys),
            str(manifest.offset),
            str(manifest.sequence),
            str(manifest.epoch),
            manifest.digest,
        )
    out.print(table)


def show_json(snapshots: Sequence[Snapshot]) -> None:
    """Print the snapshots' manifests, and where they are, as JSON."""
    listed = [
        {"place": each.place} | each.manifest.model_dump(mode="json", by_alias=True) for each in snapshots
    ]
    sys.stdout.write(json.dumps(listed, indent=2) + "\n")
