"""What a new cluster begins with: a snapshot, found in a store by its name and fetched, or another one's log.

Each shard is made by itself, and takes from all former shards what is in its slots. So that all are made of
the same, each says what that was: its snapshot's ``origin``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import Field

from memorycluster.api.snapshots import SnapshotStore
from memorycluster.log.chain import Position
from memorycluster.log.interface import Log, LogUnavailable
from memorycluster.log.nats import NatsLog
from memorycluster.snapshot.catalogue import MANIFEST, BrokenSnapshot, Catalogue, Snapshot, open_catalogue
from memorycluster.snapshot.engine import Contents
from memorycluster.snapshot.maker import Made, Maker, Progress, Report, store
from memorycluster.snapshot.manifest import Manifest, default_name
from memorycluster.snapshot.policy import FIRST
from memorycluster.snapshot.reshard import Slots, Splitter, complete, join, latest, others
from memorycluster.snapshot.store import LogAccess, open_store
from memorycluster.snapshot.told import Told

if TYPE_CHECKING:
    from memorycluster.snapshot.job import JobConfig


TAKEN_WITHIN = timedelta(hours=7)
"""Between the snapshots of two shards of one name: a Job may take six hours, and is tried again for one."""


ANSWERS_WITHIN = 90.0
"""Seconds for the first answer of a log that is to be read."""

ASK_EVERY = 1.0
"""Seconds between two tries, each of which takes its time as well."""

NAMED_INSTEAD = 3
"""Snapshots that are named where the one that is wanted is not there."""


class SourceService(Told):
    """The log service of the cluster that is restored."""

    servers: list[str]
    user: str
    password_file: Path

    @property
    def access(self) -> LogAccess:
        """How to reach it. Raises OSError."""
        return LogAccess(tuple(self.servers), self.user, self.password_file.read_text().strip())


class SourceLog(SourceService):
    """The log of a former shard."""

    stream: str
    generation: UUID
    slots: list[tuple[int, int]]


class RestoreConfig(Told):
    """What a shard is restored from: a snapshot, or logs up to a moment."""

    snapshot: str | None = None
    cluster: str | None = None
    """Of which it is; None: the only one that has a snapshot of that name."""
    store: SnapshotStore
    """Where its snapshots are."""
    service: SourceService | None = None
    """The log service that has them, if one has; None: this cluster's own."""
    time: datetime | None = None
    logs: list[SourceLog] = Field(default_factory=list)
    """For the time: those of all former shards, by index."""
    ours: list[UUID] = Field(default_factory=list)
    """Generations of all shards of the new cluster: what is made of the snapshot has its name, too."""


class NotFound(Exception):
    """There is no such snapshot, or more than one; says what to do."""


async def find(
    config: SnapshotStore,
    name: str,
    cluster: str | None,
    ours: Collection[UUID],
    log: LogAccess | None = None,
) -> dict[int, Snapshot]:
    """Return the snapshot of that name of each shard.

    :param cluster: of which it is; None: of any. :param ours: generations of what was made of it for us.
    :param log: see ``open_store``.
    :raises NotFound, StoreError:
    """
    opened = open_store(config, log)
    keys = [each.key for each in await opened.list(cluster or "")]
    places = [key.removesuffix(f"/{MANIFEST}") for key in keys if key.endswith(f"/{MANIFEST}")]
    found: dict[str, dict[str, dict[int, list[Snapshot]]]] = {}  # by name, cluster and shard
    broken = []
    for place in places:
        try:
            of, shard, generation, *_ = place.split("/")
            if generation in map(str, ours):
                continue
            snapshot = await Catalogue(opened, of, int(shard)).read(place)
        except (BrokenSnapshot, ValueError) as error:
            broken.append(str(error))
            continue
        manifest = snapshot.manifest
        shards = found.setdefault(manifest.name, {}).setdefault(manifest.cluster, {})
        shards.setdefault(manifest.shard, []).append(snapshot)
    if name not in found:
        why = f" ({'; '.join(broken)})" if broken else ""
        raise NotFound(f"{opened.name} has no snapshot {name}{why}; {_instead(found)}")
    if len(found[name]) > 1:
        clusters = ", ".join(sorted(found[name]))
        raise NotFound(f"cluster: name one of {clusters}: each has {name}")
    return _together(name, next(iter(found[name].values())))


