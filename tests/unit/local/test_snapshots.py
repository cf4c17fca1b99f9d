"""When a local cluster takes snapshots, and who holds its log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.unit.snapshot.manifests import GENERATION, NOW, manifest
from tests.unit.snapshot.world import World

from memorycluster.api.snapshots import DirectoryStore, Snapshots, SnapshotStore
from memorycluster.api.topology import Address, build_topology
from memorycluster.local import snapshots as module
from memorycluster.local.holds import holding
from memorycluster.local.layout import Layout
from memorycluster.local.snapshots import Due, ShardSnapshots
from memorycluster.local.state import Secrets, ShardState, State
from memorycluster.log.interface import LogHealth
from memorycluster.log.service import genesis
from memorycluster.snapshot import keep, store
from memorycluster.snapshot.catalogue import Snapshot
from memorycluster.snapshot.keep import HOLD_FOR
from memorycluster.snapshot.policy import End, previous_moment
from memorycluster.snapshot.store import Directory, Object, StoreError

MiB = 1 << 20


def shard_snapshots(root: Path, shard: int = 0, **wanted: Any) -> ShardSnapshots:
    topology = build_topology(
        "orders",
        "uid",
        shards=2,
        nodes_per_shard=2,
        zones=["a"],
        address=lambda _: Address("127.0.0.1", 1, 2),
    )
    state = State(
        cluster="orders",
        zones=["a"],
        shards=[ShardState(generation=GENERATION), ShardState()],
        nodes_per_shard=2,
        max_bytes=64 * MiB,
        base_port=7000,
        ports={},
        uid=UUID(int=1),
    )
    return ShardSnapshots(
        topology.shards[shard],
        Snapshots.model_validate(wanted),
        Layout(root),
        state,
        Secrets(),
        max_bytes=64 * MiB,
        log_servers=[],
        programs=root,
        note=lambda _: None,
    )


def why(kept: ShardSnapshots, end: End, health: LogHealth) -> str:
    due = kept._due(end, health)
    assert due
    return due[0]


def health(size: int = 0, first: int = 1, last: int = 1000) -> LogHealth:
    return LogHealth(first, last, size, 64 * MiB)


@pytest.mark.parametrize(
    ("schedule", "moment"),
    [
        ("0 3 * * *", datetime(2026, 11, 24, 3, tzinfo=UTC)),
        ("0 12 * * *", datetime(2026, 11, 24, 12, tzinfo=UTC)),
        ("1 12 * * *", datetime(2026, 11, 23, 12, 1, tzinfo=UTC)),
        ("*/10 * * * *", datetime(2026, 11, 24, 12, 0, tzinfo=UTC)),
    ],
)
def test_the_last_moment_of_a_schedule(schedule: str, moment: datetime) -> None:
    assert previous_moment(schedule, NOW + timedelta(seconds=30)) == moment
    assert previous_moment(schedule, NOW) == moment
    assert previous_moment(schedule, NOW + timedelta(seconds=59.999)) == moment


def test_the_limit_of_replay_asks_for_one_schedule_or_not(tmp_path: Path) -> None:
    kept = shard_snapshots(tmp_path, maxLogReplay="2Mi")
    assert kept._due(End(10, MiB), health()) is None
    assert why(kept, End(10, 3 * MiB), health()) == "replay"
    kept._whole = [manifest(10, offset=2 * MiB)]
    assert kept._due(End(11, 3 * MiB), health()) is None


def test_a_small_log_asks_for_one_before_it_is_full(tmp_path: Path) -> None:
    kept = shard_snapshots(tmp_path)  # maxLogReplay is 256Mi
    assert why(kept, End(10, 17 * MiB), health()) == "replay"


def test_a_log_that_is_kept_for_want_of_another_one_asks_for_it(tmp_path: Path) -> None:
    kept = shard_snapshots(tmp_path, maxLogReplay="2Mi")
    kept._whole = [manifest(900, offset=50 * MiB)]
    assert why(kept, End(1000, 51 * MiB), health(60 * MiB)) == "replay"
    assert kept._due(End(1000, 51 * MiB), health(2 * MiB)) is None


def test_a_schedule_asks_for_one_that_is_newer_than_its_moment(tmp_path: Path) -> None:
    kept = shard_snapshots(tmp_path, schedule="* * * * *")
    now = datetime.now(UTC)
    kept._since = now + timedelta(minutes=2)
    assert kept._due(End(10, 0), health()) is None, "it does not count yet"
    kept._since = now - timedelta(minutes=2)
    assert why(kept, End(10, 0), health()) == "schedule"
    kept._whole = [manifest(10, created_at=datetime.now(UTC))]
    assert kept._due(End(10, 1000), health()) is None


def test_a_wrong_clock_of_before_does_not_end_the_schedule(tmp_path: Path) -> None:
    kept = shard_snapshots(tmp_path, schedule="* * * * *")
    now = datetime.now(UTC)
    kept._since = now - timedelta(minutes=2)
    kept._whole = [manifest(10, created_at=now + timedelta(days=400))]
    assert why(kept, End(10, 1000), health()) == "schedule"
    kept._since = now + timedelta(days=400)
    assert kept._due(End(10, 1000), health()) is None
    assert kept._since <= datetime.now(UTC), "it counts from now on"


def test_what_the_schedule_takes_of_several_shards_has_one_name(tmp_path: Path) -> None:
    """So that they are restored together; also of a shard that has had nothing to do."""
    configs = []
    for shard in (0, 1):
        kept = shard_snapshots(tmp_path, shard, schedule="0 3 1 1 *")
        kept._since = datetime(2020, 1, 1, tzinfo=UTC)
        due = kept._due(End(10, 0), health())
        assert due
        configs.append(kept._config(due))
    year = previous_moment("0 3 1 1 *", datetime.now(UTC)).year
    assert [each["name"] for each in configs] == [f"orders-{year}0101-030000"] * 2
    assert all(each["anew"] for each in configs)
    replay = shard_snapshots(tmp_path)._config(Due("replay", "of the test"))
    assert (replay["name"], replay["anew"]) == ("", False)


def test_a_reader_that_gets_on_holds_the_log_and_one_that_does_not_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    kept = shard_snapshots(tmp_path)
    assert sorted(kept._holds({"a": 5, "b": 7})) == [5, 7]
    now = HOLD_FOR - 1
    assert sorted(kept._holds({"a": 5, "b": 8})) == [5, 8]
    now = HOLD_FOR
    assert kept._holds({"a": 5, "b": 9}) == [9]
    now = HOLD_FOR + 1
    assert sorted(kept._holds({"a": 6, "b": 9})) == [6, 9], "it gets on again"
    assert kept._holds({}) == []


class Tended(World):
    """A shard whose supervisor tends what is in the store; two agents answer as they are told to."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(root)
        self.kept = shard_snapshots(root, retention={"count": 1})
        self.kept._store = SnapshotStore(directory=DirectoryStore(path=str(root / "store")))
        self.answers: list[dict[str, Any] | None] = [{}, {}]
        self.now = 1000.0

        async def answers(_: object) -> list[dict[str, Any] | None]:
            return self.answers

        monkeypatch.setattr(module, "agent_statuses", answers)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    async def tend(self) -> int:
        """Have it tended; return the last record that was trimmed away."""
        await self.kept._tend(self.log)
        return self.log.first - 1

    async def sequences(self) -> list[int]:
        """Return where the snapshots are that there are, newest first."""
        return [each.manifest.sequence for each in await self.catalogue.all(GENERATION)]

    def damage(self, snapshot: Snapshot) -> None:
        data = bytearray(self.file(snapshot, "data.rdb").read_bytes())
        data[1] ^= 1
        self.file(snapshot, "data.rdb").write_bytes(data)


