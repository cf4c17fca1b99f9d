"""The lab is what the e2e tests take it for: three zones, policies that hold, nodes that come back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.lab.cluster import Lab
from tests.lab.images import Images
from tests.lab.node import BUSYBOX_IMAGE
from tests.lab.programs import LabError

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first time, much is built

PATIENCE = 180.0
"""Seconds for what takes a few."""
SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace that enforces the restricted Pod Security Standard."""
    name = f"lab-{time.time_ns():x}"
    apply(
        lab,
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        },
    )
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=false")


def apply(lab: Lab, thing: dict[str, Any], namespace: str = "default") -> None:
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(thing))


def container(image: str, command: list[str], **more: Any) -> dict[str, Any]:
    return {"name": "it", "image": image, "command": command, "securityContext": SECURITY, **more}


def pod(name: str, image: str, command: list[str], user: int | None = None) -> dict[str, Any]:
    it = container(image, command)
    if user is not None:
        it["securityContext"] = {**SECURITY, "runAsUser": user}
    spec = {"containers": [it], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec,
    }


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.3)


def succeeds(lab: Lab, *arguments: str) -> bool:
    try:
        lab.kubectl(*arguments)
    except LabError:
        return False
    return True


def test_zones(lab: Lab) -> None:
    assert sorted(lab.zones().values()) == ["zone-a", "zone-b", "zone-c"]


@pytest.mark.parametrize(
    ("image", "command", "says"),
    [
        ("engine", ["valkey-server", "--version"], "Valkey server v="),
        ("engine", ["python", "-m", "memorycluster.pod", "--help"], "engine"),
        ("next_engine", ["valkey-cli", "--version"], "valkey-cli"),
        ("operator", ["memorycluster-operator", "--help"], "Usage"),
        ("log", ["nats-server", "--version"], "nats-server: v2."),
        ("client", ["python", "-c", "import hiredis, redis, valkey; print(valkey.__name__)"], "valkey"),
    ],
)
def test_image(
    lab: Lab, our_images: Images, namespace: str, image: str, command: list[str], says: str
) -> None:
    """Each image's program runs as a user of its own, on a root that it can't write."""
    apply(lab, pod("it", getattr(our_images, image), command), namespace)

    def ended() -> bool:
        return lab.kubectl("get", "pod", "it", "-n", namespace, "-o", "jsonpath={.status.phase}") in (
            *("Succeeded", "Failed"),
        )

    until(ended, f"{command} ended")
    output = lab.kubectl("logs", "it", "-n", namespace)
    assert says in output
    assert lab.kubectl("get", "pod", "it", "-n", namespace, "-o", "jsonpath={.status.phase}") == "Succeeded"


def test_policies_are_enforced(lab: Lab, namespace: str) -> None:
    server = pod("server", BUSYBOX_IMAGE, ["httpd", "-f", "-p", "8080", "-h", "/etc"], user=1000)
    client = pod("client", BUSYBOX_IMAGE, ["sleep", "1000"], user=1000)
    apply(lab, server, namespace)
    apply(lab, client, namespace)
    lab.kubectl(
        "wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", f"--timeout={PATIENCE:.0f}s"
    )
    address = lab.kubectl("get", "pod", "server", "-n", namespace, "-o", "jsonpath={.status.podIP}")
    fetch = ("exec", "-n", namespace, "client", "--", "wget", "-T2", "-qO-", f"http://{address}:8080/passwd")

    until(lambda: succeeds(lab, *fetch), "reached without a policy")
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
    }
    apply(lab, policy, namespace)
    until(lambda: not succeeds(lab, *fetch), "kept out by the policy")
    lab.kubectl("delete", "networkpolicy", "deny", "-n", namespace)
    until(lambda: succeeds(lab, *fetch), "reached again")


def test_a_killed_node_comes_back_with_its_volumes(lab: Lab, namespace: str) -> None:
    labels = {"app": "keeper"}
    write = "cat /data/starts; date >> /data/starts; exec sleep 1000"
    mounts = [{"name": "data", "mountPath": "/data"}]
    it = container(BUSYBOX_IMAGE, ["sh", "-c", write], volumeMounts=mounts)
    it["securityContext"] = {**SECURITY, "runAsUser": 1000}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [it], "terminationGracePeriodSeconds": 1},
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
    }
    spec = {
        "serviceName": "keeper",
        "selector": {"matchLabels": labels},
        "template": template,
        "volumeClaimTemplates": [claim],
    }
    apply(
        lab,
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "keeper"}, "spec": spec},
        namespace,
    )
    kept = ("exec", "-n", namespace, "keeper-0", "--", "cat", "/data/starts")
    until(lambda: succeeds(lab, *kept), "the pod runs")
    first = lab.kubectl(*kept)
    node = lab.kubectl("get", "pod", "keeper-0", "-n", namespace, "-o", "jsonpath={.spec.nodeName}")

    lab.kill_node(node)
    try:
        condition = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        until(lambda: lab.kubectl("get", "node", node, "-o", condition) != "True", f"{node} is not ready")
    finally:
        lab.start_node(node)
    lab.kubectl("wait", "--for=condition=Ready", f"node/{node}", f"--timeout={PATIENCE:.0f}s")

    def started_again() -> bool:
        return succeeds(lab, *kept) and lab.kubectl(*kept) != first

    until(started_again, "the pod started again")
    assert lab.kubectl(*kept).startswith(first)
