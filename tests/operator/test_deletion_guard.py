"""What the API server does not let be deleted, by the chart's ValidatingAdmissionPolicy; no operator runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml
from kubernetes.aio.client.exceptions import ApiException
from tests.operator.conftest import ROOT, ask, eventually, manifest
from tests.operator.test_snapshots import SNAPSHOTS

from memorycluster_operator.kube import Kube, path
from memorycluster_operator.snapshot import LAST_SNAPSHOT_FINALIZER

POLICIES = "/apis/admissionregistration.k8s.io/v1"


@pytest.fixture
async def guarded(kube: Kube, namespace: str) -> AsyncIterator[str]:
    """A namespace in which the policy holds."""
    made = []
    for each in yaml.safe_load_all((ROOT / "deploy/memorycluster-operator.yaml").read_text()):
        if each is None or not each["kind"].startswith("ValidatingAdmissionPolicy"):
            continue
        plural = "validatingadmissionpolic" + ("ies" if each["kind"].endswith("Policy") else "ybindings")
        each["metadata"]["name"] = namespace
        if "policyName" in each["spec"]:
            each["spec"]["policyName"] = namespace
        else:
            here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
            each["spec"]["matchConstraints"]["namespaceSelector"] = here
        await ask(kube, "post", f"{POLICIES}/{plural}", each)
        made.append(f"{POLICIES}/{plural}/{namespace}")
    yield namespace
    for where in made:
        await ask(kube, "delete", where, {})


async def delete(kube: Kube, namespace: str, propagation: str = "Background") -> str:
    """Delete the MemoryCluster; return why that is refused, or nothing."""
    body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
    try:
        await ask(kube, "delete", path("MemoryCluster", namespace, "orders"), body)
    except ApiException as error:
        if error.status != 403:
            raise
        return str(error.body)
    return ""


async def tell(kube: Kube, namespace: str, finalizers: list[str], policy: str) -> None:
    """Say what the operator would say."""
    await kube.patch("MemoryCluster", namespace, "orders", {"metadata": {"finalizers": finalizers}})
    status: dict[str, Any] = {"status": {"deletionPolicy": policy}}
    await kube.patch("MemoryCluster", namespace, "orders", status, subresource="status")


async def test_nobody_is_faster_than_the_operator(kube: Kube, guarded: str) -> None:
    held = {**SNAPSHOTS, "beforeDelete": True}
    await kube.create(manifest(guarded, deletionPolicy="Delete", snapshots=held))

    async def refused() -> bool:  # the API server takes a moment to know of the policy
        cluster = await kube.get("MemoryCluster", guarded, "orders")
        if cluster is None:
            await kube.create(manifest(guarded, deletionPolicy="Delete", snapshots=held))
        return "does not hold the deletion yet" in await delete(kube, guarded)

    await eventually(refused)
    await tell(kube, guarded, [LAST_SNAPSHOT_FINALIZER], "Delete")
    assert "does not hold the deletion yet" in await delete(kube, guarded), "the volumes are owned still"
    await tell(kube, guarded, [LAST_SNAPSHOT_FINALIZER], "Retain")
    assert "in the foreground would delete the log" in await delete(kube, guarded, "Foreground")
    assert await delete(kube, guarded) == ""
    assert await delete(kube, guarded) == "", "once more does no harm"
    await kube.patch("MemoryCluster", guarded, "orders", {"metadata": {"finalizers": None}})


async def test_who_says_retain_keeps_the_volumes(kube: Kube, guarded: str) -> None:
    async def refused() -> bool:
        if await kube.get("MemoryCluster", guarded, "orders") is None:
            await kube.create(manifest(guarded))
        await tell(kube, guarded, [], "Delete")
        return "its volumes would still go with it" in await delete(kube, guarded)

    await eventually(refused)
    await tell(kube, guarded, [], "Retain")
    assert await delete(kube, guarded, "Foreground") == ""
