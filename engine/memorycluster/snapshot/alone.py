"""Keeping the snapshots of a shard where no supervisor does: by the Job that has made one.

It asks the agents over HTTP, as the operator does. A node that is silent, or reads and gets no further, keeps
the log from being trimmed for a while (``keep.HOLD_FOR``): who has the patience for that looks again and
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import aiohttp
from pydantic import Field

from memorycluster.api.snapshots import Retention
from memorycluster.log.interface import Log, LogError
from memorycluster.snapshot.catalogue import (
    BrokenSnapshot,
    Catalogue,
    open_catalogue,
    sequence_of,
)
from memorycluster.snapshot.keep import HOLD_FOR, Answers, Keeper, needed
from memorycluster.snapshot.policy import KEPT_ANYWAY
from memorycluster.snapshot.store import StoreError
from memorycluster.snapshot.told import Told

if TYPE_CHECKING:
    from memorycluster.snapshot.job import JobConfig

ANSWER_WITHIN = 4.0
"""Seconds for an agent's answer."""

LOOK_EVERY = 30.0
"""Seconds between two looks."""

PATIENCE = HOLD_FOR + 2 * LOOK_EVERY
"""Seconds after which nobody is waited for any more, and some."""

SAID_AT_MOST = 20
"""Names of snapshots that are gone which are told: there is room for 4096 bytes in all."""

GONE, KEPT, RETAINED = "gone", "kept", "retained"
"""What became of a snapshot that is not wanted any more; kept: while the log needs it, then it expires;
retained: a former log needs it, should that be brought back."""


class KeepConfig(Told):
    """How to keep the snapshots of a shard."""

    retention: Retention = Retention()
    agents: dict[str, str]
    """URL of each node's agent."""
    api_token_file: Path
    """Has the token for them."""
    frozen: list[str] = Field(default_factory=list)
    """Nodes that are known to be frozen, until they say that they are not."""
    room: int | None = None
    """Bytes that the shard's snapshots may take; None: as many as they are."""
    held: bool = False
    """Somebody else reads the log: it is not to be trimmed, and no snapshot deleted."""
    spared: list[str] = Field(default_factory=list)
    """Names of snapshots that another cluster is made of: they are not to be deleted."""
    listed: dict[str, str] = Field(default_factory=dict)
    """Places of snapshots that may have expired, with the name of each: which are gone is to be told."""
    unwanted: dict[str, str] = Field(default_factory=dict)
    """Places of snapshots that are to go, of any generation, with the name of each."""
    others: dict[int, int] = Field(default_factory=dict)
    """Of each other shard that has snapshots: the last record in the older one that it needs."""

    @property
    def with_no_room(self) -> KeepConfig:
        """The same, but only what is needed, and what users asked for, may stay."""
        return self.model_copy(update={"room": 0})


