"""Watches that have missed something are found out."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.operator.conftest import Operators, eventually, manifest, ready
from tests.operator.kubelet import Kubelet

from memorycluster_operator.audit import Audit
from memorycluster_operator.cache import Cache, ClusterKey
from memorycluster_operator.kube import Kube
from memorycluster_operator.objects.names import CLUSTER_LABEL


def config_map(namespace: str, name: str = "orders-config") -> dict[str, Any]:
    labels = {CLUSTER_LABEL: "orders"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
    }


async def test_what_is_gone_is_forgotten(kube: Kube, namespace: str) -> None:
    woken: list[ClusterKey] = []
    cache = Cache()
    audit = Audit(kube, cache, woken.append, kinds=("ConfigMap",), namespaces=(namespace,))
    gone = await kube.create(config_map(namespace, "gone"))
    cache.put(gone)
    cache.put(await kube.create(config_map(namespace, "stays")))
    await kube.delete("ConfigMap", namespace, "gone", uid=gone["metadata"]["uid"])
    await audit.once()
    assert [key.name for key in cache.children(ClusterKey(namespace, "orders"))] == ["stays"]
    assert woken == [ClusterKey(namespace, "orders")]
    assert not audit.blind


async def test_what_was_missed_twice_means_that_the_watches_are_dead(kube: Kube, namespace: str) -> None:
    cache = Cache()
    audit = Audit(kube, cache, lambda _: None, kinds=("ConfigMap",), namespaces=(namespace,))
    made = await kube.create(config_map(namespace))
    await audit.once()
    assert audit.missed
    assert not audit.blind, "the watch may just be late"
    await audit.once()
    assert "have not told" in audit.blind
    cache.put(made)
    await audit.once()
    assert not audit.blind
    changed = await kube.patch("ConfigMap", namespace, "orders-config", {"data": {"a": "b"}})
    await audit.once()
    await audit.once()
    assert audit.blind
    cache.put(changed)
    await audit.once()
    assert not audit.blind


async def test_a_working_operator_passes_its_audits(
    kube: Kube, namespace: str, kubelet: Kubelet, operators: Operators
) -> None:
    await kube.create(manifest(namespace))
    operator = operators.start()
    await eventually(lambda: ready(kube, namespace))

    async def audited() -> bool:
        calls = (await operator.metrics())["memorycluster_api_calls_total"]
        return calls.get("code=200,kind=ConfigMap,verb=list", 0) >= 1

    await eventually(audited)  # one comes a moment after the watches have begun
    await asyncio.sleep(1)
    assert (await operator.probe("/livez"))[0] == 200
    assert "have not told" not in operator.lines
