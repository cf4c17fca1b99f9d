"""`python -m benchmarks.snapshots [MEGABYTES]`: how fast snapshots are, against stock SAVE and load.

One primary on this machine. Compare ratios within one run and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from memorycluster.local.layout import Layout
from memorycluster.local.plan import log_port_numbers, plan_topology
from memorycluster.local.snapshots import job_config, making, store_of
from memorycluster.local.state import load_secrets, load_state
from memorycluster.snapshot.bootstrap import EMPTY_RDB, Bootstrap
from memorycluster.snapshot.catalogue import Catalogue, open_catalogue
from memorycluster.snapshot.engine import Engine
from memorycluster.snapshot.job import JobConfig
from memorycluster.valkey.build import build
from valkey import Valkey, ValkeyError

PROGRAM = [sys.executable, "-P", "-m", "memorycluster"]
VALUE = 1000


@contextmanager
def cluster(root: Path, *, max_bytes: str, max_log_replay: str, zones: int) -> Iterator[Layout]:
    """Run one primary."""
    spec = {
        "replicasPerShard": 0,
        "log": {"maxBytes": max_bytes},
        "snapshots": {"maxLogReplay": max_log_replay},
    }
    manifest = root / "bench.yaml"
    head = {"apiVersion": "memorycluster.io/v1alpha1", "kind": "MemoryCluster"}
    manifest.write_text(yaml.safe_dump({**head, "metadata": {"name": "bench"}, "spec": spec}))
    data = root / "data"
    command = [*PROGRAM, "run", str(manifest), "--data-dir", str(data), "--zones", str(zones)]
    subprocess.run([*command, "--detach"], check=True, stdout=subprocess.DEVNULL)
    try:
        yield Layout(data)
    finally:
        subprocess.run([*PROGRAM, "stop", "--data-dir", str(data)], check=True, stdout=subprocess.DEVNULL)


def fill(port: int, first: int, megabytes: int) -> None:
    with Valkey("127.0.0.1", port) as client:
        for start in range(first, first + megabytes * 1000, 1000):
            pipe = client.pipeline(transaction=False)
            for number in range(start, start + 1000):
                pipe.set(f"key:{number:012}", os.urandom(VALUE))
            pipe.execute()


async def snapshot(config: dict[str, Any], work: Path) -> dict[str, float]:
    """Take a snapshot; return the seconds of each step."""
    seconds: dict[str, float] = {}
    step, began = "start", time.monotonic()
    async for said in making(config, work):
        now = time.monotonic()
        following = said["progress"]["step"] if "progress" in said else ""
        if following != step:
            seconds[step] = seconds.get(step, 0) + now - began
            step, began = following, now
        if "failed" in said:
            raise SystemExit(said["failed"])
    return seconds


def stock(programs: Path, rdb: Path, work: Path) -> tuple[float, float]:
    """Return the seconds that a stock engine takes to load a file by itself, and to SAVE."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        home = Path(name)
        os.link(rdb, home / "dump.rdb")
        settings = ["--port", "0", "--unixsocket", "s", "--dir", str(home), "--save", ""]
        began = time.monotonic()
        process = subprocess.Popen(
            [programs / "valkey-server", *settings], cwd=home, stdout=subprocess.DEVNULL
        )
        try:
            client = Valkey(unix_socket_path=f"/proc/{process.pid}/cwd/s")
            while True:
                with contextlib.suppress(ValkeyError):
                    told: Any = client.info("persistence")
                    if not told["loading"]:
                        break
                time.sleep(0.01)
            loaded = time.monotonic()
            saving = time.monotonic()
            client.save()
            return loaded - began, time.monotonic() - saving
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Bench:
    """A cluster of one primary, and what a making of its snapshot is told."""

    layout: Layout
    port: int
    config: dict[str, Any]

    @property
    def work(self) -> Path:
        """Where snapshots are made."""
        return self.layout.work / "bench"

    @property
    def catalogue(self) -> Catalogue:
        """The snapshots."""
        told = JobConfig.model_validate(self.config)
        return open_catalogue(told.store, told.cluster, told.shard, told.access)


@contextmanager
def running(
    programs: Path, *, max_bytes: str = "16Gi", max_log_replay: str = "4Gi", zones: int = 1
) -> Iterator[Bench]:
    """Run a cluster that holds nothing; by default the only snapshots of it are those that we take."""
    with (
        tempfile.TemporaryDirectory(prefix="mcb") as name,
        cluster(Path(name), max_bytes=max_bytes, max_log_replay=max_log_replay, zones=zones) as layout,
    ):
        state = load_state(layout)
        assert state
        topology = plan_topology(state)
        config = job_config(
            topology.shards[0],
            cluster=state.cluster,
            generation=str(state.shards[0].generation),
            log_servers=[f"nats://127.0.0.1:{log_port_numbers(state, zone)[0]}" for zone in state.zones],
            secrets=load_secrets(layout),
            store=store_of(state, layout),
            programs=programs,
            work=layout.work / "bench",
            reason="user",
        )
        yield Bench(layout, topology.nodes[0].port, config)


async def main(megabytes: int) -> None:
    programs = await build(lambda _: None)
    with running(programs) as bench:
        fill(bench.port, 0, megabytes)
        steps = await snapshot(bench.config, bench.work)
        newest = (await bench.catalogue.all())[0]
        rdb = bench.layout.snapshots / newest.place / "data.rdb"
        size = newest.manifest.size / 1e6
        load, save = await asyncio.to_thread(stock, programs, rdb, bench.layout.root)
        print(f"data: {size:.0f} MB in {newest.manifest.keys} keys")
        print(f"stock SAVE            {size / save:8.0f} MB/s   {save:6.1f} s")
        print(f"stock load            {size / load:8.0f} MB/s   {load:6.1f} s")
        for step, seconds in steps.items():
            print(f"snapshot, {step:10}  {size / max(seconds, 1e-3):8.0f} MB/s   {seconds:6.1f} s")
        total = sum(steps.values())
        ratio = (save + load) / total
        print(
            f"snapshot, all         {size / total:8.0f} MB/s   {total:6.1f} s   {ratio:.2f} of SAVE and load"
        )
        restoring = await restore(bench.layout, programs, bench.catalogue)
        ratio = load / restoring
        print(
            f"restore (follower)    {size / restoring:8.0f} MB/s   {restoring:6.1f} s   {ratio:.2f} of stock"
        )


async def restore(layout: Layout, programs: Path, catalogue: Catalogue) -> float:
    """Return the seconds from nothing to an engine that has the snapshot, as a follower gets it."""
    newest = (await catalogue.all())[0]

    class OnlySnapshots:
        async def health(self) -> Any:
            from memorycluster.log.interface import LogHealth

            return LogHealth(newest.manifest.sequence, newest.manifest.sequence, 0, 0)

        async def get(self, _: int) -> None:
            return None

    with tempfile.TemporaryDirectory(dir=layout.root) as name:
        began = time.monotonic()
        bootstrap = Bootstrap(OnlySnapshots(), newest.manifest.generation, lambda: catalogue, Path(name))  # type: ignore[arg-type]
        start = await bootstrap.start()
        home = Path(name) / "e"
        home.mkdir()
        async with Engine(programs, home) as engine:
            await engine.start(start)
            await engine.reached(start.position.unit_end)
            seconds = time.monotonic() - began
        start.close()
    assert start.size > len(EMPTY_RDB)
    return seconds


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