@pytest.fixture
def tended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tended:
    return Tended(tmp_path, monkeypatch)


async def test_the_log_is_trimmed_behind_the_second_newest_and_older_ones_go(tended: Tended) -> None:
    for sequence in (3, 5, 7):
        await tended.snapshot(sequence)
    assert await tended.tend() == 5
    assert await tended.sequences() == [7, 5]
    assert tended.kept.trouble == ""


async def test_what_a_restore_made_in_vain_does_not_count_and_holds_nothing_up(tended: Tended) -> None:
    tended.log.messages[0] = genesis(GENERATION, seed=b"1" * 40)
    await tended.snapshot(1, digest="1" * 40)
    vain = await tended.snapshot(1, digest="2" * 40)
    await tended.snapshot(5)
    assert await tended.tend() == 0, "the first record says which of the two it is"
    assert "is not what this log begins with" in tended.kept.trouble
    assert [each.digest for each in tended.kept._whole if each.sequence == 1] == ["1" * 40]
    await tended.snapshot(7)
    assert await tended.tend() == 5
    assert await tended.sequences() == [7, 5, 1]
    assert vain.manifest in [each.manifest for each in await tended.catalogue.all(GENERATION)]


async def test_what_a_user_asked_for_is_not_deleted(tended: Tended) -> None:
    await tended.snapshot(3, reason="user")
    for sequence in (5, 7):
        await tended.snapshot(sequence)
    assert await tended.tend() == 5
    assert await tended.sequences() == [7, 5, 3]


