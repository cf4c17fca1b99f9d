"""A real API server with Kubernetes' own controllers, a kubelet of ours, and the operator as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from kubernetes.aio.client.exceptions import ApiException
from prometheus_client.parser import text_string_to_metric_families
from tests.lab.apiserver import ApiServer
from tests.operator.kubelet import Kubelet, available

from memorycluster_operator.kube import Kube, configuration

ROOT = Path(__file__).parents[2]
CONTROLLERS = (
    "statefulset-controller",
    "job-controller",
    "garbage-collector-controller",
    "disruption-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "persistentvolumeclaim-protection-controller",
)
SYSTEM = "memorycluster-system"
WITHIN = 60.0
"""Seconds for what is waited for."""


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    if not available():
        pytest.skip("needs root, to give servers an /etc/hosts of their own")
    with ApiServer(controllers=CONTROLLERS) as server:
        yield server


@pytest.fixture
async def kube(api_server: ApiServer) -> AsyncIterator[Kube]:
    """Return an administrator's connection; the definitions and the operator's namespace are there."""
    async with Kube(await configuration(str(api_server.kubeconfig))) as kube:
        for path in sorted((ROOT / "crds").iterdir()):
            definition = yaml.safe_load(path.read_text())
            await ask(
                kube,
                "patch",
                f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}",
                definition,
                content_type="application/apply-patch+yaml",
                field_manager="tests",
            )
        await eventually(lambda: serves(kube))
        await make_namespace(kube, SYSTEM)
        yield kube


@pytest.fixture
async def namespace(kube: Kube, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Return a namespace of its own for each test; all in it is deleted in the end."""
    name = f"test-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    await make_namespace(kube, name)
    yield name
    clusters, _ = await kube.list("MemoryCluster", name)
    for each in clusters:
        with contextlib.suppress(Exception):
            await kube.delete("MemoryCluster", name, each["metadata"]["name"], uid=each["metadata"]["uid"])
    await ask(kube, "delete", f"/api/v1/namespaces/{name}", {})


@pytest.fixture
async def kubelet(kube: Kube, tmp_path: Path, namespace: str) -> AsyncIterator[Kubelet]:
    async with Kubelet(kube, tmp_path) as kubelet:
        yield kubelet


