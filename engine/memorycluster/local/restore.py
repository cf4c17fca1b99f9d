"""A new cluster from a snapshot, or from a snapshot and a log up to a moment.

What is restored becomes the first snapshot of the new shard's log, whose first record says so: without that
snapshot nobody reads the log. All is verified before the log is made, and done again if it was interrupted.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from memorycluster.api.snapshots import RestoreFrom, SnapshotStore
from memorycluster.api.topology import Shard, Topology
from memorycluster.local.errors import UserError
from memorycluster.local.holds import holding
from memorycluster.local.layout import Layout
from memorycluster.local.logs import shard_log
from memorycluster.local.pace import Pace
from memorycluster.local.plan import plan_topology
from memorycluster.local.snapshots import store_of
from memorycluster.local.state import State, load_secrets, load_state, running_pid
from memorycluster.log.chain import Position
from memorycluster.snapshot.catalogue import Catalogue, Snapshot, open_catalogue
from memorycluster.snapshot.job import FAILURES
from memorycluster.snapshot.maker import Made, Maker, Progress, Report, store
from memorycluster.snapshot.manifest import default_name
from memorycluster.snapshot.policy import FIRST
from memorycluster.snapshot.reshard import Slots, Splitter, join, latest
from memorycluster.snapshot.restore import NotFound, assert_complete, fetch, find, restored


async def restore(
    shard: Shard,
    state: State,
    layout: Layout,
    *,
    source: Path | None,
    programs: Path,
    progress: Callable[[str], None],
) -> bytes:
    """Make the first snapshot of ``shard``; return what its log is to begin with.

    :param source: data directory of the cluster whose log is to be read; None: beside ours, by its name.
    :raises UserError: it can't be done; says why.
    """
    wanted = state.restore_from
    assert wanted is not None
    report = _reporter(f"restoring shard {shard.index}", progress)
    try:
        if done := await _restored(shard, state, layout):
            return done[0].manifest.digest.encode()
        async with _held(state, layout, wanted, source, only=shard.index):
            if (await _sources(state, layout, wanted, source)).get(shard.index) != shard.slots:
                raise UserError(
                    f"what was restored for shard {shard.index} is gone from its store, and others are made "
                    "of the same: remove the data directory, and restore again"
                )
            with _directory(layout, f"restore-{shard.index}") as directory:
                made = await _made(
                    shard.index, shard.slots, state, layout, source, programs, directory, report
                )
                kept = wanted.snapshot or default_name(state.cluster, wanted.time or datetime.now(UTC))
                stored = await _keep(made, kept, shard, state, layout, programs, directory, report)
        return stored.manifest.digest.encode()
    except FAILURES as error:
        raise UserError(f"shard {shard.index} can't be restored: {error}") from error


async def reshard(
    topology: Topology,
    state: State,
    layout: Layout,
    *,
    source: Path | None,
    programs: Path,
    progress: Callable[[str], None],
) -> None:
    """Make the first snapshots of all shards, if the cluster is made from one with other shards.

    No log is made before all of them are there; then ``restore`` finds them. It has the same parameters.

    :raises UserError: it can't be done; says why.
    """
    wanted = state.restore_from
    if wanted is None or any(each.created for each in state.shards):
        return
    try:
        if await _all_there(topology.shards, state, layout):
            return
        async with _held(state, layout, wanted, source):
            sources = await _sources(state, layout, wanted, source)
            if sources == {shard.index: shard.slots for shard in topology.shards}:
                return
            await _undo(topology.shards, state, layout)
            with _directory(layout, "restore") as directory:
                await _reshard(sources, topology.shards, state, layout, source, programs, directory, progress)
    except FAILURES as error:
        raise UserError(f"the cluster can't be restored: {error}") from error


@contextmanager
def _directory(layout: Layout, name: str) -> Iterator[Path]:
    """Make a directory to work in, without what an interrupted restore has left there."""
    path = layout.work / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700, parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def _held(
    state: State, layout: Layout, wanted: RestoreFrom, source: Path | None, *, only: int | None = None
) -> AsyncIterator[None]:
    """Keep the cluster that is restored from trimming its logs and deleting snapshots, if it runs here.

    All of its shards at once, or ``only`` one, for as long as this takes: while one is read, the others would
    go on, past the moment that is wanted of them.

    :raises UserError: its logs are to be read, and it does not run.
    """
    with ExitStack() as holds:
        if there := await _holders(state, layout, wanted, source):
            theirs, old = there
            for index in range(len(old.shards)):
                if only in (None, index):
                    holds.enter_context(holding(theirs, index))
        yield


async def _holders(
    state: State, layout: Layout, wanted: RestoreFrom, source: Path | None
) -> tuple[Layout, State] | None:
    """Return where the cluster is that is restored, and what it is; None: its snapshots are, and nobody's."""
    if wanted.time is not None:
        return _running(layout, wanted, source)
    of = [each.manifest.cluster for each in (await _find(state, layout, wanted)).values()]
    theirs = _layout_of(of[0], layout, source)
    if theirs.root == layout.root.absolute() or running_pid(theirs) is None:
        return None  # nobody deletes any
    old = load_state(theirs)
    return (theirs, old) if old is not None and old.cluster == of[0] else None


