"""``memorycluster plan``: what the operator would do next, told from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.lab.apiserver import ApiServer
from tests.operator.conftest import Operators, change, eventually, manifest, ready, status
from tests.operator.kubelet import Kubelet

from memorycluster_operator.kube import Kube


async def test_plan_says_what_the_operator_would_do(
    kube: Kube, api_server: ApiServer, namespace: str, kubelet: Kubelet, operators: Operators
) -> None:
    operator = operators.start()
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    operator.stop()
    assert memorycluster_plan(api_server, namespace)["actions"] == []
    await change(kube, namespace, {"engine": {"image": "engine:next"}})
    found = memorycluster_plan(api_server, namespace)
    assert [each["what"] for each in found["actions"]] == ["apply StatefulSet orders-0"]
    assert (await status(kube, namespace))["observedGeneration"] == 1
    text = run_plan(api_server, namespace).stdout
    assert "apply StatefulSet orders-0" in text
    secret = await kube.get("Secret", namespace, "orders-internal")
    assert secret is not None
    assert not any(value in json.dumps(found) for value in secret["data"].values())


async def test_plan_of_what_is_not_there(kube: Kube, api_server: ApiServer) -> None:
    done = run_plan(api_server, "default")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: there is no MemoryCluster orders in the namespace default"


def memorycluster_plan(server: ApiServer, namespace: str) -> dict[str, Any]:
    done = run_plan(server, namespace, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_plan(server: ApiServer, namespace: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memorycluster", "plan", "orders", "-n", namespace, *options],
        env={**os.environ, "KUBECONFIG": str(server.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
