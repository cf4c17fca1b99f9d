"""Snapshots of a local cluster: taken when due, by a process of their own; the log is trimmed behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from memorycluster.api.snapshots import DirectoryStore, SnapshotStore
from memorycluster.api.snapshots import Snapshots as Wanted
from memorycluster.api.topology import Shard
from memorycluster.local.agents import agent_statuses
from memorycluster.local.holds import held
from memorycluster.local.layout import Layout
from memorycluster.local.plan import stream_name
from memorycluster.local.state import Secrets, State
from memorycluster.log.interface import Log, LogError, LogHealth
from memorycluster.log.nats import NatsLog
from memorycluster.process import dying_with_parent, yield_cpu
from memorycluster.snapshot.confirm import log_end
from memorycluster.snapshot.keep import Answers, Keeper
from memorycluster.snapshot.manifest import Reason, default_name
from memorycluster.snapshot.policy import End, pause, previous_moment, replay_due, replay_limit
from memorycluster.snapshot.store import StoreError

MAKE = ("-m", "memorycluster.snapshot")

NICE = 10
"""How nice a making's session is to those that serve: it gets a tenth of their share, and what they leave."""

LOOK_EVERY = 2.0
"""Seconds between two looks at whether a snapshot is due."""

TEND_EVERY = 60.0
"""Seconds between two looks at the store, beside those after each snapshot."""


class Due(NamedTuple):
    """A snapshot that is to be made."""

    reason: Reason
    why: str
    """In words."""
    moment: datetime | None = None
    """The schedule's, by which it is named; None: it is not of the schedule."""


def store_of(state: State, layout: Layout) -> SnapshotStore:
    """Return the store that the manifest asks for, or the default one in the data directory."""
    if state.store.chosen is not None:
        return state.store
    return SnapshotStore(directory=DirectoryStore(path=str(layout.snapshots)))


class ShardSnapshots(Keeper):
    """The snapshots of one shard, kept as the manifest wants them."""

    def __init__(
        self,
        shard: Shard,
        wanted: Wanted,
        layout: Layout,
        state: State,
        secrets: Secrets,
        *,
        max_bytes: int,
        log_servers: Sequence[str],
        programs: Path,
        note: Callable[[str], None],
    ) -> None:
        """``max_bytes`` is the log's limit; ``note`` is told what is worth a line."""
        super().__init__(
            shard.index,
            state.cluster,
            state.shards[shard.index].generation,
            store_of(state, layout),
            wanted.retention,
            note=note,
        )
        self._shard = shard
        self._wanted = wanted
        self._layout = layout
        self._secrets = secrets
        self._limit = replay_limit(wanted.max_log_replay, max_bytes)
        self._log_servers = list(log_servers)
        self._programs = programs
        self._since = datetime.now(UTC)
        """From when on the schedule counts, while there is no snapshot."""
        self._tended = -TEND_EVERY
        self._again = 0.0
        self._fruitless = 0
        """Makings in a row that came to nothing."""

    def _due(self, end: End, health: LogHealth) -> Due | None:
        """Return which snapshot is due; None: none is."""
        if self._wanted.schedule:
            now = datetime.now(UTC)
            moment = previous_moment(self._wanted.schedule, now)
            # What lies ahead was said by a wrong clock: it must not end the schedule.
            self._since = min(self._since, now)
            made = [each.created_at for each in self._whole if each.reason == "schedule"]
            if moment > max([self._since, *(each for each in made if each <= now)]):
                return Due("schedule", f"the schedule says {moment:%H:%M}", moment)
        why = replay_due(end, health.bytes, health.first_sequence, self._whole, self._limit)
        return Due("replay", why) if why else None

    async def run(self) -> None:
        """Keep at it until cancelled."""
        async with NatsLog(
            self._log_servers,
            stream_name(self._cluster, self._shard.index),
            user=self._secrets.log_user,
            password=self._secrets.log_password.get_secret_value(),
        ) as log:
            while True:
                await self._step(log)
                await asyncio.sleep(LOOK_EVERY)

    async def _step(self, log: Log) -> None:
        """Tend what is there, if that is due, and make what is due: neither needs the other to go well."""
        now = time.monotonic()
        if now - self._tended >= TEND_EVERY:
            async with self._complaining("look"):
                await self._tend(log)
        async with self._complaining("due"):
            due = self._due(await log_end(log), await log.health())
            if due and now >= self._again:
                await self._make(log, due)

    @contextlib.asynccontextmanager
    async def _complaining(self, what: str) -> AsyncIterator[None]:
        """Tell what goes wrong with the store or the log, and end just what is done here."""
        try:
            yield
            self._settle(what)
        except (StoreError, LogError, OSError) as error:
            self._complain(what, f"shard {self._shard.index}: {error}")

    async def _make(self, log: Log, due: Due) -> None:
        last: dict[str, Any] = {"failed": "it ended without a word"}
        began = datetime.now(UTC)
        async for said in making(self._config(due), self._work):
            if "progress" not in said:
                last = said
        self._rotten |= set(last.get("broken", ()))
        self._fruitless = 0 if "made" in last else self._fruitless + 1
        self._again = time.monotonic() + pause(self._fruitless) if self._fruitless else 0.0
        if "failed" in last:
            text = f"no snapshot, though {due.why}: {last['failed']}"
            self._complain("make", f"shard {self._shard.index}: {text}")
            return
        if "made" in last:
            self._sound.add(last["made"])
        if due.reason == "schedule":
            self._since = began
        self._settle("make")
        if last.get("trouble"):
            self._note(f"shard {self._shard.index}: passed over: {last['trouble']}")
        async with self._complaining("look"):
            await self._tend(log)

    async def _tend(self, log: Log) -> None:
        """Look at what is in the store, trim the log behind it, and delete what need not be kept."""
        await self._look(log)
        self._tended = time.monotonic()

    async def _answers(self) -> Answers:
        """Return what the agents of the shard say, by node; None: nothing."""
        nodes = self._shard.nodes
        answers = await agent_statuses([self._layout.node(node).agent_socket for node in nodes])
        return {node.name: answer for node, answer in zip(nodes, answers, strict=True)}

    def _held(self) -> bool:
        return held(self._layout, self._index)

    def _config(self, due: Due) -> dict[str, Any]:
        return job_config(
            self._shard,
            cluster=self._cluster,
            generation=str(self._generation),
            log_servers=self._log_servers,
            secrets=self._secrets,
            store=self._store,
            programs=self._programs,
            work=self._work,
            reason=due.reason,
            # All shards call it the same, so that they can be restored together; so each has one.
            name=default_name(self._cluster, due.moment) if due.moment else "",
            anew=due.moment is not None,
        )

    @property
    def _work(self) -> Path:
        return self._layout.work / str(self._shard.index)


