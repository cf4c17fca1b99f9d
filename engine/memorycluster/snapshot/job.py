"""One making as a process of its own: ``python -m memorycluster.snapshot --config FILE``.

It prints one JSON object a line: ``{"progress": ...}`` as it goes on, and at its end ``{"made": place}``,
``{"nothing": place}`` (the newest snapshot holds all that is in the log) or ``{"failed": reason}``; with the
places of the snapshots that were found to be ``broken``.

On Kubernetes it is a Job, beside which nobody else keeps the snapshots. So it does that too, see ``alone``,
and leaves what it said last where the operator finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from pydantic import Field, SecretStr

from memorycluster.api.snapshots import SnapshotStore
from memorycluster.log.interface import Log, LogError
from memorycluster.log.nats import NatsLog
from memorycluster.process import yield_cpu
from memorycluster.snapshot import alone
from memorycluster.snapshot.alone import KeepConfig
from memorycluster.snapshot.catalogue import BrokenSnapshot, Catalogue, Snapshot, open_catalogue
from memorycluster.snapshot.engine import EngineFailed
from memorycluster.snapshot.log_bucket import LogBucket
from memorycluster.snapshot.maker import Maker, NothingNew, NotVerified, Progress, Report
from memorycluster.snapshot.manifest import Reason
from memorycluster.snapshot.restore import NotFound, RestoreConfig, restore
from memorycluster.snapshot.store import LogAccess, StoreError, StoreFull
from memorycluster.snapshot.telling import TellConfig, telling
from memorycluster.snapshot.told import Told

SAY_EVERY = 0.2
"""Seconds between two lines about the same step."""

MESSAGE_SIZE = 4000
"""Bytes of what is said last: Kubernetes keeps 4096 of a container's message."""

LOOK_EVERY = 2.0
"""Seconds between two looks at how full the log is."""

FAILURES = (NotVerified, EngineFailed, StoreError, BrokenSnapshot, LogError, OSError)
"""What can go wrong with a making, and may go well the next time."""


class JobConfig(Told):
    """What a making is told."""

    cluster: str
    shard: int = Field(ge=0, lt=1024)
    slots: list[tuple[int, int]]
    generation: UUID
    stream: str
    log_servers: list[str] = Field(min_length=1)
    log_user: str
    log_password: SecretStr = SecretStr("")
    log_password_file: Path | None = None
    """Has the password, where that is not given."""
    store: SnapshotStore
    programs: Path | None = None
    """Directory of the engine's programs; None: where PATH has them."""
    work: Path
    """Directory with room for the data, twice."""
    reason: Reason = "user"
    name: str = ""
    """Of the snapshot; empty: made from the cluster's name and the time."""
    anew: bool = False
    """Make one also if the newest holds all that is in the log."""
    make: bool = True
    """False: only keep those that are there."""
    keep: KeepConfig | None = None
    """How to keep the snapshots; None: somebody else does."""
    restore: RestoreConfig | None = None
    """Make the first snapshot of a new log, of this; None: one of the log that there is."""
    result: Path | None = None
    """File for what is said last."""
    tell: TellConfig | None = None
    """Where to tell how far it is; None: nobody asks."""

    @classmethod
    def load(cls, path: Path) -> JobConfig:
        """Return the configuration in the YAML file at ``path``."""
        return cls.model_validate(yaml.safe_load(path.read_text()))

    @property
    def password(self) -> str:
        """The log's. Raises OSError."""
        if self.log_password_file is None:
            return self.log_password.get_secret_value()
        return self.log_password_file.read_text().strip()

    @property
    def access(self) -> LogAccess:
        """To the log service. Raises OSError."""
        return LogAccess(tuple(self.log_servers), self.log_user, self.password)

    @property
    def directory(self) -> Path:
        """That of the engine's programs. Raises OSError."""
        if self.programs is not None:
            return self.programs
        if (found := shutil.which("valkey-server")) is None:
            raise FileNotFoundError("there is no program valkey-server in PATH")
        return Path(found).parent


async def run(config: JobConfig, say: Callable[[dict[str, Any]], None]) -> bool:
    """Make one snapshot; return whether there is one, and ``say`` what becomes of it."""
    reporter = _Reporter(say)
    broken: list[str] = []
    try:
        async with telling(config.tell, lambda: reporter.last):
            said = await _run(config, reporter.report, broken)
        say(said)
        return "failed" not in said
    except (*FAILURES, NotFound) as error:
        say({"failed": str(error)[:2000] or type(error).__name__, "broken": broken})
        return False


