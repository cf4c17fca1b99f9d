"""A making as a Job on Kubernetes runs it: with a store in S3, credentials in a Secret's files, and nobody
beside it who keeps the snapshots. What restores a new cluster's shard is one, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from tests.log.servers import PASSWORD, USER
from tests.snapshot import s3
from tests.snapshot.test_reshard import many_keys
from tests.snapshot.world import MAX_BYTES, SLOTS, World, command

from memorycluster.api.snapshots import SnapshotStore
from memorycluster.api.topology import shard_slots
from memorycluster.log.interface import SNAPSHOTS_STREAM, LogMissing
from memorycluster.snapshot.bootstrap import Bootstrap
from memorycluster.snapshot.catalogue import Catalogue, open_catalogue
from memorycluster.snapshot.manifest import Manifest
from memorycluster.snapshot.store import CREDENTIALS, LogAccess

pytestmark = pytest.mark.timeout(1200)  # the first time, the S3 server is built

ROOM = 4096
"""Bytes that a container may leave as its message."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[s3.S3]:
    with s3.running() as server:
        yield server


class Pod:
    """What a Job's pod has: a Secret's files, agents to ask, and a file for its result."""

    def __init__(self, world: World, bucket: s3.S3, cluster: str) -> None:
        self.world = world
        self.cluster = cluster
        self.root = world.root
        self.answers: dict[str, dict[str, Any] | None] = {"orders-0-0": {}, "orders-0-1": {}}
        self.stores = self.root / "stores"
        (self.stores / "keys").mkdir(parents=True)
        self.rotate(s3.SECRET)
        (self.root / "api-token").write_text("token-of-the-test\n")
        (self.root / "log-password").write_text(f"{PASSWORD}\n")
        store = {"bucket": "snapshots", "region": "us-east-1", "endpoint": bucket.endpoint}
        self.store: dict[str, Any] = {"s3": store, "credentials": {"secretName": "keys"}}
        self.port = 0

    def rotate(self, secret: str) -> None:
        """Put other credentials into the Secret."""
        (self.stores / "keys" / "AWS_ACCESS_KEY_ID").write_text(s3.ACCESS)
        (self.stores / "keys" / "AWS_SECRET_ACCESS_KEY").write_text(secret)

    async def run(self, **more: Any) -> dict[str, Any]:
        """Run a Job; return what it leaves as its result."""
        process = await self._start(**more)
        output, _ = await process.communicate()
        text = (self.root / "result").read_text()
        assert len(text.encode()) <= ROOM
        assert s3.SECRET not in output.decode()
        assert PASSWORD not in output.decode()
        said: dict[str, Any] = json.loads(text)
        assert (process.returncode == 0) == ("failed" not in said), output.decode()
        return said

    async def kill(self, step: str, **more: Any) -> None:
        """Run a Job, and kill it when it comes to a step."""
        process = await self._start(**more)
        assert process.stdout
        try:
            async for line in process.stdout:
                if f'"step": "{step}"' in line.decode():
                    break
            else:
                raise AssertionError(f"it never came to {step}")
            process.kill()
        finally:
            await process.wait()

    async def _start(self, **more: Any) -> asyncio.subprocess.Process:
        config = {
            "cluster": self.cluster,
            "shard": 0,
            "slots": SLOTS,
            "generation": str(self.world.generation),
            "stream": self.world.stream,
            "log_servers": self.world.service.urls,
            "log_user": USER,
            "log_password_file": str(self.root / "log-password"),
            "store": self.store,
            "work": str(self.world.work),
            "keep": self.keep(),
            "result": str(self.root / "result"),
            **more,
        }
        conf = self.root / "job.json"
        conf.write_text(json.dumps(config))
        path = f"{self.world.programs}:{os.environ['PATH']}"
        (self.root / "result").unlink(missing_ok=True)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "memorycluster.snapshot", "--config", str(conf)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, CREDENTIALS: str(self.stores), "PATH": path},
        )

    def keep(self, **more: Any) -> dict[str, Any]:
        return {
            "retention": {"count": 1},
            "agents": {node: f"http://127.0.0.1:{self.port}/{node}" for node in self.answers},
            "api_token_file": str(self.root / "api-token"),
            **more,
        }

    def source(self) -> dict[str, Any]:
        """Return how a restore reads the log."""
        return {
            "servers": self.world.service.urls,
            "user": USER,
            "password_file": str(self.root / "log-password"),
            "stream": self.world.stream,
            "generation": str(self.world.generation),
            "slots": SLOTS,
        }

    def catalogue(self) -> Catalogue:
        """Return what is in the store."""
        return open_catalogue(SnapshotStore.model_validate(self.store), self.cluster, 0)

    async def first(self) -> int:
        """Return the sequence at which the log begins."""
        return (await self.world.log.health()).first_sequence

    async def write(self, text: str) -> None:
        await self.world.write(*(command("SET", f"{text}{each}", "x" * 100) for each in range(20)))


