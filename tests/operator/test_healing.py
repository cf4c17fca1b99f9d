"""What is owned is as it should be, whatever others do to it; what is not owned is left alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.operator.conftest import Operator, Operators, change, eventually, manifest, pods, ready, status
from tests.operator.kubelet import Kubelet

from memorycluster_operator.cache import controller
from memorycluster_operator.kube import Kube
from memorycluster_operator.objects.names import CLUSTER_LABEL


async def remove(kube: Kube, kind: str, namespace: str, name: str) -> dict[str, Any]:
    """Delete an object, and return it as it was."""
    found = await kube.get(kind, namespace, name)
    assert found is not None
    await kube.delete(kind, namespace, name, uid=found["metadata"]["uid"])
    return found


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Service", "orders"),
        ("ConfigMap", "orders-config"),
        ("PodDisruptionBudget", "orders-0"),
        ("NetworkPolicy", "orders-engine"),
        ("ServiceAccount", "orders"),
    ],
)
async def test_a_deleted_object_comes_back(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator, kind: str, name: str
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    before = await pods(kube, namespace, "engine")
    old = await remove(kube, kind, namespace, name)

    async def made_again() -> bool:
        found = await kube.get(kind, namespace, name)
        return found is not None and found["metadata"]["uid"] != old["metadata"]["uid"]

    await eventually(made_again)
    await eventually(lambda: ready(kube, namespace))
    after = await pods(kube, namespace, "engine")
    assert {n: pod["metadata"]["uid"] for n, pod in after.items()} == {
        n: pod["metadata"]["uid"] for n, pod in before.items()
    }


async def test_deleted_secrets_come_back_with_the_same_values(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    for name in ("orders-internal", "orders-log"):
        old = await remove(kube, "Secret", namespace, name)

        async def same_again(name: str = name, old: dict[str, Any] = old) -> bool:
            found = await kube.get("Secret", namespace, name)
            return found is not None and found["data"] == old["data"]

        await eventually(same_again)


async def test_both_secrets_deleted_at_once_come_back_with_the_same_values(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    names = ("orders-internal", "orders-log")
    old = [await remove(kube, "Secret", namespace, name) for name in names]

    async def same_again() -> bool:
        found = [await kube.get("Secret", namespace, name) for name in names]
        return all(found) and [each["data"] for each in found if each] == [each["data"] for each in old]

    await eventually(same_again)


async def test_lost_secrets_that_nobody_has_seen_are_not_drawn_anew_while_pods_run(
    kube: Kube, namespace: str, kubelet: Kubelet, operators: Operators
) -> None:
    operator = operators.start()
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    operator.stop()
    for name in ("orders-internal", "orders-log"):
        await remove(kube, "Secret", namespace, name)
    operators.start()

    async def says_so() -> bool:
        return (await status(kube, namespace)).get("blocked", {}).get("reason") == "SecretMissing"

    await eventually(says_so)
    assert await kube.get("Secret", namespace, "orders-internal") is None


async def test_drift_is_put_right(kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    await kube.patch("Service", namespace, "orders", {"spec": {"selector": {"hijacked": "yes"}}})
    await kube.patch("PodDisruptionBudget", namespace, "orders-log", {"spec": {"maxUnavailable": 3}})
    await kube.patch("NetworkPolicy", namespace, "orders-log", {"spec": {"policyTypes": ["Egress"]}})
    await kube.patch("StatefulSet", namespace, "orders-0", {"spec": {"replicas": 1}})
    await kube.patch("Service", namespace, "orders-nodes", {"metadata": {"labels": {CLUSTER_LABEL: None}}})

    async def right() -> bool:
        service = await kube.get("Service", namespace, "orders")
        budget = await kube.get("PodDisruptionBudget", namespace, "orders-log")
        policy = await kube.get("NetworkPolicy", namespace, "orders-log")
        stateful_set = await kube.get("StatefulSet", namespace, "orders-0")
        nodes = await kube.get("Service", namespace, "orders-nodes")
        return (
            service is not None
            and "hijacked" not in service["spec"]["selector"]
            and budget is not None
            and budget["spec"]["maxUnavailable"] == 1
            and policy is not None
            and policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            and stateful_set is not None
            and stateful_set["spec"]["replicas"] == 3
            and nodes is not None
            and nodes["metadata"]["labels"].get(CLUSTER_LABEL) == "orders"
        )

    await eventually(right)
    await eventually(lambda: ready(kube, namespace))


async def test_an_object_of_somebody_else_is_not_touched(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    theirs = await kube.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "orders-config", "namespace": namespace},
            "data": {"theirs": "yes"},
        }
    )
    await kube.create(manifest(namespace))

    async def says_so() -> bool:
        blocked = (await status(kube, namespace)).get("blocked", {})
        return blocked.get("reason") == "NameConflict" and "orders-config" in blocked["message"]

    await eventually(says_so)
    found = await kube.get("ConfigMap", namespace, "orders-config")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]
    assert await kube.get("StatefulSet", namespace, "orders-0") is None

    await remove(kube, "ConfigMap", namespace, "orders-config")
    await change(kube, namespace, {"replicasPerShard": 1})
    await eventually(lambda: ready(kube, namespace))
    found = await kube.get("ConfigMap", namespace, "orders-config")
    assert found is not None
    assert (controller(found) or {}).get("kind") == "MemoryCluster"


async def test_an_object_labelled_by_somebody_else_is_not_ours(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    theirs = await kube.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "orders", "namespace": namespace, "labels": {CLUSTER_LABEL: "orders"}},
            "spec": {"ports": [{"port": 80}]},
        }
    )
    await kube.create(manifest(namespace))

    async def says_so() -> bool:
        return (await status(kube, namespace)).get("blocked", {}).get("reason") == "NameConflict"

    await eventually(says_so)
    await asyncio.sleep(1)
    found = await kube.get("Service", namespace, "orders")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]