async def _run(config: JobConfig, report: Report, broken: list[str]) -> dict[str, Any]:
    """Do what is wanted; return what there is to tell."""
    if config.restore or config.make:
        report(Progress("load", 0, 0))  # whatever it waits for first
    if config.restore:
        first = await restore(config, config.restore, report)
        return {"restored": first.digest, "origin": first.origin}
    async with NatsLog(
        config.log_servers,
        config.stream,
        user=config.log_user,
        password=config.password,
    ) as log:
        if not config.make:
            said = await alone.keep(config, log, patience=alone.PATIENCE)
            left = alone.left(config, said)
            return said | ({"failed": left} if left else {})
        if config.keep and config.keep.room is not None:
            # What nobody needs any more may be in the way of this one.
            await alone.keep(config, log)
        hurrying = asyncio.create_task(_hurry(log))
        try:
            return await _make(config, log, report, broken)
        except StoreFull:  # The next try finds all the room that there can be.
            if config.keep and config.keep.room is not None:
                await alone.keep(config.model_copy(update={"keep": config.keep.with_no_room}), log)
            raise
        finally:
            hurrying.cancel()


async def _make(config: JobConfig, log: NatsLog, report: Report, broken: list[str]) -> dict[str, Any]:
    """Make a snapshot; return what there is to tell. What is found broken is added to ``broken``."""
    catalogue = open_catalogue(config.store, config.cluster, config.shard, config.access)
    maker = Maker(
        log,
        catalogue,
        config.generation,
        config.slots,
        programs=config.directory,
        work=config.work,
        report=report,
    )
    maker.broken = broken
    try:
        snapshot = await maker.make(config.name, config.reason, anew=config.anew)
        said: dict[str, Any] = {"made": snapshot.place, "trouble": maker.trouble, "broken": broken}
    except NothingNew as nothing:
        snapshot = nothing.snapshot
        await _keep(catalogue, snapshot, config.reason)
        said = {"nothing": snapshot.place, "broken": broken}
    if config.keep is None:
        return said
    kept = await alone.keep(config, log, broken=broken, sound=[snapshot.place])
    return said | {"manifest": snapshot.manifest.model_dump(mode="json", by_alias=True), **kept}


async def _keep(catalogue: Catalogue, snapshot: Snapshot, reason: Reason) -> None:
    """Have a snapshot that is there already kept, if a user asks for what it holds. Raises as a making."""
    if reason == "user" and snapshot.manifest.reason != "user":
        await catalogue.put_manifest(snapshot.place, snapshot.manifest.model_copy(update={"reason": reason}))


async def _hurry(log: Log) -> None:
    """Yield neither CPU nor disk once the log is a quarter full: it can't be trimmed before this is done."""
    while True:
        with contextlib.suppress(LogError):
            health = await log.health()
            if 4 * health.bytes > health.max_bytes:
                LogBucket.rest = 0.0
                return yield_cpu(os.getpid(), 0)
        await asyncio.sleep(LOOK_EVERY)


class _Reporter:
    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self._step = ""
        self._said = 0.0
        self.last: Progress | None = None
        """How far it is; None: it has not begun."""

    def report(self, progress: Progress) -> None:
        self.last = progress
        now = time.monotonic()
        if progress.step != self._step or now - self._said >= SAY_EVERY or progress.done == progress.total:
            self._step, self._said = progress.step, now
            self._say({"progress": asdict(progress)})


def message(said: dict[str, Any]) -> bytes:
    """Return what is said as JSON that fits into a container's message: cut off, it would say nothing."""
    said = dict(said)
    if "broken" in said:
        said["broken"] = said["broken"][:5]
    # What is made, and where, the operator must know; of these it can do without the first best.
    for key in ("deleted", "trouble", "broken"):
        if len(_encoded(said)) > MESSAGE_SIZE:
            said.pop(key, None)
    while len(_encoded(said)) > MESSAGE_SIZE and said.get("failed"):
        said["failed"] = said["failed"][: len(said["failed"]) // 2]
    return _encoded(said)


def _encoded(said: dict[str, Any]) -> bytes:
    # A path may hold what is no text.
    return json.dumps(said, ensure_ascii=False).encode(errors="replace")


def main(path: Path) -> int:
    """Run the making that the file at ``path`` describes; return its exit status."""
    config = JobConfig.load(path)

    def say(said: dict[str, Any]) -> None:
        print(json.dumps(said), flush=True)
        if config.result and "progress" not in said:
            config.result.write_bytes(message(said))

    return 0 if asyncio.run(run(config, say)) else 1
