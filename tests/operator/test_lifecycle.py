"""A MemoryCluster from its creation to its end, against a real API server."""

from __future__ import annotations

import asyncio

from tests.operator.conftest import Operator, change, eventually, manifest, pods, ready, status
from tests.operator.kubelet import Kubelet

from memorycluster.api.spec import Spec
from memorycluster_operator.cache import controller
from memorycluster_operator.kube import Kube
from memorycluster_operator.objects import API_VERSIONS, wanted_keys
from memorycluster_operator.objects.names import CLUSTER_LABEL


async def test_creation_makes_all_objects(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    created = await kube.create(manifest(namespace, shards=2))
    await eventually(lambda: ready(kube, namespace))
    for key in wanted_keys("orders", Spec(shards=2)):
        found = await kube.get(key.kind, namespace, key.name)
        assert found is not None, key
        owner = controller(found)
        assert owner is not None
        assert owner["uid"] == created["metadata"]["uid"]
    said = await status(kube, namespace)
    assert [shard["primary"] for shard in said["shards"]] != [None, None]
    found = await kube.get("MemoryCluster", namespace, "orders")
    assert found is not None
    assert "finalizers" not in found["metadata"]
    assert not [key for key in found["metadata"].get("annotations") or {} if "kopf" in key]


async def test_at_rest_it_asks_nothing(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    await asyncio.sleep(2)
    before = await operator.api_calls()
    await asyncio.sleep(5)
    assert await operator.api_calls() == before


async def test_deleted_while_being_created(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    """Nothing is left but the volumes, and nothing was in the way."""
    for patience in (0.0, 0.3, 1.0, 2.0):
        created = await kube.create(manifest(namespace))
        await asyncio.sleep(patience)
        uid = created["metadata"]["uid"]
        await kube.delete("MemoryCluster", namespace, "orders", uid=uid)
        assert await kube.get("MemoryCluster", namespace, "orders") is None
        await eventually(lambda: _nothing_left(kube, namespace))


async def test_deleted_and_made_again_over_its_volumes(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    created = await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    before = await status(kube, namespace)
    await kube.delete("MemoryCluster", namespace, "orders", uid=created["metadata"]["uid"])
    await eventually(lambda: _nothing_left(kube, namespace))
    claims, _ = await kube.list("PersistentVolumeClaim", namespace)
    assert len(claims) == 3
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    assert (await status(kube, namespace))["identity"] == before["identity"]
    assert operator.lines.count("create the log of shard 0") == 1


async def test_deletion_policy_delete_takes_the_volumes(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    created = await kube.create(manifest(namespace, deletionPolicy="Delete"))
    await eventually(lambda: ready(kube, namespace))
    await kube.delete("MemoryCluster", namespace, "orders", uid=created["metadata"]["uid"])

    async def gone() -> bool:
        claims, _ = await kube.list("PersistentVolumeClaim", namespace)
        return not claims and await _nothing_left(kube, namespace)

    await eventually(gone)


async def test_the_spec_changes_in_mid_flight(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    for step, spec in enumerate(
        (
            {"replicasPerShard": 1},
            {"engine": {"parameters": {"maxmemory": "100mb"}}},
            {"engine": {"image": "engine:other"}},
            {"replicasPerShard": 2},
            {"engine": {"resources": {"requests": {"cpu": "50m"}}}},
            {"log": {"image": "nats:other"}},
            {"replicasPerShard": 1},
        )
    ):
        await change(kube, namespace, spec)
        await asyncio.sleep(0.3 * step)
    await eventually(lambda: ready(kube, namespace), within=120)
    engines, log = await pods(kube, namespace, "engine"), await pods(kube, namespace, "log")
    assert set(engines) == {"orders-0-0", "orders-0-1"}
    for pod in engines.values():
        assert {each["image"] for each in pod["spec"]["containers"]} == {"engine:other"}
        assert pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "50m"
    assert {pod["spec"]["containers"][0]["image"] for pod in log.values()} == {"nats:other"}


async def test_paused(kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    await change(kube, namespace, {"paused": True})

    async def paused() -> bool:
        conditions = (await status(kube, namespace))["conditions"]
        return any(each["type"] == "Paused" and each["status"] == "True" for each in conditions)

    await eventually(paused)
    await change(kube, namespace, {"replicasPerShard": 1})

    async def seen() -> bool:
        found = await kube.get("MemoryCluster", namespace, "orders")
        return bool(found and found["status"]["observedGeneration"] == found["metadata"]["generation"])

    await eventually(seen)
    assert len(await pods(kube, namespace, "engine")) == 3
    await change(kube, namespace, {"paused": False})
    await eventually(lambda: ready(kube, namespace))
    assert len(await pods(kube, namespace, "engine")) == 2


async def _nothing_left(kube: Kube, namespace: str) -> bool:
    for kind in API_VERSIONS:
        objects, _ = await kube.list(kind, namespace, labels=f"{CLUSTER_LABEL}=orders")
        if objects:
            return False
    return not (await kube.list("Pod", namespace))[0]