@pytest.mark.parametrize("grown", [0, 1, 6])
async def test_a_log_that_has_lost_what_snapshots_hold_is_not_trimmed(tended: Tended, grown: int) -> None:
    for sequence in (3, 5, 7):
        await tended.snapshot(sequence)
    tended.fork(4)
    for _ in range(grown):
        tended.write(tended.writer.data(b"y" * 100))
    assert await tended.tend() == 0
    assert await tended.sequences() == [7, 5, 3]
    assert "nothing is trimmed or deleted: snapshot orders-1" in tended.kept.trouble


async def test_while_somebody_restores_from_the_log_no_snapshot_is_deleted(tended: Tended) -> None:
    for sequence in (3, 5):
        await tended.snapshot(sequence)
    with holding(tended.kept._layout, 0):
        await tended.snapshot(7)
        assert await tended.tend() == 0
        tended.log.first = 6
        assert await tended.tend() == 5
        assert await tended.sequences() == [7, 5, 3], "nor if there is nothing to trim"
    assert await tended.tend() == 5
    assert await tended.sequences() == [7, 5]


async def test_nothing_is_trimmed_behind_a_snapshot_whose_data_has_rotted(tended: Tended) -> None:
    snapshots = [await tended.snapshot(sequence) for sequence in (3, 5, 7)]
    tended.damage(snapshots[1])
    assert await tended.tend() == 3
    assert "broken" in tended.kept.trouble
    assert await tended.tend() == 3, "once found, it does not count again"


async def test_no_snapshot_is_deleted_for_ones_whose_data_has_rotted(tended: Tended) -> None:
    """Nor if nothing is trimmed: a reader holds the log."""
    snapshots = [await tended.snapshot(sequence) for sequence in (3, 5, 7)]
    tended.damage(snapshots[1])
    tended.answers = [{"reading": 0}, {}]
    assert await tended.tend() == 0
    assert await tended.sequences() == [7, 5, 3]
    assert "broken" in tended.kept.trouble