@asynccontextmanager
async def agents(pod: Pod) -> AsyncIterator[None]:
    """Answer for the agents, to who knows their token."""

    async def status(request: web.Request) -> web.Response:
        node = request.match_info["node"]
        answer = pod.answers[node]
        if answer is None or request.headers.get("Authorization") != "Bearer token-of-the-test":
            raise web.HTTPUnauthorized
        return web.json_response({"node": node, **answer})

    app = web.Application()
    app.router.add_get("/{node}/v1/status", status)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    pod.port = runner.addresses[0][1]
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
async def pod(world: World, bucket: s3.S3, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pod]:
    pod = Pod(world, bucket, f"orders-{uuid4().hex[:6]}")
    monkeypatch.setenv(CREDENTIALS, str(pod.stores))
    await world.lead()
    async with agents(pod):
        yield pod


async def test_a_snapshot_is_made_under_the_name_that_was_asked_for(pod: Pod) -> None:
    await pod.write("a")
    said = await pod.run(name="now", anew=True)
    manifest = said["manifest"]
    assert (manifest["name"], manifest["reason"]) == ("now", "user")
    assert manifest["digest"] == (await pod.world.replayed()).digest
    assert said["made"].startswith(f"{pod.cluster}/0/")
    assert [each["name"] for each in said["kept"]] == ["now"]
    again = await pod.run(name="again", anew=True)
    assert again["manifest"]["name"] == "again", "though the log has nothing new"
    assert again["manifest"]["digest"] == manifest["digest"]


async def test_the_log_is_trimmed_behind_the_second_newest(pod: Pod) -> None:
    sequences = []
    for name in ("one", "two", "three"):
        await pod.write(name)
        said = await pod.run(name=name, reason="schedule", anew=True)
        sequences.append(said["manifest"]["sequence"])
        assert (said["trouble"], said["waits"]) == ("", False)
    assert await pod.first() == sequences[1] + 1
    assert [each["name"] for each in said["kept"]] == ["three", "two"]
    left = {each.manifest.name for each in await pod.catalogue().all()}
    assert left == {"three", "two"}, "beyond the count, and not needed"


async def test_while_too_few_snapshots_lead_on_nothing_is_deleted(pod: Pod) -> None:
    """What is missing may only not be seen."""
    for name in ("one", "two", "three"):
        await pod.write(name)
        said = await pod.run(name=name, reason="schedule", anew=True)
    catalogue = pod.catalogue()
    (lost,) = [each for each in await catalogue.all() if each.manifest.name == "two"]
    await catalogue.delete(lost.place)
    said = await pod.run(make=False)
    assert "nothing is deleted until there are two again" in said["trouble"]
    await pod.write("four")
    said = await pod.run(name="four", reason="schedule", anew=True)
    assert (said["trouble"], [each["name"] for each in said["kept"]]) == ("", ["four", "three"])


