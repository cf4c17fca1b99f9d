"""What a restore refuses before it begins, and what of an interrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.unit.snapshot.manifests import NOW, manifest

from memorycluster.api.snapshots import DirectoryStore, RestoreFrom, SnapshotStore
from memorycluster.api.topology import Topology
from memorycluster.local import restore as module
from memorycluster.local.errors import UserError
from memorycluster.local.holds import held
from memorycluster.local.layout import Layout
from memorycluster.local.plan import plan_topology
from memorycluster.local.restore import reshard, restore
from memorycluster.local.state import ShardState, State
from memorycluster.snapshot.catalogue import Catalogue
from memorycluster.snapshot.store import Directory, StoreError

HALVES = (((0, 8191),), ((8192, 16383),))


class Restoring:
    """A new cluster of three shards, to be made of the snapshots of two."""

    def __init__(self, root: Path) -> None:
        self.theirs, self.ours = root / "theirs", root / "ours"
        self.layout = Layout(root / "data")
        self.state = State(
            cluster="new",
            zones=["a"],
            shards=[ShardState() for _ in range(3)],
            nodes_per_shard=1,
            max_bytes=1 << 30,
            restore_from=RestoreFrom(snapshot="orders-1", store=self.store(self.theirs)),
            store=self.store(self.ours),
            base_port=7000,
            ports={f"new-{index}-0/{what}": 1 for index in range(3) for what in ("clients", "bus", "follow")},
        )

    @staticmethod
    def store(path: Path) -> SnapshotStore:
        return SnapshotStore(directory=DirectoryStore(path=str(path)))

    @property
    def topology(self) -> Topology:
        return plan_topology(self.state)

    async def put(self, root: Path, cluster: str, shard: int, **fields: Any) -> str:
        catalogue = Catalogue(Directory(root), cluster, shard)
        made = manifest(**({"cluster": cluster, "shard": shard, "size": 1} | fields))
        place = catalogue.new_place(made.generation, made.sequence)
        await catalogue.store.put(f"{place}/data.rdb", b"x")
        await catalogue.put_manifest(place, made)
        return place

    async def put_theirs(self, shards: int = 2) -> None:
        for shard in range(shards):
            await self.put(self.theirs, "orders", shard, slots=HALVES[shard], generation=uuid4())

    async def put_ours(self, shard: int, **fields: Any) -> str:
        return await self.put(
            self.ours,
            "new",
            shard,
            generation=self.state.shards[shard].generation,
            sequence=1,
            offset=0,
            slots=self.topology.shards[shard].slots,
            **fields,
        )

    def there(self) -> set[str]:
        return {path.parent.relative_to(self.ours).as_posix() for path in self.ours.glob("**/manifest.json")}

    async def reshard(self) -> None:
        await reshard(
            self.topology,
            self.state,
            self.layout,
            source=None,
            programs=self.layout.root,
            progress=lambda _: None,
        )

    async def restore(self, shard: int) -> bytes:
        return await restore(
            self.topology.shards[shard],
            self.state,
            self.layout,
            source=None,
            programs=self.layout.root,
            progress=lambda _: None,
        )


@pytest.fixture
def restoring(tmp_path: Path) -> Restoring:
    return Restoring(tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """From which shards something was made, instead of making it."""
    found: list[set[int]] = []

    async def make(sources: dict[int, Any], *_: object) -> None:
        found.append(set(sources))

    monkeypatch.setattr(module, "_reshard", make)
    return found


async def test_what_an_interrupted_one_has_made_of_some_shards_is_undone(
    restoring: Restoring, made: list[set[int]]
) -> None:
    await restoring.put_theirs()
    for shard in (0, 2):
        await restoring.put_ours(shard)
    foreign = await restoring.put(restoring.ours, "other", 0)
    former = await restoring.put(restoring.ours, "new", 0, generation=uuid4())
    await restoring.reshard()
    assert made == [{0, 1}]
    assert restoring.there() == {foreign, former}


async def test_what_is_complete_is_not_made_again_even_without_the_source(
    restoring: Restoring, made: list[set[int]]
) -> None:
    places = {await restoring.put_ours(shard) for shard in range(3)}
    await restoring.reshard()
    assert made == []
    assert restoring.there() == places
    assert await restoring.restore(1) == b"b" * 40


async def test_of_two_that_were_made_the_log_begins_with_the_one_that_engines_look_at_first(
    restoring: Restoring,
) -> None:
    digests = {await restoring.put_ours(0, digest=each * 40): each * 40 for each in "123"}
    assert await restoring.restore(0) == digests[max(digests)].encode()


async def test_once_a_log_was_made_nothing_is_undone_or_made_of_something_else(
    restoring: Restoring, made: list[set[int]]
) -> None:
    """Shard 1's snapshot is lost: that of their shard 1 has other keys."""
    await restoring.put_theirs()
    places = {await restoring.put_ours(0)}
    restoring.state.shards[0].created = True
    await restoring.reshard()
    assert made == []
    assert restoring.there() == places
    with pytest.raises(UserError, match="what was restored for shard 1 is gone"):
        await restoring.restore(1)


