"""Keeping the snapshots of a shard: which of them are whole, what of the log is trimmed behind, which go.

Whoever keeps them says what the shard's agents answer, and whether somebody else reads the log.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from memorycluster.api.snapshots import Retention, SnapshotStore
from memorycluster.log.interface import Log, LogHealth
from memorycluster.snapshot.catalogue import BrokenSnapshot, Catalogue, Snapshot, open_catalogue
from memorycluster.snapshot.confirm import begins_with_snapshot, contradiction
from memorycluster.snapshot.manifest import Manifest
from memorycluster.snapshot.policy import (
    FIRST,
    KEPT_ANYWAY,
    crowding,
    expired,
    newest_first,
    trim_before,
    trims,
)
from memorycluster.snapshot.store import LogAccess, StoreError

Answers = Mapping[str, dict[str, Any] | None]
"""What agents say of themselves, by node; None: they don't answer."""

HOLD_FOR = 600.0
"""Seconds for which a reader that gets no further keeps the log from being trimmed; it can start anew."""

ABANDONED_AFTER, WITHOUT_ROOM = timedelta(days=1), timedelta(hours=1)
"""What a making has left in the store is deleted after that time, or where there is little room after the
other; until then it may be at work. (One that still is then fails: it finds that its data is gone.)"""