async def test_what_is_gone_of_what_was_listed_is_told_by_any_job(pod: Pod) -> None:
    """Whoever deleted it may not have been heard."""
    places = {}
    for name in ("one", "two", "three"):
        await pod.write(name)
        said = await pod.run(name=name, reason="schedule", anew=True)
        places[said["made"]] = name
    elsewhere = {f"{pod.cluster}/0/{uuid4()}/{1:020}-00000000": "of another log"}
    said = await pod.run(make=False, keep=pod.keep(listed=places | elsewhere))
    assert said["deleted"] == ["one"]
    catalogue = pod.catalogue()
    for place in await catalogue.places(pod.world.generation):
        await catalogue.delete(place)
    said = await pod.run(make=False, keep=pod.keep(listed=places))
    assert said["deleted"] == [], "retention takes not even the newest: this is another store"


async def test_what_is_not_wanted_any_more_is_deleted_but_for_what_the_log_needs(pod: Pod) -> None:
    places = {}
    for name in ("one", "two", "three"):
        await pod.write(name)
        places[name] = (await pod.run(name=name, anew=True))["made"]
    unwanted = {places["one"]: "one", places["three"]: "three"}
    said = await pod.run(make=False, keep=pod.keep(unwanted=unwanted))
    assert said["unwanted"] == {places["one"]: "gone", places["three"]: "kept"}
    catalogue = pod.catalogue()
    left = {each.manifest.name: each.manifest.reason for each in await catalogue.all(pod.world.generation)}
    assert left == {"three": "replay", "two": "user"}, "from now on it expires as those that the log asks for"
    assert [each.key for each in await catalogue.store.list(places["one"])] == []
    again = await pod.run(make=False, keep=pod.keep(unwanted=unwanted))
    assert again["unwanted"] == said["unwanted"], "nothing is lost with an answer"
    for each in await catalogue.all(pod.world.generation):
        await catalogue.check_data(each)


async def test_nothing_that_is_not_wanted_is_deleted_while_the_log_may_have_lost_something(pod: Pod) -> None:
    places = []
    for name in ("one", "two", "three"):
        await pod.write(name)
        places.append((await pod.run(name=name, anew=True))["made"])
    pod.answers["orders-0-1"] = {"frozen": True}
    said = await pod.run(make=False, keep=pod.keep(unwanted={places[0]: "one"}))
    assert "froze" in said["failed"]
    pod.answers["orders-0-1"] = {}
    said = await pod.run(make=False, keep=pod.keep(unwanted={places[0]: "one"}, held=True))
    assert "somebody reads the log" in said["failed"]
    said = await pod.run(make=False, keep=pod.keep(unwanted={places[0]: "another"}))
    assert "can't be deleted" in said["failed"], "its name is not what whoever asks believes"
    assert set(places) <= set(await pod.catalogue().places())


async def test_what_is_not_wanted_of_a_former_log_is_deleted(pod: Pod) -> None:
    """But for its two newest, which are needed if it is brought back: it may be trimmed behind them."""
    await pod.write("a")
    made = (await pod.run(name="one", anew=True))["made"]
    former = uuid4()
    catalogue = pod.catalogue()
    snapshot = await catalogue.read(made)
    data = b"".join([chunk async for chunk in catalogue.store.get(f"{made}/data.rdb")])

    async def another(sequence: int, data: bytes = data) -> str:
        place = catalogue.new_place(former, sequence)
        await catalogue.store.put(f"{place}/data.rdb", data)
        changes = {"generation": former, "sequence": sequence}
        await catalogue.put_manifest(place, snapshot.manifest.model_copy(update=changes))
        return place

    places = [await another(each) for each in (3, 4, 5)]
    rotten = await another(6, b"x" * len(data))
    old, *newest = places
    for trouble in ({"held": True}, {"frozen": ["orders-0-9"]}):
        said = await pod.run(make=False, keep=pod.keep(unwanted={old: "one"}, **trouble))
        assert "can't be deleted" in said["failed"]
    said = await pod.run(make=False, keep=pod.keep(unwanted={old: "another"}))
    assert "failed" in said
    assert {old, *newest, rotten, made} == set(await catalogue.places())
    said = await pod.run(make=False, keep=pod.keep(unwanted=dict.fromkeys([*places, rotten], "one")))
    retained = dict.fromkeys(newest, "retained")
    assert said["unwanted"] == {old: "gone", rotten: "gone", **retained}, "what is rotten is not relied on"
    assert set(await catalogue.places()) == {made, *newest}


