"""Snapshots, against a real API server and controller of Jobs; what a Job's pod does is a stand-in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from tests.lab.apiserver import ApiServer
from tests.operator.conftest import Operator, eventually, manifest, pods, ready, status
from tests.operator.kubelet import Kubelet
from tests.operator.test_rights import forbidden, limited, rights
from tests.operator.tools import kubectl
from tests.unit.snapshot.manifests import manifest as snapshot_manifest

from memorycluster.log.nats import NatsLog
from memorycluster.log.record import Record
from memorycluster.snapshot.alone import GONE
from memorycluster.snapshot.job import JobConfig
from memorycluster.snapshot.store import LogAccess, open_store
from memorycluster_operator.kube import Kube
from memorycluster_operator.makings import CONFIG_ANNOTATION
from memorycluster_operator.objects.credentials import decoded
from memorycluster_operator.objects.log import LOG_USER

__all__ = ["limited", "rights"]

SNAPSHOTS: dict[str, Any] = {
    "store": {"s3": {"bucket": "b", "endpoint": "http://s3:7070"}, "credentials": {"secretName": "keys"}}
}


class Makings:
    """What the pods of Jobs do: they make what they are told, unless they are to fail."""

    def __init__(self) -> None:
        self.failing = ""
        self.under_way = False
        """They don't come to their end yet."""
        self.told: list[JobConfig] = []
        self.deleted: list[str] = []

    def __call__(self, pod: dict[str, Any]) -> tuple[int, str] | None:
        if self.under_way:
            return None
        config = JobConfig.model_validate_json(pod["metadata"]["annotations"][CONFIG_ANNOTATION])
        self.told.append(config)
        if self.failing:
            return 1, json.dumps({"failed": self.failing, "broken": []})
        if config.restore:
            return 0, json.dumps({"restored": "d" * 40})
        made = snapshot_manifest(
            10 + len(self.told), name=config.name or "orders-1", shard=config.shard, reason=config.reason
        ).model_dump(mode="json", by_alias=True)
        kept = {key: made[key] for key in ("name", "sequence", "offset", "size", "createdAt")}
        said = {"made": "orders/0/x", "manifest": made, "kept": [kept], "deleted": self.deleted}
        gone = dict.fromkeys(config.keep.unwanted if config.keep else (), GONE)
        return 0, json.dumps({**said, "waits": False, "trouble": "", "unwanted": gone})


def memorysnapshot(namespace: str, name: str, cluster: str = "orders", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "memorycluster.io/v1alpha1",
        "kind": "MemorySnapshot",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"cluster": cluster, **spec},
    }


async def told(kube: Kube, namespace: str, name: str) -> dict[str, Any]:
    found = await kube.get("MemorySnapshot", namespace, name)
    return (found or {}).get("status") or {}


async def current(kube: Kube, namespace: str) -> dict[str, Any]:
    """Return the condition of the snapshots."""
    said = await status(kube, namespace)
    found: dict[str, Any] = next(
        (each for each in said.get("conditions", []) if each["type"] == "SnapshotsCurrent"), {}
    )
    return found


