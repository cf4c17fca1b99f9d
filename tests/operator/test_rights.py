"""The operator with the rights that its chart gives it, and no others: all that it does, it may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.lab.apiserver import ApiServer
from tests.operator.chart import NAMESPACE, template
from tests.operator.conftest import SYSTEM, Operator, Operators, change, eventually, manifest, ready, settled
from tests.operator.kubelet import Kubelet
from tests.operator.tools import kubectl

from memorycluster_operator.kube import Kube

KINDS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")

GROWING = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "growing"},
    "provisioner": "example.com/volumes",
    "allowVolumeExpansion": True,
}


@pytest.fixture(params=["everywhere", "in one namespace"])
def rights(
    request: pytest.FixtureRequest, api_server: ApiServer, kube: Kube, namespace: str
) -> Iterator[tuple[str, ...]]:
    """Give the operator the chart's rights; return the options that go with them."""
    values: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    if request.param != "everywhere":
        values = ("--set", f"watchNamespaces={{{namespace}}}", "--set", "watchNodes=false")
        options = ("--namespaces", namespace, "--no-watch-nodes")
    objects = [each for each in yaml.safe_load_all(template(*values)) if each and each["kind"] in KINDS]
    rendered = yaml.safe_dump_all(objects)
    kubectl(api_server, "apply", "-f", "-", stdin=rendered)
    kubectl(api_server, "apply", "-f", "-", stdin=yaml.safe_dump(GROWING))
    yield options
    kubectl(api_server, "delete", "-f", "-", stdin=rendered)


def of_service_account(server: ApiServer, directory: Path) -> Path:
    """Return a kubeconfig of the operator's ServiceAccount."""
    token = kubectl(
        server, "create", "token", "memorycluster-operator", "-n", SYSTEM, "--duration=1h"
    ).strip()
    config = json.loads(server.kubeconfig.read_text())
    config["users"] = [{"name": "admin", "user": {"token": token}}]
    path = directory / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
async def limited(
    api_server: ApiServer, rights: tuple[str, ...], operators: Operators, tmp_path: Path
) -> Operator:
    """Return an operator that works, with the chart's rights and no others."""
    operator = operators.start(*rights, kubeconfig=of_service_account(api_server, tmp_path))
    await eventually(operator.leads)
    return operator


def test_it_may_delete_no_data() -> None:
    """Pods, and what is only a record of a snapshot: whatever else it makes goes with its MemoryCluster."""
    roles = [
        each for each in yaml.safe_load_all(template()) if each and each["kind"] in ("Role", "ClusterRole")
    ]
    ours = [each for each in roles if "aggregate-to-" not in str(each["metadata"].get("labels"))]
    rules = [rule for each in ours for rule in each["rules"]]
    assert rules
    deletes = [
        r
        for rule in rules
        if {"delete", "deletecollection", "*"} & set(rule["verbs"])
        for r in rule["resources"]
    ]
    assert sorted(deletes) == ["jobs", "memorysnapshots", "pods"]


async def forbidden(operator: Operator) -> list[str]:
    """Return what the API server did not allow it."""
    calls = (await operator.metrics()).get("memorycluster_api_calls_total", {})
    return [key for key in calls if "code=403" in key]


async def test_what_it_does_it_may_do(
    kube: Kube, namespace: str, kubelet: Kubelet, limited: Operator
) -> None:
    assert SYSTEM == NAMESPACE
    log = {"maxBytes": "64Mi", "storage": {"storageClassName": "growing"}}
    created = await kube.create(manifest(namespace, shards=1, log=log))
    await eventually(lambda: ready(kube, namespace), within=120)

    await change(kube, namespace, {"replicasPerShard": 1, "networkPolicy": {"from": [{"podSelector": {}}]}})
    await eventually(lambda: ready(kube, namespace), within=120)
    await change(
        kube,
        namespace,
        {"engine": {"image": "another", "parameters": {"hz": 20}}, "log": {"maxBytes": "128Mi"}},
    )
    await eventually(lambda: settled(kube, namespace), within=180)
    await kube.delete(
        "Secret", namespace, "orders-internal", uid=await uid_of(kube, "Secret", namespace, "orders-internal")
    )
    await eventually(lambda: kube.get("Secret", namespace, "orders-internal"))
    await eventually(lambda: ready(kube, namespace), within=120)
    assert await forbidden(limited) == []
    assert "orbidden" not in limited.lines
    events, _ = await kube.list("Event", namespace)
    assert events
    await kube.delete("MemoryCluster", namespace, "orders", uid=created["metadata"]["uid"])
    assert limited.stop() == 0


async def uid_of(kube: Kube, kind: str, namespace: str, name: str) -> str:
    found = await kube.get(kind, namespace, name)
    assert found is not None
    return str(found["metadata"]["uid"])