async def test_a_snapshot_that_a_making_found_broken_no_longer_counts(
    tended: Tended, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = [await tended.snapshot(sequence) for sequence in (3, 5)]
    tended.kept._sound = {each.place for each in snapshots}  # by this process, some time ago
    tended.damage(snapshots[1])
    newest = await tended.snapshot(7)

    async def making(config: dict[str, Any], _: object) -> AsyncIterator[dict[str, Any]]:
        assert config["reason"] == "replay"
        yield {"made": newest.place, "trouble": "", "broken": [snapshots[1].place]}

    monkeypatch.setattr(module, "making", making)
    await tended.kept._make(tended.log, Due("replay", "of the test"))
    assert tended.log.first == 4


@pytest.mark.parametrize("said", [{"nothing": "there"}, {"failed": "no room"}])
async def test_after_a_making_that_came_to_nothing_it_waits_longer_each_time(
    tended: Tended, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    """Each forks an engine, and may load all data."""
    said = dict(said)

    async def making(*_: object) -> AsyncIterator[dict[str, Any]]:
        yield said

    monkeypatch.setattr(module, "making", making)
    waits = []
    for _ in range(3):
        await tended.kept._make(tended.log, Due("replay", "of the test"))
        waits.append(tended.kept._again - tended.now)
    assert waits == [15, 30, 60]
    said.clear()
    said["made"] = "there"
    await tended.kept._make(tended.log, Due("replay", "of the test"))
    assert tended.kept._again <= tended.now


async def test_while_a_node_is_frozen_nothing_is_trimmed_or_deleted(tended: Tended) -> None:
    for sequence in (3, 5, 7):
        await tended.snapshot(sequence)
    tended.answers = [{}, {"frozen": True}]
    assert await tended.tend() == 0
    assert "orders-0-1 froze" in tended.kept.trouble
    tended.now += 2 * HOLD_FOR
    tended.answers = [{}, None]
    assert await tended.tend() == 0, "it has not said that it is well"
    assert await tended.sequences() == [7, 5, 3]
    tended.answers = [{}, {"frozen": False}]
    assert await tended.tend() == 5
    assert tended.kept.trouble == ""


async def test_a_node_that_does_not_answer_is_waited_for_but_not_for_ever(tended: Tended) -> None:
    for sequence in (3, 5, 7):
        await tended.snapshot(sequence)
    tended.answers = [None, {}]
    assert await tended.tend() == 0
    assert await tended.sequences() == [7, 5, 3]
    tended.now += HOLD_FOR - 1
    assert await tended.tend() == 0
    tended.now += 1
    assert await tended.tend() == 5


async def test_a_node_that_does_not_answer_is_not_waited_for_until_the_log_is_full(tended: Tended) -> None:
    for sequence in (5, 7):
        await tended.snapshot(sequence)
    tended.answers = [None, {}]
    tended.log.bytes = 1 << 29
    assert await tended.tend() == 5


class Refusing(Directory):
    """A store whose credentials may not delete."""

    async def delete(self, key: str) -> None:
        raise StoreError("access denied")


async def test_a_store_that_refuses_deletes_ends_neither_trimming_nor_making(
    tended: Tended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "Directory", Refusing)
    for sequence in (3, 5, 7):
        await tended.snapshot(sequence)
    assert await tended.tend() == 5
    assert "1 that have expired can't be deleted: access denied" in tended.kept.trouble
    assert await tended.sequences() == [7, 5, 3]
    await tended.catalogue.store.put(f"{tended.catalogue.new_place(GENERATION, 8)}/data.rdb", b"1")
    monkeypatch.setattr(keep, "ABANDONED_AFTER", timedelta(0))
    await tended.tend()
    assert "interrupted makings have left can't be deleted: access denied" in tended.kept.trouble
    monkeypatch.setattr(store, "Directory", Directory)
    await tended.tend()
    assert tended.kept.trouble == ""


async def test_what_can_not_be_tended_ends_no_making(tended: Tended, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    async def away(_: object) -> None:
        raise StoreError("away")

    async def making(*_: object) -> AsyncIterator[dict[str, Any]]:
        made.append("one")
        yield {"made": "there", "trouble": ""}

    monkeypatch.setattr(tended.kept, "_look", away)
    monkeypatch.setattr(module, "making", making)
    tended.kept._limit = 1
    await tended.kept._step(tended.log)
    assert made == ["one"]
    assert tended.kept.trouble == "shard 0: away"


async def test_data_whose_manifest_another_copy_has_is_not_swept(
    tended: Tended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers has lost it, and does not know."""

    class Half(Directory):
        async def list(self, prefix: str) -> list[Object]:
            return [each for each in await super().list(prefix) if each.key not in lost]

        async def known(self, prefix: str) -> set[str]:
            if away:
                raise StoreError("a copy is away")
            return {each.key for each in await super().list(prefix)}

    monkeypatch.setattr(store, "Directory", Half)
    monkeypatch.setattr(keep, "ABANDONED_AFTER", timedelta(0))
    made = [await tended.snapshot(sequence, reason="user") for sequence in (3, 5, 7)]
    lost, away = {f"{made[0].place}/manifest.json"}, False
    left = f"{tended.catalogue.new_place(GENERATION, 8)}/data.rdb"
    await tended.catalogue.store.put(left, b"1")
    await tended.tend()
    assert await tended.sequences() == [7, 5, 3]
    for each in made:
        await tended.catalogue.check_data(each)
    assert not await tended.catalogue.store.list(left.rpartition("/")[0])
    await tended.catalogue.store.put(left, b"1")
    away = True
    await tended.tend()
    assert "a copy is away" in tended.kept.trouble
    assert await tended.catalogue.store.list(left.rpartition("/")[0])


async def test_what_a_restored_log_begins_with_is_needed_as_if_it_was_trimmed(tended: Tended) -> None:
    tended.log.messages[0] = genesis(GENERATION, seed=b"1" * 40)
    first = await tended.snapshot(1, digest="1" * 40)
    await tended.tend()
    assert tended.kept.trouble == "", "it has just been restored"
    await tended.snapshot(5, reason="user")
    await tended.tend()
    assert tended.kept.trouble == ""
    tended.file(first, "manifest.json").unlink()
    await tended.tend()
    assert "the log begins with what was restored, and of the snapshots 1 lead on" in tended.kept.trouble
    assert "nothing is deleted" in tended.kept.trouble


async def test_what_another_cluster_is_made_of_is_spared(tended: Tended) -> None:
    tended.kept._spared = frozenset({"wanted"})
    await tended.snapshot(2)
    await tended.snapshot(3, name="wanted")
    for sequence in (5, 7):
        await tended.snapshot(sequence)
    assert await tended.tend() == 5
    assert await tended.sequences() == [7, 5, 3]
    tended.kept._room = 0
    await tended.tend()
    assert await tended.sequences() == [7, 5, 3]
    tended.kept._spared = frozenset()
    await tended.tend()
    assert await tended.sequences() == [7, 5]