async def test_while_a_node_is_frozen_or_silent_or_reads_nothing_is_trimmed(pod: Pod) -> None:
    await pod.write("a")
    await pod.run(name="one", anew=True)
    await pod.write("b")
    pod.answers["orders-0-1"] = {"frozen": True}
    said = await pod.run(name="two", anew=True)
    assert "orders-0-1 froze" in said["trouble"]
    pod.answers["orders-0-1"] = None
    said = await pod.run(make=False, keep=pod.keep(frozen=["orders-0-1"]))
    assert "orders-0-1 froze" in said["trouble"], "it has not said that it is not any more"
    said = await pod.run(name="three", anew=True)
    assert said["waits"], "it may be frozen"
    pod.answers["orders-0-1"] = {"reading": 1}
    said = await pod.run(make=False, keep=pod.keep(held=True))
    assert said["waits"]
    assert await pod.first() == 1
    pod.answers["orders-0-1"] = {}
    said = await pod.run(make=False)
    assert not said["waits"]
    assert await pod.first() > 1


async def test_credentials_that_are_rotated_are_used_and_wrong_ones_are_no_secret(pod: Pod) -> None:
    await pod.write("a")
    pod.rotate("not-the-secret-at-all")
    said = await pod.run(name="one")
    assert "snapshots" in said["failed"]
    assert "not-the-secret-at-all" not in json.dumps(said)
    pod.rotate(s3.SECRET)
    assert "made" in await pod.run(name="one")