@dataclass
class Operator:
    """The operator's process."""

    kubeconfig: Path
    output: Path
    options: tuple[str, ...] = ()
    module: str = "memorycluster_operator"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        arguments = ["--kubeconfig", str(self.kubeconfig), "--namespace", SYSTEM, *self.options]
        arguments += ["--health-host", "127.0.0.1", "--health-port", str(self.port)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def stop(self) -> int:
        """End it in order, and return its exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def probe(self, path: str) -> tuple[int, str]:
        """Return what it answers at a path; (0, "") if it does not."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""

    async def leads(self) -> bool:
        """Say whether it holds the lease and works."""
        return (await self.metrics()).get("memorycluster_leading", {}).get("", 0) == 1

    async def metrics(self) -> dict[str, dict[str, float]]:
        """Return its counters: of each name, by labels, like ``code=200,kind=Pod,verb=get``."""
        _, text = await self.probe("/metrics")
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    async def api_calls(self) -> dict[str, float]:
        """Return how many requests it has made, by verb, kind and code; the lease's and audits' left out."""
        calls = (await self.metrics()).get("memorycluster_api_calls_total", {})
        return {
            key: value
            for key, value in calls.items()
            if "kind=Lease" not in key and not key.endswith(("verb=list", "verb=discover"))
        }

    @property
    def lines(self) -> str:
        """What it has logged."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


@dataclass
class Operators:
    """Makes operators, and ends them."""

    kubeconfig: Path
    directory: Path
    made: list[Operator] = field(default_factory=list)

    def start(self, *options: str, kubeconfig: Path | None = None) -> Operator:
        """Start another operator."""
        output = self.directory / f"operator-{len(self.made)}.log"
        operator = Operator(kubeconfig or self.kubeconfig, output, options)
        self.made.append(operator)
        operator.start()
        return operator


@pytest.fixture
def operators(api_server: ApiServer, kube: Kube, tmp_path: Path) -> Iterator[Operators]:
    operators = Operators(api_server.kubeconfig, tmp_path)
    yield operators
    for each in operators.made:
        if each.process is not None and each.process.poll() is None:
            each.stop()  # in order, so that the next test's need not wait for the lease
        print(f"--- {each.output.name}\n{each.lines[-6000:]}")
        assert "Traceback" not in each.lines, f"{each.output.name} has tracebacks"


@pytest.fixture
async def operator(operators: Operators) -> Operator:
    """Return an operator that works."""
    operator = operators.start()
    await eventually(operator.leads)
    return operator


def manifest(namespace: str, name: str = "orders", **spec: Any) -> dict[str, Any]:
    """Return a MemoryCluster."""
    return {
        "apiVersion": "memorycluster.io/v1alpha1",
        "kind": "MemoryCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicasPerShard": 2, "log": {"maxBytes": "64Mi"}, **spec},
    }


async def status(kube: Kube, namespace: str, name: str = "orders") -> dict[str, Any]:
    """Return a MemoryCluster's status."""
    found = await kube.get("MemoryCluster", namespace, name)
    return (found or {}).get("status") or {}


async def phase(kube: Kube, namespace: str, name: str = "orders") -> str:
    """Return a MemoryCluster's phase."""
    return str((await status(kube, namespace, name)).get("phase", ""))


async def settled(kube: Kube, namespace: str, name: str = "orders") -> dict[str, Any] | None:
    """Return a MemoryCluster once it is ready; see ``ready``."""
    return await kube.get("MemoryCluster", namespace, name) if await ready(kube, namespace, name) else None


async def ready(kube: Kube, namespace: str, name: str = "orders") -> bool:
    """Say whether a MemoryCluster is Ready in its newest generation, and nothing goes on."""
    found = await kube.get("MemoryCluster", namespace, name)
    said = (found or {}).get("status") or {}
    conditions = {each["type"]: each["status"] for each in said.get("conditions", [])}
    return bool(
        found
        and said.get("phase") == "Ready"
        and said.get("observedGeneration") == found["metadata"]["generation"]
        and conditions.get("Progressing") == "False"
    )


async def ask(kube: Kube, method: str, where: str, body: Any = None, **arguments: Any) -> Any:
    """Ask the API server what ``Kube`` does not."""
    return await kube._client.request(method, where, body=body, serializer=lambda _, data: data, **arguments)


async def change(kube: Kube, namespace: str, spec: dict[str, Any], name: str = "orders") -> None:
    """Change a MemoryCluster's spec."""
    await kube.patch("MemoryCluster", namespace, name, {"spec": spec})


async def pods(kube: Kube, namespace: str, component: str) -> dict[str, dict[str, Any]]:
    """Return the pods of a component, by name."""
    found, _ = await kube.list("Pod", namespace, labels=f"app.kubernetes.io/component={component}")
    return {each["metadata"]["name"]: each for each in found}


async def serves(kube: Kube) -> bool:
    """Say whether our objects can be listed: a moment after their definition is there, they can."""
    try:
        await kube.list("MemoryCluster")
        await kube.list("MemorySnapshot")
    except ApiException as error:
        if error.status not in (404, 429):
            raise
        return False
    return True


async def make_namespace(kube: Kube, name: str) -> None:
    """Make a namespace, if it is not there."""
    await ask(
        kube,
        "patch",
        f"/api/v1/namespaces/{name}",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        content_type="application/apply-patch+yaml",
        field_manager="tests",
    )


async def eventually(what: Callable[[], Awaitable[Any]], within: float = WITHIN) -> Any:
    """Return what ``what`` returns once that is true."""
    deadline = time.monotonic() + within
    while not (found := await what()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {within:.0f} s: {getattr(what, '__name__', what)}; last: {found!r}"
            )
        await asyncio.sleep(0.1)
    return found