async def _sources(
    state: State, layout: Layout, wanted: RestoreFrom, source: Path | None
) -> dict[int, tuple[tuple[int, int], ...]]:
    """Return the slots of the shards that there were, by their index."""
    if wanted.time is not None:
        _, old = _running(layout, wanted, source)
        return {shard.index: shard.slots for shard in plan_topology(old).shards}
    found = await _find(state, layout, wanted)
    return {index: snapshot.manifest.slots for index, snapshot in found.items()}


async def _all_there(shards: Sequence[Shard], state: State, layout: Layout) -> bool:
    """Say whether all shards are restored: only their logs are to be made."""
    return all([await _restored(shard, state, layout) for shard in shards])


async def _undo(shards: Sequence[Shard], state: State, layout: Layout) -> None:
    """Delete what an interrupted restore has made: all shards are to be made of the same."""
    for shard in shards:
        own = _own(shard, state, layout)
        for snapshot in await own.all(state.shards[shard.index].generation):
            await own.delete(snapshot.place)  # no log begins with it yet


async def _restored(shard: Shard, state: State, layout: Layout) -> list[Snapshot]:
    return await restored(_own(shard, state, layout), state.shards[shard.index].generation)


def _own(shard: Shard, state: State, layout: Layout) -> Catalogue:
    return open_catalogue(store_of(state, layout), state.cluster, shard.index)


async def _reshard(
    sources: Mapping[int, Slots],
    shards: Sequence[Shard],
    state: State,
    layout: Layout,
    source: Path | None,
    programs: Path,
    directory: Path,
    progress: Callable[[str], None],
) -> None:
    wanted = state.restore_from
    assert wanted is not None
    parts = directory / "parts"
    parts.mkdir(mode=0o700)
    splitter = Splitter(
        [shard.slots for shard in shards],
        programs=programs,
        directory=parts,
        report=_reporter("restoring, all shards", progress),
    )
    times = []
    for index, slots in sources.items():
        report = _reporter(f"restoring from shard {index}", progress)
        with tempfile.TemporaryDirectory(dir=directory) as name:
            made = await _made(index, slots, state, layout, source, programs, Path(name), report)
            times.append(made.time)
            await splitter.split(made, slots)
    kept = default_name(state.cluster, datetime.now(UTC))
    for shard in shards:
        report = _reporter(f"restoring shard {shard.index}", progress)
        position = Position(state.shards[shard.index].generation, sequence=FIRST)
        with tempfile.TemporaryDirectory(dir=directory) as name:
            joined = await join(
                splitter.pieces[shard.index],
                splitter.libraries,
                position,
                programs=programs,
                directory=Path(name),
                report=report,
            )
            await _keep(
                replace(joined, time=latest(times)),
                kept,
                shard,
                state,
                layout,
                programs,
                Path(name),
                report,
            )