async def test_a_snapshot_without_all_shards_is_refused(restoring: Restoring, made: list[set[int]]) -> None:
    await restoring.put_theirs(1)
    with pytest.raises(UserError, match="has the shards 0, which are not all"):
        await restoring.reshard()
    assert made == []


def running(root: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Have a cluster of two shards run beside the new one."""
    theirs = Layout(root / "orders")
    theirs.root.mkdir()
    state = State(
        cluster="orders",
        zones=["a"],
        shards=[ShardState(), ShardState()],
        nodes_per_shard=1,
        max_bytes=1 << 30,
        base_port=8000,
        ports={f"orders-{index}-0/{what}": 1 for index in range(2) for what in ("clients", "bus", "follow")},
    )
    monkeypatch.setattr(module, "load_state", lambda layout: state if layout.root == theirs.root else None)
    monkeypatch.setattr(module, "running_pid", lambda layout: 1 if layout.root == theirs.root else None)
    return theirs


def holds(layout: Layout) -> list[int]:
    return [shard for shard in (0, 1) if held(layout, shard)]


@pytest.mark.parametrize("of", ["moment", "snapshot"])
async def test_meanwhile_all_shards_of_what_runs_are_held(
    restoring: Restoring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, of: str
) -> None:
    """While one is read, another one would be trimmed past the moment, or lose its snapshot."""
    theirs = running(tmp_path, monkeypatch)
    if of == "moment":
        restoring.state.restore_from = RestoreFrom(cluster="orders", time=NOW)
    else:
        await restoring.put_theirs()
    found: list[list[int]] = []

    async def make(*_: object) -> None:
        found.append(holds(theirs))

    monkeypatch.setattr(module, "_reshard", make)
    await restoring.reshard()
    assert found == [[0, 1]]
    assert holds(theirs) == []


async def test_a_shard_that_is_restored_by_itself_is_held(
    restoring: Restoring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only that one: the others hold theirs at the same time, in the same process."""
    theirs = running(tmp_path, monkeypatch)
    restoring.state.shards.pop()
    await restoring.put_theirs()
    found: list[list[int]] = []

    async def fetch(*_: object) -> None:
        found.append(holds(theirs))
        raise StoreError("that is enough")

    monkeypatch.setattr(module, "fetch", fetch)
    with pytest.raises(UserError, match="that is enough"):
        await restoring.restore(1)
    assert found == [[1]]
    assert holds(theirs) == []


async def test_what_does_not_run_is_not_held(restoring: Restoring, made: list[set[int]]) -> None:
    await restoring.put_theirs()
    await restoring.reshard()
    assert made == [{0, 1}]
    assert not (restoring.layout.root.parent / "orders").exists()