async def test_a_memorysnapshot_is_made_and_told(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    makings = Makings()
    kubelet.jobs = makings
    await kube.create(manifest(namespace, shards=2, snapshots=SNAPSHOTS))
    await eventually(lambda: ready(kube, namespace))
    await kube.create(memorysnapshot(namespace, "now"))

    async def completed() -> bool:
        return (await told(kube, namespace, "now")).get("phase") == "Completed"

    await eventually(completed)
    said = await told(kube, namespace, "now")
    assert said["progress"] == "2/2"
    assert [shard["digest"] for shard in said["shards"]] == [snapshot_manifest().digest] * 2
    assert {config.shard for config in makings.told} == {0, 1}

    async def taken() -> bool:
        condition = await current(kube, namespace)
        return (condition["status"], condition["reason"]) == ("True", "Taken")

    await eventually(taken)  # the cluster's status is told after the snapshot's own
    jobs, _ = await kube.list("Job", namespace)
    assert len(jobs) == 2
    await eventually(lambda: ready(kube, namespace))
    found = await kube.get("MemorySnapshot", namespace, "now")
    assert found is not None
    assert "finalizers" not in found["metadata"]
    await kube.delete("MemorySnapshot", namespace, "now", uid=found["metadata"]["uid"])

    async def no_jobs() -> bool:
        return (await kube.list("Job", namespace))[0] == []

    await eventually(no_jobs)
    assert await ready(kube, namespace)


@asynccontextmanager
async def telling(address: str, token: str, said: dict[str, Any]) -> AsyncIterator[None]:
    """Answer for a Job's pod."""

    async def progress(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {token}":
            raise web.HTTPUnauthorized
        return web.json_response(said)

    app = web.Application()
    app.router.add_get("/v1/progress", progress)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, 8080).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_how_far_a_job_is_is_told_while_it_runs(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.jobs = makings = Makings()
    makings.under_way = True
    await kube.create(manifest(namespace, snapshots=SNAPSHOTS))
    await eventually(lambda: ready(kube, namespace))
    await kube.create(memorysnapshot(namespace, "now"))

    async def pod() -> str:
        return next((each.address for each in kubelet.running.values() if each.is_job), "")

    address = await eventually(pod)
    secret = await kube.get("Secret", namespace, "orders-internal")
    assert secret is not None
    told_of = {"step": "upload", "done": 3 << 20, "total": 12 << 20}
    async with telling(address, decoded(secret)["api-token"], told_of):

        async def known() -> bool:
            said = await told(kube, namespace, "now")
            return [{key: each.get(key) for key in told_of} for each in said.get("shards", [])] == [told_of]

        await eventually(known, within=90)
    assert "upload 3.0 MiB of 12.0 MiB" in (await told(kube, namespace, "now"))["message"]
    makings.under_way = False

    async def completed() -> bool:
        return (await told(kube, namespace, "now")).get("phase") == "Completed"

    await eventually(completed, within=90)


async def test_a_failure_is_told_to_who_asked_and_to_who_looks_at_the_cluster(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    makings = Makings()
    makings.failing = "s3://b: no such bucket"
    kubelet.jobs = makings
    await kube.create(manifest(namespace, snapshots=SNAPSHOTS))
    await eventually(lambda: ready(kube, namespace))
    await kube.create(memorysnapshot(namespace, "now"))

    async def failing() -> bool:
        return (await current(kube, namespace)).get("status") == "False"

    await eventually(failing)
    assert "no such bucket" in (await current(kube, namespace))["message"]

    async def said() -> bool:
        return "no such bucket" in (await told(kube, namespace, "now")).get("message", "")

    await eventually(said)
    assert (await told(kube, namespace, "now"))["phase"] == "Running"
    events, _ = await kube.list("Event", namespace)
    assert "SnapshotFailed" in {each["reason"] for each in events}


async def test_a_new_cluster_begins_with_what_its_jobs_restored(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.jobs = makings = Makings()
    makings.failing = "s3://b has no snapshot orders-1"
    await kube.create(manifest(namespace, snapshots=SNAPSHOTS, restoreFrom={"snapshot": "orders-1"}))

    async def waits() -> bool:
        blocked = (await status(kube, namespace)).get("blocked") or {}
        return blocked.get("reason") == "RestoreFailed" and "no snapshot orders-1" in blocked["message"]

    await eventually(waits)
    assert await pods(kube, namespace, "engine") == {}
    makings.failing = ""
    jobs, _ = await kube.list("Job", namespace)
    for job in jobs:  # which is tried again in a minute, or now
        await kube.delete("Job", namespace, job["metadata"]["name"], uid=job["metadata"]["uid"])
    await eventually(lambda: ready(kube, namespace))
    secret = await kube.get("Secret", namespace, "orders-internal")
    assert secret is not None
    member = kubelet.pod(namespace, "orders-log-0").address
    password = decoded(secret)["log-password"]
    async with NatsLog([f"nats://{member}:4222"], "orders-0", user=LOG_USER, password=password) as log:
        data = await log.get(1)
    assert data is not None
    assert Record.decode(data).payload == b"d" * 40


async def test_from_another_number_of_shards_at_a_moment(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.jobs = makings = Makings()
    await kube.create(manifest(namespace, snapshots=SNAPSHOTS))
    await eventually(lambda: ready(kube, namespace))
    of = {"cluster": "orders", "time": datetime.now(UTC).isoformat()}
    makings.under_way = True
    await kube.create(manifest(namespace, "newer", shards=2, snapshots=SNAPSHOTS, restoreFrom=of))

    async def let_in() -> bool:
        policy = await kube.get("NetworkPolicy", namespace, "orders-log")
        return "newer" in str((policy or {}).get("spec", {}).get("ingress"))

    await eventually(let_in)
    makings.under_way = False

    async def restored() -> bool:
        return await ready(kube, namespace, "newer")

    await eventually(restored)
    told_to = {each.shard: each for each in makings.told if each.restore}
    assert {shard: each.slots for shard, each in told_to.items()} == {0: [(0, 8191)], 1: [(8192, 16383)]}
    for each in told_to.values():
        assert each.restore
        assert [log.stream for log in each.restore.logs] == ["orders-0"]


async def test_without_a_store_named_the_log_service_has_room_for_them_and_stays_well(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.jobs = makings = Makings()
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    claim = await kube.get("PersistentVolumeClaim", namespace, "data-orders-log-0")
    assert claim is not None
    assert int(claim["spec"]["resources"]["requests"]["storage"]) == (2 + 1) * (64 << 20) * 5 // 4
    await kube.create(memorysnapshot(namespace, "now"))

    async def completed() -> bool:
        return (await told(kube, namespace, "now")).get("phase") == "Completed"

    await eventually(completed)
    config = makings.told[0]
    assert config.store.log is not None
    assert config.store.log.max_bytes == 64 << 20
    secret = await kube.get("Secret", namespace, "orders-internal")
    assert secret is not None
    members = [kubelet.pod(namespace, f"orders-log-{each}").address for each in range(3)]
    access = LogAccess(
        tuple(f"nats://{each}:4222" for each in members), LOG_USER, decoded(secret)["log-password"]
    )
    store = open_store(config.store, access)
    for key in ("a", "b", "c"):
        await store.put(key, bytes(1 << 20))
    await store.delete("b")  # leaves a hole, as rot does

    async def uids() -> set[str]:
        return {each["metadata"]["uid"] for each in (await pods(kube, namespace, "log")).values()}

    before = await uids()
    change = {"spec": {"log": {"resources": {"requests": {"cpu": "10m"}}}}}
    await kube.patch("MemoryCluster", namespace, "orders", change)

    async def rolled() -> bool:
        now = await uids()
        return len(now) == 3 and not now & before and bool(await ready(kube, namespace))

    await eventually(rolled, 240)
    conditions = {each["type"]: each["status"] for each in (await status(kube, namespace))["conditions"]}
    assert conditions["LogIntact"] == "True"
    fresh = [kubelet.pod(namespace, f"orders-log-{each}").address for each in range(3)]
    moved = open_store(config.store, access._replace(servers=tuple(f"nats://{each}:4222" for each in fresh)))
    assert [each.key for each in await moved.list("")] == ["a", "c"]
    assert b"".join([chunk async for chunk in moved.get("a")]) == bytes(1 << 20)


async def test_who_may_do_what_the_chart_says_may_make_snapshots(
    kube: Kube, namespace: str, kubelet: Kubelet, limited: Operator
) -> None:
    """By the schedule, too: each minute, so that one is due; and the one that has expired goes."""
    kubelet.jobs = makings = Makings()
    await kube.create(manifest(namespace, snapshots={**SNAPSHOTS, "schedule": "* * * * *"}))
    await eventually(lambda: ready(kube, namespace))

    async def names() -> list[str]:
        found, _ = await kube.list("MemorySnapshot", namespace)
        return [each["metadata"]["name"] for each in found if (each.get("status") or {}).get("completedAt")]

    (first,) = await eventually(names, within=90)
    makings.deleted.append(first)
    await kube.create(memorysnapshot(namespace, "now"))

    async def gone() -> bool:
        return await kube.get("MemorySnapshot", namespace, first) is None

    await eventually(gone)
    assert await forbidden(limited) == []
    assert "orbidden" not in limited.lines
    assert limited.stop() == 0


async def test_pods_of_jobs_are_restricted(
    api_server: ApiServer, kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubectl(api_server, "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    kubelet.jobs = Makings()
    await kube.create(manifest(namespace, snapshots=SNAPSHOTS))
    await eventually(lambda: ready(kube, namespace))
    await kube.create(memorysnapshot(namespace, "now"))

    async def completed() -> bool:
        return (await told(kube, namespace, "now")).get("phase") == "Completed"

    await eventually(completed)
