"""A making that is killed at any step leaves nothing wrong, and nothing that runs; the next one succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from tests.log.servers import PASSWORD, USER, until
from tests.snapshot.world import SLOTS, World, command

from memorycluster.snapshot.policy import trim_before

ENGINE = "valkey-server"
STEPS = ("load", "replay", "save", "upload", "verify")


def config(world: World) -> dict[str, Any]:
    return {
        "cluster": "orders",
        "shard": 0,
        "slots": SLOTS,
        "generation": str(world.generation),
        "stream": world.stream,
        "log_servers": world.service.urls,
        "log_user": USER,
        "log_password": PASSWORD,
        "store": {"directory": {"path": world.catalogue.store.name}},
        "programs": str(world.programs),
        "work": str(world.work),
    }


async def job(world: World, *, kill_at: str = "", when: str = "first") -> list[dict[str, Any]]:
    """Run a making as the supervisor does; kill -9 it at the first, or the last, word of a step."""
    conf = world.root / "job.yaml"
    conf.write_text(json.dumps(config(world)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "memorycluster.snapshot", "--config", str(conf), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    said = []
    async for line in process.stdout:
        said.append(json.loads(line))
        progress = said[-1].get("progress")
        if (
            progress
            and progress["step"] == kill_at
            and (when == "first" or progress["done"] == progress["total"])
        ):
            with contextlib.suppress(ProcessLookupError):  # it was quicker
                process.kill()
            break
    status = await process.wait()
    if kill_at:
        assert status == -signal.SIGKILL or (when == "last" and status == 0)
    return said


def its_engine(process: psutil.Process, world: World) -> bool:
    """Say whether a process is a making's engine. Raises psutil.Error: it has ended."""
    return process.name() == ENGINE and process.cwd().startswith(str(world.work))


def engines(world: World) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if its_engine(process, world):
                found.append(process.pid)
    return found


@pytest.mark.parametrize(("step", "when"), [*((step, "first") for step in STEPS), ("verify", "last")])
async def test_killed_at_any_step_it_leaves_no_snapshot_and_the_next_one_is_right(
    world: World, step: str, when: str
) -> None:
    await world.lead()
    await world.write(*(command("SET", f"k{number}", "x" * 1000) for number in range(200)))
    await world.make()
    for number in range(10):  # in the end it may be quicker than we are
        before = [each.place for each in await world.catalogue.all()]
        await world.write(command("SET", "more", str(number)))
        await job(world, kill_at=step, when=when)
        if [each.place for each in await world.catalogue.all()] == before:
            break
    else:
        raise AssertionError("it was never killed in time")

    async def gone() -> bool:
        return not engines(world)

    await until(gone, 30, "its engines end with it")
    last = (await job(world))[-1]
    assert "made" in last
    second = await world.catalogue.read(last["made"])
    assert second.manifest.digest == (await world.replayed()).digest
    # What it left in the store is no snapshot, and goes in time.
    objects = len(await world.catalogue.store.list(""))
    await world.catalogue.sweep(datetime.now(UTC) - timedelta(days=1))
    assert len(await world.catalogue.store.list("")) == objects, "it may be at work there yet"
    await world.catalogue.sweep(datetime.now(UTC) + timedelta(days=1))
    snapshots = len(before) + 1
    assert len(await world.catalogue.store.list("")) == 2 * snapshots
    assert len(await world.catalogue.all()) == snapshots


async def test_a_trim_that_is_done_again_does_no_harm(world: World) -> None:
    await world.lead()
    for number in range(3):
        await world.write(command("SET", f"k{number}", "1"))
        await world.make()
    manifests = [each.manifest for each in await world.catalogue.all()]
    before = trim_before(manifests, ())
    for _ in range(3):
        await world.log.trim(before)
    assert (await world.log.health()).first_sequence == before
    async with world.service.service() as admin:
        await admin.verify(world.stream, world.generation)
    newest = await world.start()
    older = manifests[1]
    assert older.sequence + 1 == before
    digest = manifests[0].digest
    assert (await world.loaded(newest)).digest == digest
    world.file((await world.catalogue.all())[0], "data.rdb").unlink()
    await world.write(command("SET", "k2", "2"))
    again = await world.make()  # from the older one, and the log from there
    assert (again.manifest.keys, again.manifest.sequence) == (3, world.writer.position.sequence)


async def test_writes_that_come_meanwhile_are_not_in_it(world: World) -> None:
    await world.lead()
    stop = asyncio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await world.write(command("INCR", "count"), command("SET", f"k{number % 50}", str(number)))

    writing = asyncio.create_task(write())
    try:
        snapshots = [await world.make() for _ in range(3)]
    finally:
        stop.set()
        await writing
    assert len({each.manifest.sequence for each in snapshots}) == 3
    for snapshot in snapshots:
        assert snapshot.manifest.digest == await digest_at(world, snapshot.manifest.sequence)


async def digest_at(world: World, sequence: int) -> str:
    """Replay the log, from its first record, up to ``sequence``, and return the digest."""
    end = world.log.end

    async def earlier() -> int:
        return sequence

    world.log.end = earlier  # type: ignore[method-assign]
    try:
        return (await world.replayed()).digest
    finally:
        world.log.end = end  # type: ignore[method-assign]