def _instead(found: Mapping[str, Mapping[str, Mapping[int, Sequence[Snapshot]]]]) -> str:
    """Return the newest of what there is of all shards, in words."""
    whole: dict[str, datetime] = {}
    for name, clusters in found.items():
        for shards in clusters.values():
            with contextlib.suppress(NotFound):
                newest = _together(name, shards)
                assert_complete(name, newest)
                whole[name] = max(each.manifest.created_at for each in newest.values())
    names = sorted(whole, key=lambda each: (whole[each], each), reverse=True)[:NAMED_INSTEAD]
    return f"the newest of all shards: {', '.join(names)}" if names else "it has none of all shards"


def _together(name: str, found: Mapping[int, Sequence[Snapshot]]) -> dict[int, Snapshot]:
    """Return the newest of each shard's snapshots. Raises NotFound: they were not taken together."""
    for shard, snapshots in found.items():
        if len({each.manifest.generation for each in snapshots}) > 1:
            raise NotFound(f"{name} is of several logs of shard {shard}: {_choose(snapshots)}")
    newest = {
        shard: max(snapshots, key=lambda each: each.manifest.created_at) for shard, snapshots in found.items()
    }
    made = [each.manifest.created_at for each in newest.values()]
    if max(made) - min(made) > TAKEN_WITHIN:
        raise NotFound(
            f"{name} was taken of some shards {max(made) - min(made)} later than of others: "
            f"{_choose(newest.values())}"
        )
    return newest


def _choose(snapshots: Collection[Snapshot]) -> str:
    ordered = sorted(snapshots, key=lambda each: each.manifest.created_at)
    places = ", ".join(f"{each.place} ({each.manifest.created_at:%Y-%m-%d %H:%M})" for each in ordered)
    return f"delete those that you don't mean: {places}"


async def fetch(
    config: SnapshotStore, snapshot: Snapshot, directory: Path, report: Report, log: LogAccess | None = None
) -> Made:
    """Copy the data of a snapshot into ``directory``. Raises BrokenSnapshot, StoreError, OSError."""
    manifest, got = snapshot.manifest, 0

    def count(length: int) -> None:
        nonlocal got
        got += length
        report(Progress("load", got, manifest.size))

    catalogue = open_catalogue(config, manifest.cluster, manifest.shard, log)
    file = directory / "fetched.rdb"
    with file.open("xb") as copy:
        await catalogue.fetch(
            snapshot.place, size=manifest.size, sha256=manifest.sha256, file=copy, got=count
        )
    contents = Contents(manifest.digest, manifest.keys, manifest.expires, manifest.functions)
    return Made(manifest.position, manifest.log_time, file, contents, manifest.engine_version)


async def restored(own: Catalogue, generation: UUID) -> list[Snapshot]:
    """Return what has been made for a log to begin with and is still there. Raises StoreError.

    The first of them is the one to use: engines look at it first, too.
    """
    found = []
    for snapshot in await own.all(generation):
        with contextlib.suppress(BrokenSnapshot):
            await own.check_data(snapshot)
            found.append(snapshot)
    return [each for each in found if each.manifest.sequence == FIRST]


async def restore(config: JobConfig, wanted: RestoreConfig, report: Report) -> Manifest:
    """Make the first snapshot of a shard, unless that is done; return its manifest: the log begins with it.

    :raises NotFound: or what a making does.
    """
    own = open_catalogue(config.store, config.cluster, config.shard, config.access)
    if done := await restored(own, config.generation):
        return done[0].manifest
    with tempfile.TemporaryDirectory(dir=config.work, prefix="restore-") as name:
        directory = Path(name)
        made, origin = await _made(config, wanted, directory, report)
        stored = await store(
            made,
            wanted.snapshot or default_name(config.cluster, wanted.time or datetime.now(UTC)),
            "replay",
            own,
            config.slots,
            programs=config.directory,
            directory=directory,
            report=report,
            position=Position(config.generation, sequence=FIRST),
            origin=origin,
        )
    return stored.manifest


@dataclass(frozen=True, slots=True)
class _Source:
    """A former shard."""

    slots: Slots
    make: Callable[[Path], Awaitable[Made]]
    """Makes its state in an empty directory."""
    origin: str
    """Which it is; what it is a state of may not be known before it is made."""
    functions: str | None
    """Digest of its function libraries; None: not known before it is made."""


async def _made(
    config: JobConfig, wanted: RestoreConfig, directory: Path, report: Report
) -> tuple[Made, str]:
    """Return what is wanted of a shard, and what that is made of."""
    if wanted.time is None:
        sources = await _snapshots(config, wanted, report)
    else:
        sources = _logs(config, wanted, report)
    same = sources.get(config.shard)
    if same is not None and list(same.slots) == config.slots:
        return await same.make(directory), _origin(each.origin for each in sources.values())
    return await _of_others(config, sources, directory, report)