class Keeper(ABC):
    """Keeps the snapshots of one shard as they are wanted."""

    def __init__(
        self,
        index: int,
        cluster: str,
        generation: UUID,
        store: SnapshotStore,
        retention: Retention,
        *,
        note: Callable[[str], None],
        access: LogAccess | None = None,
        room: int | None = None,
        spared: Collection[str] = (),
    ) -> None:
        """``index`` is the shard's; ``note`` is told what is worth a line.

        :param access: to the log service, which may be the store.
        :param room: bytes that the shard's snapshots may take; None: as many as they are.
        :param spared: names of snapshots that are not to be deleted now: another cluster is made of them.
        """
        self._index = index
        self._cluster = cluster
        self._generation = generation
        self._store = store
        self._retention = retention
        self._note = note
        self._access = access
        self._room = room
        self._spared = frozenset(spared)
        self._whole: list[Manifest] = []
        """The snapshots that are, newest first."""
        self._places: dict[str, str] = {}
        """Where those are, by their checksums."""
        self._left_to_retention: set[str] = set()
        """Places of those that are not wanted any more, and stay while the log needs them."""
        self._waits = False
        """More of the log could be trimmed, but for a node that is waited for."""
        self._stuck: dict[str, tuple[int, float]] = {}
        self._silent: dict[str, float] = {}
        """Nodes that do not answer, and since when."""
        self._frozen: set[str] = set()
        self._sound: set[str] = set()
        """Places of snapshots whose data has been verified by this process."""
        self._rotten: set[str] = set()
        """And of those whose data was found broken."""
        self._trouble: dict[str, str] = {}

    @property
    def trouble(self) -> str:
        """What is wrong with the snapshots, for the status; empty if nothing is."""
        return "; ".join(self._trouble.values())

    async def _look(self, log: Log) -> bool:
        """Keep the snapshots once; return whether anything might be deleted.

        :raises StoreError, LogError, OSError:
        """
        catalogue = open_catalogue(self._store, self._cluster, self._index, self._access)
        broken: list[str] = []
        found = await catalogue.all(self._generation, broken=broken.append)
        whole = []
        for snapshot in found:
            if snapshot.place in self._rotten:
                broken.append(f"snapshot {snapshot.place}: its data is broken")
                continue
            try:
                await catalogue.check_data(snapshot)
                whole.append(snapshot)
            except BrokenSnapshot as error:
                broken.append(str(error))
        health = await log.health()
        lost = []
        for snapshot in tuple(whole):
            manifest = snapshot.manifest
            if manifest.sequence > health.last_sequence:
                lost.append(
                    f"snapshot {manifest.name} ends with record {manifest.sequence}, "
                    f"the log with {health.last_sequence}"
                )
            elif manifest.sequence >= health.first_sequence and (
                reason := await contradiction(log, manifest)
            ):
                # What a restore made in vain is none of this log's, which has lost nothing by that.
                (broken if manifest.sequence == FIRST else lost).append(reason)
                whole.remove(snapshot)
        self._whole = newest_first([each.manifest for each in whole])
        self._places = {each.manifest.checksum: each.place for each in whole}
        if broken:
            self._complain("broken", f"shard {self._index}: {'; '.join(broken)}")
        else:
            self._settle("broken")
        answers = await self._answers()
        frozen = self._still_frozen(answers)
        if frozen:
            lost.append(f"{', '.join(frozen)} froze, with what the log may have lost")
        if lost:
            # The log, the snapshots and what those nodes hold are what can be saved, and what tells.
            text = f"nothing is trimmed or deleted: {'; '.join(lost)}"
            self._complain("lost", f"shard {self._index}: {text}")
            return False
        self._settle("lost")
        self._waits = self._awaited(answers, health)
        if self._waits:
            return False
        ordered = self._whole
        before = trim_before(ordered, self._holds(_reading(answers)))
        self._waits = before < trim_before(ordered, ())
        trimmed = trims(before, health.first_sequence)
        if self._held():
            # Who reads the log may be about to start from any of the snapshots.
            self._waits |= trimmed
            return False
        retention = self._retention
        expiring = expired(
            ordered,
            count=retention.count,
            age=timedelta(seconds=retention.age or 0),
            now=datetime.now(UTC),
            spared=self._spared,
        )
        if self._room is not None:
            left = [each for each in ordered if each not in expiring]
            expiring += crowding(left, self._room, spared=self._spared)
        gone = [self._places[each.checksum] for each in expiring]
        gone += [each for each in await self._forgotten(catalogue, found, whole) if each not in gone]
        # An older snapshot may be what is left if one of those that are relied on has rotted.
        if (trimmed or gone) and not await self._verify(catalogue, needed(whole)):
            return await self._look(log)  # without the one that is not
        if trimmed:
            await log.trim(before)
        if few := await self._too_few(log, health.first_sequence):
            self._complain("few", f"shard {self._index}: {few}: nothing is deleted until there are two again")
            return False
        self._settle("few")
        await self._delete(catalogue, gone)
        if not await self._may_sweep(catalogue):
            return False
        await self._sweep(catalogue)
        return True

    async def _too_few(self, log: Log, first: int) -> str:
        """Return why snapshots may be missing that the log, which begins at ``first``, needs; empty: none.

        One that was just restored has a single one, at its first record; a log that began empty needs none.
        """
        leading = {each.sequence for each in self._whole if each.sequence + 1 >= first}
        if len(leading) >= KEPT_ANYWAY:
            return ""
        if first > FIRST:
            begins = f"was trimmed up to record {first - 1}"
        elif leading != {FIRST} and await begins_with_snapshot(log):
            begins = "begins with what was restored"
        else:
            return ""
        return f"the log {begins}, and of the snapshots {len(leading)} lead on from there"

    async def _delete(self, catalogue: Catalogue, places: Iterable[str]) -> None:
        """Delete snapshots. What can't be is tried again; a store that refuses it must end nothing else."""
        failed = []
        for place in places:
            try:
                await catalogue.delete(place)
            except StoreError as error:
                failed.append(str(error))
        if failed:
            text = f"{len(failed)} that have expired can't be deleted: {failed[0]}"
            self._complain("delete", f"shard {self._index}: {text}")
        else:
            self._settle("delete")

    async def _sweep(self, catalogue: Catalogue) -> None:
        abandoned = ABANDONED_AFTER if self._room is None else WITHOUT_ROOM
        try:
            await catalogue.sweep(datetime.now(UTC) - abandoned)
            self._settle("sweep")
        except StoreError as error:
            text = f"what interrupted makings have left can't be deleted: {error}"
            self._complain("sweep", f"shard {self._index}: {text}")

    async def _forgotten(
        self, catalogue: Catalogue, found: Sequence[Snapshot], whole: Sequence[Snapshot]
    ) -> list[str]:
        """Return the places of what is not wanted any more, and may go.

        What the log needs becomes one of those that were taken for the log, so that it expires as they do.
        """
        unwanted = self._unwanted()
        kept = {each.place for each in needed(whole)}
        gone = []
        for snapshot in found:
            name = snapshot.manifest.name
            if unwanted.get(snapshot.place) != name or name in self._spared:
                continue
            if snapshot.place not in kept:
                gone.append(snapshot.place)
            elif await self._left(catalogue, snapshot):
                self._left_to_retention.add(snapshot.place)
        return gone

    async def _left(self, catalogue: Catalogue, snapshot: Snapshot) -> bool:
        """Make a snapshot one of those that were taken for the log; say whether it is one now."""
        if snapshot.manifest.reason == "replay":
            return True
        try:
            manifest = snapshot.manifest.model_copy(update={"reason": "replay"})
            await catalogue.put_manifest(snapshot.place, manifest)
        except (StoreError, BrokenSnapshot) as error:
            self._complain("left", f"shard {self._index}: {error}")
            return False
        self._settle("left")
        return True

    async def _verify(self, catalogue: Catalogue, snapshots: Sequence[Snapshot]) -> bool:
        """Say whether the data of ``snapshots`` is what it was, read at least once by this process."""
        for snapshot in snapshots:
            if snapshot.place in self._sound:
                continue
            manifest = snapshot.manifest
            try:
                await catalogue.fetch(snapshot.place, size=manifest.size, sha256=manifest.sha256, file=None)
                self._sound.add(snapshot.place)
            except BrokenSnapshot:
                self._rotten.add(snapshot.place)
        return not self._rotten.intersection(each.place for each in snapshots)

    @abstractmethod
    async def _answers(self) -> Answers:
        """Return what the agents of the shard say, by node; None: nothing."""

    @abstractmethod
    def _held(self) -> bool:
        """Return whether somebody outside of the cluster reads the log.

        Then nothing is trimmed, and no snapshot is deleted.
        """

    async def _may_sweep(self, catalogue: Catalogue) -> bool:
        """Whether the store has what it should, so that what no manifest names is not wanted."""
        return True

    def _unwanted(self) -> Mapping[str, str]:
        """Return the places of snapshots that are not wanted any more, with the name of each."""
        return {}

    def _still_frozen(self, answers: Answers) -> list[str]:
        """Return the nodes that are frozen, or were when they last said anything."""
        for name, answer in answers.items():
            if answer is not None:
                (self._frozen.add if answer.get("frozen") else self._frozen.discard)(name)
        return sorted(self._frozen)

    def _awaited(self, answers: Answers, health: LogHealth) -> bool:
        """Say whether to wait for a node that does not answer: it may be frozen.

        Not for ever, and not until the log is full: somebody may just have switched it off.
        """
        now = time.monotonic()
        self._silent = {
            name: self._silent.get(name, now) for name, answer in answers.items() if answer is None
        }
        room = 2 * health.bytes < health.max_bytes
        return room and any(now - since < HOLD_FOR for since in self._silent.values())

    def _holds(self, readers: Mapping[str, int]) -> list[int]:
        """Return where readers are that the log is not to be trimmed past: those that get on."""
        now = time.monotonic()
        before, self._stuck = self._stuck, {}
        for name, sequence in readers.items():
            at, since = before.get(name, (sequence, now))
            self._stuck[name] = (at, since) if at == sequence else (sequence, now)
        return [at for at, since in self._stuck.values() if now - since < HOLD_FOR]

    def _complain(self, what: str, text: str) -> None:
        if self._trouble.get(what) != text:
            self._note(f"snapshots: {text}")
        self._trouble[what] = text

    def _settle(self, what: str) -> None:
        self._trouble.pop(what, None)


def _reading(answers: Answers) -> dict[str, int]:
    """Return who reads the log for an engine, and up to where."""
    return {
        name: int(answer["reading"])
        for name, answer in answers.items()
        if answer is not None and answer.get("reading") is not None
    }


def needed(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the snapshots that a log that is trimmed behind them needs."""
    sequences = sorted({each.manifest.sequence for each in snapshots}, reverse=True)[:KEPT_ANYWAY]
    return [each for each in snapshots if each.manifest.sequence in sequences]