class _Alone(Keeper):
    def __init__(self, config: JobConfig, keep: KeepConfig) -> None:
        super().__init__(
            config.shard,
            config.cluster,
            config.generation,
            config.store,
            keep.retention,
            note=lambda text: print(text, flush=True),
            access=config.access,
            room=keep.room,
            spared=keep.spared,
        )
        self._config = keep
        self._frozen |= set(keep.frozen)

    async def look(self, log: Log, *, broken: Collection[str], sound: Collection[str]) -> dict[str, Any]:
        """Keep the snapshots once; return what there is to tell."""
        self._rotten |= set(broken)
        self._sound |= set(sound)
        try:
            free = await self._look(log)
            in_log = await self._in_log()
            gone, unwanted = await self._gone(free=free)
            self._settle("look")
        except (StoreError, LogError, OSError) as error:
            self._complain("look", f"shard {self._index}: {error}")
            self._waits = True  # it may pass: then there is something to do
            return {"trouble": self.trouble[:1000], "waits": True}
        return {
            "kept": [
                {
                    "name": each.name,
                    "sequence": each.sequence,
                    "offset": each.offset,
                    "size": each.size,
                    "createdAt": each.created_at.isoformat(),
                    **({"inLog": True} if self._places.get(each.checksum) in in_log else {}),
                }
                for each in self._whole[:KEPT_ANYWAY]
            ],
            "deleted": gone[:SAID_AT_MOST],
            **({"unwanted": unwanted} if self._config.unwanted else {}),
            "waits": self._waits,
            "trouble": self.trouble[:1000],
            "broken": sorted(self._rotten)[:5],
        }

    async def _in_log(self) -> set[str]:
        """Return the places of the snapshots that are in the log service, and in no store that is named."""
        if self._store.log is None:
            return set()
        here = set(self._places.values())
        if self._store.chosen is None:
            return here
        named = open_catalogue(self._store.model_copy(update={"log": None}), self._cluster, self._index)
        return here - set(await named.places(self._generation))

    async def _gone(self, *, free: bool) -> tuple[list[str], dict[str, str]]:
        """Return the names of those that were listed and are gone, and what became of the unwanted ones.

        :param free: those of former logs may be deleted: nothing says that this one has lost something.
        """
        catalogue = open_catalogue(self._store, self._cluster, self._index, self._access)
        ours = f"{catalogue.root}/{self._generation}/"
        there = set(await catalogue.places())
        hidden = await self._hidden(catalogue, there, {*self._config.listed, *self._config.unwanted})
        there = {place for place in there if place.startswith(ours)} | hidden
        unwanted = dict.fromkeys(self._left_to_retention & there, KEPT)
        for place, name in self._config.unwanted.items():
            if free and place not in there and name not in self._spared:
                unwanted |= await self._try_to_forget(catalogue, place, name)
        newest = max((each.sequence for each in self._whole), default=0)
        gone = [
            name
            for place, name in self._config.listed.items()
            # Retention never takes the newest: a store that has none of them is another one.
            if place.startswith(ours) and place not in there and sequence_of(place) < newest
        ]
        return gone, unwanted

    async def _hidden(self, catalogue: Catalogue, there: set[str], asked: Collection[str]) -> set[str]:
        """Return which of the places that were ``asked`` for, and seem to have no manifest, may have one.

        A copy of the store may have it which is not the one that said what is ``there``.
        """
        missing = {place for place in asked if place.startswith(f"{catalogue.root}/")} - there
        if not missing:
            return set()
        try:
            return missing & await catalogue.known_places()
        except StoreError:
            return missing

    async def _try_to_forget(self, catalogue: Catalogue, place: str, name: str) -> dict[str, str]:
        """Have a place forgotten; return what became of it, by the place, if anything."""
        try:
            became = await self._forget(catalogue, place, name)
        except StoreError as error:
            self._complain("forget", f"shard {self._index}: {error}")
            return {}
        self._settle("forget")
        return {place: became} if became else {}

    async def _forget(self, ours: Catalogue, place: str, name: str) -> str:
        """Delete a snapshot of a former log, or what is left of one; return what became of it.

        Empty: nothing, it is not of that name. What was set aside of that log, to be brought back, may be
        trimmed behind its two newest: they stay. (Retention would never touch any of them.)

        :raises StoreError:
        """
        cluster, shard, generation, _ = place.split("/")
        if cluster != ours.cluster:
            return ""
        catalogue = Catalogue(ours.store, cluster, int(shard))
        with contextlib.suppress(BrokenSnapshot):  # then there is nothing that could be relied on
            if (await catalogue.read(place)).manifest.name != name:
                return ""
        if generation != str(self._generation) and place in await self._relied_on(
            catalogue, UUID(generation)
        ):
            return RETAINED
        await catalogue.delete(place)
        return GONE

    async def _relied_on(self, catalogue: Catalogue, generation: UUID) -> set[str]:
        """Return the places of the snapshots that a former log needs. Raises StoreError."""
        whole = []
        for snapshot in await catalogue.all(generation):
            with contextlib.suppress(BrokenSnapshot):
                await catalogue.check_data(snapshot)
                whole.append(snapshot)
        while not await self._verify(catalogue, relied_on := needed(whole)):
            whole = [each for each in whole if each.place not in self._rotten]
        return {each.place for each in relied_on}

    @property
    def done(self) -> bool:
        """There is nothing to wait for, or no use in it."""
        return not self._waits or self._config.held

    async def _answers(self) -> Answers:
        token = (await asyncio.to_thread(self._config.api_token_file.read_text)).strip()
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN)
        headers = {"Authorization": f"Bearer {token}"}

        async def ask(session: aiohttp.ClientSession, node: str, url: str) -> dict[str, Any] | None:
            try:
                async with session.get(f"{url}/v1/status") as response:
                    response.raise_for_status()
                    answer = await response.json()
                    return answer if isinstance(answer, dict) and answer.get("node") == node else None
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                return None

        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            asked = [ask(session, node, url) for node, url in self._config.agents.items()]
            answers = await asyncio.gather(*asked)
        return dict(zip(self._config.agents, answers, strict=True))

    def _held(self) -> bool:
        return self._config.held

    async def _may_sweep(self, catalogue: Catalogue) -> bool:
        """Say no if manifests of other shards are missing: where all share a bucket, all is swept at once."""
        for shard, sequence in self._config.others.items():
            other = open_catalogue(self._store, self._cluster, shard, self._access)
            if not any(sequence_of(place) >= sequence for place in await other.places()):
                text = f"the store has no snapshot of shard {shard} any more: nothing is swept"
                self._complain("others", f"shard {self._index}: {text}")
                return False
        self._settle("others")
        return True

    def _unwanted(self) -> Mapping[str, str]:
        return self._config.unwanted


async def keep(
    config: JobConfig,
    log: Log,
    *,
    broken: Collection[str] = (),
    sound: Collection[str] = (),
    patience: float = 0.0,
) -> dict[str, Any]:
    """Keep the snapshots as ``config.keep`` says; return what there is to tell.

    :param broken: places of snapshots that are known to be. :param sound: of those that have been verified.
    :param patience: seconds for which to go on while somebody is waited for.
    """
    assert config.keep is not None
    keeper = _Alone(config, config.keep)
    until = time.monotonic() + patience
    while True:
        said = await keeper.look(log, broken=broken, sound=sound)
        if keeper.done or time.monotonic() >= until:
            return said
        await asyncio.sleep(LOOK_EVERY)


def left(config: JobConfig, said: Mapping[str, Any]) -> str:
    """Return why something is left that is not wanted any more; empty: nothing is."""
    assert config.keep is not None
    there = sorted(set(config.keep.unwanted) - set(said.get("unwanted", {})))
    if not there:
        return ""
    why = said["trouble"] or "somebody reads the log, a node does not answer, or it has another name"
    return f"{there[0]} can't be deleted now: {why}"