async def _of_others(
    config: JobConfig, sources: Mapping[int, _Source], directory: Path, report: Report
) -> tuple[Made, str]:
    """Make the state of a shard of what former shards with other slots have."""
    parts, joined = directory / "parts", directory / "joined"
    for path in (parts, joined):
        path.mkdir(mode=0o700)
    splitter = Splitter(
        [config.slots],
        rest=others(config.slots),
        programs=config.directory,
        directory=parts,
        report=report,
    )
    times, origins = [], []
    for source in sources.values():
        origin = source.origin
        if source.functions is None or splitter.wants(source.slots, source.functions):
            with tempfile.TemporaryDirectory(dir=directory) as name:
                made = await source.make(Path(name))
                await splitter.split(made, source.slots)
            times.append(made.time)
            if source.functions is None:  # it is a log, up to here
                origin += f" {made.position.unit_end} {made.position.unit_crc:016x}"
        origins.append(origin)
    [pieces] = splitter.pieces
    position = Position(config.generation, sequence=FIRST)
    made = await join(
        pieces, splitter.libraries, position, programs=config.directory, directory=joined, report=report
    )
    return replace(made, time=latest(times)), _origin(origins)


def _origin(sources: Iterable[str]) -> str:
    """Return what tells all that a cluster is made of from everything else."""
    return hashlib.sha256("\n".join(sorted(sources)).encode()).hexdigest()


async def _snapshots(config: JobConfig, wanted: RestoreConfig, report: Report) -> dict[int, _Source]:
    """Return the former shards whose snapshots of one name are wanted. Raises NotFound, StoreError."""
    assert wanted.snapshot is not None
    ours = wanted.ours or [config.generation]
    log = _service(config, wanted)
    found = await find(wanted.store, wanted.snapshot, wanted.cluster, ours, log)
    assert_complete(wanted.snapshot, found)

    def source(snapshot: Snapshot) -> _Source:
        manifest = snapshot.manifest
        return _Source(
            manifest.slots,
            lambda directory: fetch(wanted.store, snapshot, directory, report, log),
            snapshot.place,
            manifest.functions,
        )

    return {index: source(found[index]) for index in sorted(found)}


def _service(config: JobConfig, wanted: RestoreConfig) -> LogAccess:
    """Return the log service that has what is wanted, should one have it. Raises OSError."""
    return wanted.service.access if wanted.service else config.access


def assert_complete(name: str, found: Mapping[int, Snapshot]) -> None:
    """Raise NotFound if shards are missing of a snapshot."""
    if not complete([each.manifest.slots for each in found.values()]):
        have = ", ".join(map(str, sorted(found)))
        raise NotFound(
            f"snapshot {name} has the shards {have}, which are not all that there were: name one that has "
            "all of them"
        )


def _logs(config: JobConfig, wanted: RestoreConfig, report: Report) -> dict[int, _Source]:
    """Return the former shards whose logs are to be read up to a moment."""

    def source(index: int, log: SourceLog) -> _Source:
        return _Source(
            log.slots,
            lambda directory: _up_to_moment(config, wanted, index, directory, report),
            f"{log.generation} {wanted.time}",
            None,
        )

    return {index: source(index, log) for index, log in enumerate(wanted.logs)}


async def _answered(log: Log) -> None:
    """Wait for a log's first answer: it may not admit this pod yet, or elect. Raises LogUnavailable."""
    until = time.monotonic() + ANSWERS_WITHIN
    while True:
        try:
            await log.health()
            return
        except LogUnavailable:
            if time.monotonic() >= until:
                raise
        await asyncio.sleep(ASK_EVERY)


async def _up_to_moment(
    config: JobConfig, wanted: RestoreConfig, index: int, directory: Path, report: Report
) -> Made:
    """Make the state that a former shard had at the moment that is wanted."""
    assert wanted.cluster is not None
    source = wanted.logs[index]
    async with NatsLog(
        source.servers,
        source.stream,
        user=source.user,
        password=source.password_file.read_text().strip(),
    ) as log:
        await _answered(log)
        maker = Maker(
            log,
            open_catalogue(wanted.store, wanted.cluster, index, _service(config, wanted)),
            source.generation,
            source.slots,
            programs=config.directory,
            work=directory,
            report=report,
        )
        return await maker.build(directory, until=wanted.time)
