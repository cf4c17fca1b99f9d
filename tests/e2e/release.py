"""The operator, as its administrator installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from tests.e2e.kube import OPERATOR, Kube
from tests.lab.images import Images
from tests.lab.programs import program

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "memorycluster-operator"
MANIFEST = ROOT / "deploy" / "memorycluster-operator.yaml"
RELEASE = "memorycluster"
DEPLOYMENT = "deployment"


class Operator:
    """The operator in its namespace."""

    def __init__(self, kube: Kube, images: Images, namespace: str) -> None:
        self._kube = kube
        self._images = images
        self.namespace = namespace

    def install(self) -> None:
        """`helm install`, and wait until it is ready."""
        self._helm("upgrade", "--install", RELEASE, str(CHART), "--create-namespace", *self._values())

    def upgrade(self) -> None:
        """`helm upgrade` to a chart whose operator pod differs."""
        self._helm("upgrade", RELEASE, str(CHART), *self._values(), "--set", "podAnnotations.upgraded=yes")

    def uninstall(self) -> None:
        """`helm uninstall`, if it is installed, and wait until its pods are gone."""
        self._helm("uninstall", RELEASE, "--ignore-not-found", "--wait")
        self._kube.until_holds(lambda: ", ".join(self._pods()), "the operator's pods gone")

    @contextmanager
    def from_manifest(self) -> Iterator[None]:
        """Have it installed without Helm instead: `kubectl apply -f crds/ -f deploy/`, but with our image."""
        objects = [each for each in yaml.safe_load_all(MANIFEST.read_text()) if each]
        for each in objects:
            if each["kind"] == "Deployment":
                [container] = each["spec"]["template"]["spec"]["containers"]
                container["image"] = self._images.operator
        self._kube("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
        self._kube.apply(*objects, namespace=self.namespace)
        try:
            self._ready()
            yield
        finally:
            mine = [each for each in objects if each["kind"] != "Namespace"]
            self._kube("delete", "-f", "-", stdin=yaml.safe_dump_all(mine))

    def scale(self, replicas: int) -> None:
        """Run as many operators, and wait until they do."""
        [name] = self._kube("get", DEPLOYMENT, "-n", self.namespace, "-l", OPERATOR, "-o", "name").split()
        self._kube("scale", name, "-n", self.namespace, f"--replicas={replicas}")
        self._kube.until(lambda: len(self._pods()) == replicas, f"{replicas} operators, not {self._pods()}")
        if replicas:
            self._ready()

    @contextmanager
    def down(self) -> Iterator[None]:
        """No operator runs meanwhile."""
        self.scale(0)
        try:
            yield
        finally:
            self.scale(1)

    def kill(self) -> None:
        """Kill its pod; its Deployment makes another."""
        self._kube.delete("pod", *self._pods(), namespace=self.namespace, force=True)

    def pod(self) -> str:
        """Return the name of its pod."""
        [name] = self._pods()
        return name

    def active(self) -> str:
        """Return the name of the pod that holds the Lease, once there is one."""

        def holder() -> str:
            leases = self._kube.select("leases.coordination.k8s.io", self.namespace)
            holders = [lease["spec"].get("holderIdentity") or "" for lease in leases]
            return next((pod for pod in self._pods() for each in holders if pod in each), "")

        return self._kube.until(holder, "an active operator")

    def _pods(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self._kube.select("pods", self.namespace, OPERATOR)]

    def _ready(self) -> None:
        self._kube(
            *("rollout", "status", DEPLOYMENT, "-n", self.namespace, "-l", OPERATOR, "--timeout=90s"),
            seconds=100,
        )

    def _values(self) -> list[str]:
        return ["--set", f"image={self._images.operator}"]

    def _helm(self, *arguments: str) -> str:
        return self._kube.command(str(program("helm")), *arguments, "-n", self.namespace, seconds=120)
