"""What is held while it is deleted, against a real API server and garbage collector."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.operator.conftest import (
    Operator,
    ask,
    change,
    eventually,
    manifest,
    pods,
    ready,
    status,
)
from tests.operator.kubelet import Kubelet
from tests.operator.test_rights import forbidden, limited, rights, uid_of
from tests.operator.test_snapshots import SNAPSHOTS, Makings, memorysnapshot, told

from memorycluster_operator.kube import Kube, path
from memorycluster_operator.makings import DATA_FINALIZER
from memorycluster_operator.snapshot import LAST_SNAPSHOT_FINALIZER

__all__ = ["limited", "rights"]


def held(namespace: str, **snapshots: Any) -> dict[str, Any]:
    """Return a MemoryCluster with something in its log, which goes with its volumes after a last snapshot."""
    return manifest(
        namespace,
        shards=1,
        deletionPolicy="Delete",
        restoreFrom={"snapshot": "orders-0"},
        snapshots={**SNAPSHOTS, "beforeDelete": True, **snapshots},
    )


async def made(kube: Kube, namespace: str, kubelet: Kubelet, **snapshots: Any) -> Makings:
    """Create one, and return what its Jobs do."""
    kubelet.jobs = makings = Makings()
    await kube.create(held(namespace, **snapshots))
    await eventually(lambda: ready(kube, namespace), within=120)

    async def is_held() -> bool:
        found = await kube.get("MemoryCluster", namespace, "orders")
        return bool(found and LAST_SNAPSHOT_FINALIZER in (found["metadata"].get("finalizers") or []))

    await eventually(is_held)
    return makings


async def delete(kube: Kube, namespace: str, propagation: str) -> None:
    body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
    await ask(kube, "delete", path("MemoryCluster", namespace, "orders"), body)


def says(kube: Kube, namespace: str, reason: str) -> Callable[[], Awaitable[bool]]:
    async def said() -> bool:
        return ((await status(kube, namespace)).get("deletion") or {}).get("reason") == reason

    return said


def gone(kube: Kube, kind: str, namespace: str, name: str) -> Callable[[], Awaitable[bool]]:
    async def is_gone() -> bool:
        return await kube.get(kind, namespace, name) is None

    return is_gone


async def volumes(kube: Kube, namespace: str) -> int:
    return len((await kube.list("PersistentVolumeClaim", namespace))[0])


async def last_snapshots(kube: Kube, namespace: str) -> list[dict[str, Any]]:
    found, _ = await kube.list("MemorySnapshot", namespace)
    return [each for each in found if each["metadata"]["name"].startswith("orders-last-")]


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_a_last_snapshot_is_taken_before_anything_goes(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator, propagation: str
) -> None:
    makings = await made(kube, namespace, kubelet)
    makings.under_way = True
    await delete(kube, namespace, propagation)

    async def asked() -> bool:
        return bool(await last_snapshots(kube, namespace))

    await eventually(asked, within=180)
    assert await pods(kube, namespace, "engine") == {}, "nothing is written any more"

    async def whole() -> bool:
        return len(await pods(kube, namespace, "log")) == 3

    await eventually(whole)  # Kubernetes may have been quicker with one than the operator
    claims, _ = await kube.list("PersistentVolumeClaim", namespace)
    assert [each["metadata"].get("ownerReferences") for each in claims] == [None] * 3
    said = await status(kube, namespace)
    assert said["phase"] == "Deleting"
    assert said["deletion"]["deadline"] > said["deletion"]["since"]
    makings.under_way = False
    await eventually(gone(kube, "MemoryCluster", namespace, "orders"), within=180)
    (last,) = await last_snapshots(kube, namespace)
    assert last["status"]["phase"] == "Completed"

    async def volumes_gone() -> bool:
        return await volumes(kube, namespace) == 0

    await eventually(volumes_gone, within=120)
    events, _ = await kube.list("Event", namespace)
    assert {"TakingSnapshot", "SnapshotTaken"} <= {each["reason"] for each in events}


async def test_without_a_last_snapshot_the_volumes_stay(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    makings = await made(kube, namespace, kubelet, beforeDeleteTimeout="1m")
    makings.failing = "s3://b: no such bucket"
    await delete(kube, namespace, "Background")
    await eventually(gone(kube, "MemoryCluster", namespace, "orders"), within=300)

    async def rest_gone() -> bool:
        return not (await kube.list("Pod", namespace, labels="app.kubernetes.io/component=log"))[0]

    await eventually(rest_gone, within=120)
    assert await volumes(kube, namespace) == 3
    events, _ = await kube.list("Event", namespace)
    (note,) = (each["note"] for each in events if each["reason"] == "NoLastSnapshot")
    assert "volumes stay" in note


async def test_it_is_let_go_when_that_is_no_longer_wanted(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    makings = await made(kube, namespace, kubelet)
    makings.under_way = True
    await delete(kube, namespace, "Background")
    await eventually(says(kube, namespace, "TakingSnapshot"), within=180)
    await change(kube, namespace, {"snapshots": {"beforeDelete": False}})
    await eventually(gone(kube, "MemoryCluster", namespace, "orders"), within=120)

    async def rest_gone() -> bool:
        return await volumes(kube, namespace) == 0 and await pods(kube, namespace, "log") == {}

    await eventually(rest_gone, within=120)


async def test_a_namespace_is_deleted_with_what_is_held_in_it(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await made(kube, namespace, kubelet)
    await kube.create(memorysnapshot(namespace, "now", deletionPolicy="Delete"))

    async def is_held() -> bool:
        found = await kube.get("MemorySnapshot", namespace, "now") or {"metadata": {}}
        return DATA_FINALIZER in (found["metadata"].get("finalizers") or [])

    await eventually(is_held)
    await ask(kube, "delete", f"/api/v1/namespaces/{namespace}", {})
    await eventually(gone(kube, "MemoryCluster", namespace, "orders"), within=240)
    await eventually(gone(kube, "MemorySnapshot", namespace, "now"), within=120)


async def test_with_the_charts_rights_data_goes_with_its_memorysnapshot(
    kube: Kube, namespace: str, kubelet: Kubelet, limited: Operator
) -> None:
    makings = await made(kube, namespace, kubelet)
    for name in ("first", "second"):
        await kube.create(memorysnapshot(namespace, name, deletionPolicy="Delete"))

        async def completed(name: str = name) -> bool:
            found = await kube.get("MemorySnapshot", namespace, name) or {"metadata": {}}
            is_held = DATA_FINALIZER in (found["metadata"].get("finalizers") or [])
            return is_held and (await told(kube, namespace, name)).get("phase") == "Completed"

        await eventually(completed, within=120)
    await kube.delete(
        "MemorySnapshot", namespace, "first", uid=await uid_of(kube, "MemorySnapshot", namespace, "first")
    )
    await eventually(gone(kube, "MemorySnapshot", namespace, "first"), within=120)
    unwanted = {name for each in makings.told if each.keep for name in each.keep.unwanted.values()}
    assert unwanted == {"first"}
    await delete(kube, namespace, "Background")
    await eventually(gone(kube, "MemoryCluster", namespace, "orders"), within=180)
    # Nobody knows any more where its data is.
    await kube.delete(
        "MemorySnapshot", namespace, "second", uid=await uid_of(kube, "MemorySnapshot", namespace, "second")
    )
    await eventually(gone(kube, "MemorySnapshot", namespace, "second"), within=120)
    assert await forbidden(limited) == []
    assert "orbidden" not in limited.lines
    assert limited.stop() == 0