async def restored(pod: Pod, restore: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Restore into a new log, as the operator does; return what was said, and what an engine then has."""
    world = pod.world
    generation, stream = uuid4(), f"t{uuid4().hex[:12]}"
    more = {"cluster": f"{pod.cluster}-2", "generation": str(generation), "keep": None, "make": False}
    wanted = {"store": pod.store, "cluster": pod.cluster, **restore}
    said = await pod.run(**more, restore=wanted)
    if "failed" in said:
        return said, ""
    assert await pod.run(**more, restore=wanted) == said, "done is done"
    async with world.service.service() as admin:
        await admin.create(stream, generation, max_bytes=MAX_BYTES, seed=said["restored"].encode())
    log = world.service.log(stream)
    try:
        store = SnapshotStore.model_validate(pod.store)
        access = LogAccess(tuple(world.service.urls), USER, PASSWORD)
        catalogue = open_catalogue(store, f"{pod.cluster}-2", 0, access)
        start = await Bootstrap(log, generation, lambda: catalogue, world.work).start()
        assert (start.position.generation, start.position.sequence) == (generation, 1)
        contents = await world.loaded(start)
        start.close()
        return said, contents.digest
    finally:
        await log.close()
        await world.service.delete(stream)


async def test_a_new_cluster_begins_with_a_snapshot_of_that_name(pod: Pod) -> None:
    await pod.write("a")
    made = await pod.run(name="now", anew=True)
    await pod.write("b")
    said, digest = await restored(pod, {"snapshot": "now"})
    assert "failed" not in said, said
    assert said["restored"] == made["manifest"]["digest"] == digest


async def test_a_new_cluster_begins_with_a_moment_before_a_mistake(pod: Pod) -> None:
    await pod.write("a")
    await pod.run(name="early", anew=True)
    await pod.write("b")
    before = (await pod.world.replayed()).digest
    await asyncio.sleep(0.05)
    moment = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await pod.world.write(command("FLUSHALL"))
    _, digest = await restored(pod, {"time": moment.isoformat(), "logs": [pod.source()]})
    assert digest == before
    assert (await pod.world.replayed()).digest != before


async def test_what_can_not_be_restored_says_why(pod: Pod) -> None:
    await pod.write("a")
    await pod.run(name="now", anew=True)
    said, _ = await restored(pod, {"snapshot": "never"})
    assert "has no snapshot never" in said["failed"]


class Restore:
    """The Jobs that make a new cluster's shards."""

    def __init__(self, pod: Pod, name: str, shards: int, restore: dict[str, Any]) -> None:
        self.pod = pod
        self.name = f"{pod.cluster}-{name}"
        self.shards = shards
        self.generations = [str(uuid4()) for _ in range(shards)]
        self.wanted = {"store": pod.store, "ours": self.generations, **restore}

    def job(self, shard: int) -> dict[str, Any]:
        """Return what the Job of a shard is told."""
        return {
            "cluster": self.name,
            "shard": shard,
            "slots": [shard_slots(shard, self.shards)],
            "generation": self.generations[shard],
            "make": False,
            "keep": None,
            "restore": self.wanted,
        }

    async def run(self) -> list[Manifest]:
        """Run all of them; return what their logs are to begin with."""
        said = [await self.pod.run(**self.job(shard)) for shard in range(self.shards)]
        assert not [each for each in said if "failed" in each], said
        assert len({each["origin"] for each in said}) == 1
        os.environ[CREDENTIALS] = str(self.pod.stores)
        try:
            made = [await self._made(shard) for shard in range(self.shards)]
        finally:
            del os.environ[CREDENTIALS]
        assert [each.digest for each in made] == [each["restored"] for each in said]
        return made

    async def _made(self, shard: int) -> Manifest:
        store = SnapshotStore.model_validate(self.pod.store)
        catalogue = open_catalogue(store, self.name, shard)
        [snapshot] = await catalogue.all(UUID(self.generations[shard]))
        return snapshot.manifest


async def fill(pod: Pod) -> None:
    """Write keys of all kinds, in records of a size that the log takes."""
    keys = many_keys()
    for at in range(0, len(keys), 1000):
        await pod.world.write(*keys[at : at + 1000])


def union(made: list[Manifest]) -> tuple[int, int]:
    """Return the keys and expiries of all shards."""
    return sum(each.keys for each in made), sum(each.expires for each in made)


async def test_into_three_shards_into_two_into_one_the_data_is_the_same(pod: Pod) -> None:
    await fill(pod)
    whole = Manifest.model_validate((await pod.run(name="now", anew=True))["manifest"])
    three = await Restore(pod, "3", 3, {"snapshot": "now", "cluster": pod.cluster}).run()
    assert all(each.keys > 500 for each in three)
    assert union(three) == (whole.keys, whole.expires)
    assert {each.functions for each in three} == {whole.functions}
    two = await Restore(pod, "2", 2, {"snapshot": "now", "cluster": f"{pod.cluster}-3"}).run()
    assert union(two) == union(three)
    [one] = await Restore(pod, "1", 1, {"snapshot": "now", "cluster": f"{pod.cluster}-2"}).run()
    assert (one.digest, one.functions) == (whole.digest, whole.functions)
    assert one.log_time == whole.log_time


async def test_into_other_shards_at_a_moment(pod: Pod) -> None:
    await fill(pod)
    before = await pod.world.replayed()
    await asyncio.sleep(0.05)
    moment = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await pod.world.write(command("FLUSHALL"))
    wanted = {"cluster": pod.cluster, "time": moment.isoformat(), "logs": [pod.source()]}
    two = await Restore(pod, "2", 2, wanted).run()
    assert union(two) == (before.keys, before.expires)
    [one] = await Restore(pod, "1", 1, {"snapshot": two[0].name, "cluster": f"{pod.cluster}-2"}).run()
    assert one.digest == before.digest


async def test_a_job_that_dies_at_any_step_is_done_again(pod: Pod) -> None:
    await fill(pod)
    whole = await pod.run(name="now", anew=True)
    restore = Restore(pod, "2", 2, {"snapshot": "now", "cluster": pod.cluster})
    for step in ("load", "split", "join", "upload", "verify"):
        await pod.kill(step, **restore.job(1))
    assert sum(each.keys for each in await restore.run()) == whole["manifest"]["keys"]


async def test_what_was_named_and_is_another_one_by_now_has_another_origin(pod: Pod) -> None:
    """Somebody has taken it anew under its name, between the Jobs of two shards."""
    await pod.write("a")
    await pod.run(name="now", anew=True)
    restore = Restore(pod, "2", 2, {"snapshot": "now", "cluster": pod.cluster})
    first = await pod.run(**restore.job(0))
    await pod.write("b")
    await pod.run(name="now", anew=True)
    other = await pod.run(**restore.job(1))
    assert first["origin"] != other["origin"]
    assert await pod.run(**restore.job(0)) == first, "what was made says what it was made of"


async def test_shards_that_are_missing_of_a_snapshot_are_told(pod: Pod) -> None:
    await pod.write("a")
    await pod.run(name="now", anew=True)
    three = Restore(pod, "3", 3, {"snapshot": "now", "cluster": pod.cluster})
    for shard in (0, 2):
        await pod.run(**three.job(shard))
    for shards in (2, 3):
        restore = Restore(pod, "of", shards, {"snapshot": "now", "cluster": three.name})
        for shard in range(shards):
            said = await pod.run(**restore.job(shard))
            assert "has the shards 0, 2, which are not all that there were" in said["failed"]


async def test_a_store_without_its_secret_is_no_other_store(pod: Pod, tmp_path: Path) -> None:
    pod.stores = tmp_path
    said = await pod.run(name="one")
    assert "failed" in said


@pytest.fixture
async def in_log(pod: Pod) -> AsyncIterator[Pod]:
    """One whose store is the log service itself, with room for next to nothing."""
    pod.store = {"log": {"maxBytes": "64Mi"}}
    yield pod
    with contextlib.suppress(LogMissing):
        await pod.world.service.delete(SNAPSHOTS_STREAM)


async def test_where_there_is_little_room_two_are_kept_and_what_users_took(in_log: Pod) -> None:
    keep = in_log.keep(retention={"count": 7}, room=1)
    for name in ("one", "mine", "three", "four", "five"):
        await in_log.write(name)
        reason = "user" if name == "mine" else "schedule"
        said = await in_log.run(name=name, reason=reason, anew=True, keep=keep)
        assert (said["trouble"], said["waits"]) == ("", False)
    assert [each["name"] for each in said["kept"]] == ["five", "four"]
    access = LogAccess(tuple(in_log.world.service.urls), USER, PASSWORD)
    catalogue = open_catalogue(SnapshotStore.model_validate(in_log.store), in_log.cluster, 0, access)
    assert {each.manifest.name for each in await catalogue.all()} == {"mine", "four", "five"}
    assert all(each["inLog"] for each in said["kept"]), "so another store may be named, and another again"
    assert await in_log.first() > 2, "the log is trimmed"
    said = await in_log.run(make=False, keep=in_log.keep(room=1, others={1: 5}))
    assert "no snapshot of shard 1 any more: nothing is swept" in said["trouble"]


async def test_a_job_that_was_killed_is_not_in_the_way_of_the_next(in_log: Pod) -> None:
    keep = in_log.keep(room=1)
    await in_log.write("a")
    await in_log.kill("verify", name="dead", keep=keep)
    said = await in_log.run(name="alive", keep=keep)
    assert [each["name"] for each in said["kept"]] == ["alive"]
    assert said["manifest"]["digest"] == (await in_log.world.replayed()).digest


async def test_a_new_cluster_begins_with_what_another_ones_log_service_has(in_log: Pod) -> None:
    await in_log.write("a")
    made = await in_log.run(name="now", anew=True)
    await in_log.write("b")
    service = {
        "servers": in_log.world.service.urls,
        "user": USER,
        "password_file": str(in_log.root / "log-password"),
    }
    _, digest = await restored(in_log, {"snapshot": "now", "service": service})
    assert digest == made["manifest"]["digest"]