def job_config(
    shard: Shard,
    *,
    cluster: str,
    generation: str,
    log_servers: Sequence[str],
    secrets: Secrets,
    store: SnapshotStore,
    programs: Path,
    work: Path,
    reason: Reason,
    name: str = "",
    anew: bool = False,
) -> dict[str, Any]:
    """Return the configuration of a making (``memorycluster.snapshot.job.JobConfig``)."""
    return {
        "cluster": cluster,
        "shard": shard.index,
        "slots": [list(each) for each in shard.slots],
        "generation": generation,
        "stream": stream_name(cluster, shard.index),
        "log_servers": list(log_servers),
        "log_user": secrets.log_user,
        "log_password": secrets.log_password.get_secret_value(),
        "store": store.as_written(),
        "programs": str(programs),
        "work": str(work),
        "reason": reason,
        "name": name,
        "anew": anew,
    }


async def making(config: dict[str, Any], directory: Path) -> AsyncIterator[dict[str, Any]]:
    """Make a snapshot in a process of its own, for which ``directory`` is emptied; yield what it says.

    It dies with us; cancelled, it is ended.
    """
    conf = await asyncio.to_thread(_write_config, config, directory)
    process = await asyncio.create_subprocess_exec(
        *dying_with_parent(["nice", "-n", "10", sys.executable, "-P", *MAKE, "--config", str(conf)]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    yield_cpu(process.pid, NICE)
    assert process.stdout
    assert process.stderr
    errors = asyncio.create_task(process.stderr.read())
    try:
        said: dict[str, Any] = {}
        async for line in process.stdout:
            said = json.loads(line)
            yield said
        await process.wait()
        if not said or "progress" in said:
            lines = (await errors).decode(errors="replace").strip().splitlines()
            yield {"failed": f"the making ended (status {process.returncode}): {lines[-1] if lines else ''}"}
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        errors.cancel()


def _write_config(config: dict[str, Any], directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)  # of one that was killed
    directory.mkdir(mode=0o700, parents=True)
    conf = directory / "job.yaml"
    conf.touch(mode=0o600)
    conf.write_text(json.dumps(config, indent=2))
    return conf