def _reporter(what: str, progress: Callable[[str], None]) -> Report:
    pace = Pace()

    def report(now: Progress) -> None:
        progress(f"{what}: {pace(now)}")

    return report


async def _made(
    index: int,
    slots: Slots,
    state: State,
    layout: Layout,
    source: Path | None,
    programs: Path,
    directory: Path,
    report: Report,
) -> Made:
    """Return what is wanted of shard ``index`` of the source, which has ``slots``."""
    wanted = state.restore_from
    assert wanted is not None
    if wanted.time is None:
        return await _from_snapshot(index, state, layout, wanted, directory, report)
    return await _up_to_moment(index, slots, layout, wanted, source, programs, directory, report)


async def _keep(
    made: Made,
    name: str,
    shard: Shard,
    state: State,
    layout: Layout,
    programs: Path,
    directory: Path,
    report: Report,
) -> Snapshot:
    """Store what was made as the snapshot that the log of ``shard`` begins with."""
    return await store(
        made,
        name,
        "replay",
        _own(shard, state, layout),
        shard.slots,
        programs=programs,
        directory=directory,
        report=report,
        position=Position(state.shards[shard.index].generation, sequence=FIRST),
    )


async def _from_snapshot(
    index: int, state: State, layout: Layout, wanted: RestoreFrom, directory: Path, report: Report
) -> Made:
    """Copy the snapshot of that shard that is wanted."""
    snapshot = (await _find(state, layout, wanted))[index]
    return await fetch(_source_store(state, layout, wanted), snapshot, directory, report)


async def _find(state: State, layout: Layout, wanted: RestoreFrom) -> dict[int, Snapshot]:
    """Return the snapshot of that name of each shard; not what has been made of it for us."""
    assert wanted.snapshot is not None
    ours = [each.generation for each in state.shards]
    try:
        found = await find(_source_store(state, layout, wanted), wanted.snapshot, wanted.cluster, ours)
        assert_complete(wanted.snapshot, found)
    except NotFound as error:
        raise UserError(f"spec.restoreFrom: {error}") from error
    return found


def _layout_of(cluster: str, layout: Layout, source: Path | None) -> Layout:
    """Return where a cluster is: in ``source``, or beside ours."""
    return Layout((source or layout.root.parent / cluster).absolute())


def _running(layout: Layout, wanted: RestoreFrom, source: Path | None) -> tuple[Layout, State]:
    """Return where the cluster is whose log is to be read, and what it is. Raises UserError."""
    assert wanted.cluster is not None
    theirs = _layout_of(wanted.cluster, layout, source)
    old = load_state(theirs)
    if old is None or old.cluster != wanted.cluster:
        raise UserError(
            f"{theirs.root}: the cluster {wanted.cluster} is not there; name its directory: --restore-source"
        )
    if running_pid(theirs) is None:
        raise UserError(f"{wanted.cluster} is not running; start it, as its log has to be read")
    return theirs, old


async def _up_to_moment(
    index: int,
    slots: Slots,
    layout: Layout,
    wanted: RestoreFrom,
    source: Path | None,
    programs: Path,
    directory: Path,
    report: Report,
) -> Made:
    """Make the state that the source's log of that shard had at the moment that is wanted."""
    theirs, old = _running(layout, wanted, source)
    named = wanted.store if wanted.store.chosen else store_of(old, theirs)
    async with shard_log(old, load_secrets(theirs), index) as log:
        maker = Maker(
            log,
            open_catalogue(named, old.cluster, index),
            old.shards[index].generation,
            slots,
            programs=programs,
            work=directory,
            report=report,
        )
        return await maker.build(directory, until=wanted.time)


def _source_store(state: State, layout: Layout, wanted: RestoreFrom) -> SnapshotStore:
    return wanted.store if wanted.store.chosen else store_of(state, layout)
