"""A client's pod: the load runs in it, and what it saw is judged here."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from tests.e2e.cluster import CLIENTS, Cluster
from tests.e2e.kube import Failed, Kube, Object
from tests.faults.judge import Verdict, judge

ROOT = Path(__file__).parents[2]
PROGRAM = [f"tests/faults/{name}.py" for name in ("history", "operations", "resp", "workload")]
PROGRAM += [f"tests/e2e/{name}.py" for name in ("applications", "load")]
"""The modules that run in the pod."""
WORK = "/work"
WARM_UP = 60.0
"""Seconds within which every shard and every application must have been served, to begin with."""
SERVED_AGAIN = 120.0
"""Seconds within which the same must hold after a fault was healed."""
JUDGED = 150.0
"""Seconds within which the load must have read everything once more."""

SESSION = secrets.token_hex(2)
"""Makes the keys of this session the only ones of their names on a cluster that is older."""
numbers = count()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load saw."""

    verdict: Verdict
    report: dict[str, Any]

    @property
    def pause(self) -> float:
        """Seconds for which some shard acknowledged no write, whoever asked."""
        return float(self.report["pause"])

    @property
    def application_pause(self) -> float:
        """The same as the application saw it that fared worst."""
        return max(map(float, self.report["application_pauses"].values()))

    @property
    def ok(self) -> bool:
        return self.verdict.ok and not self.report["problems"]

    def __str__(self) -> str:
        said = [
            f"{self.verdict}; {self.report['writes']} writes acknowledged",
            f"longest pause of a shard's writes {self.pause:.2f} s; as clients saw it: "
            + ", ".join(
                f"{name} {seconds:.2f} s" for name, seconds in self.report["application_pauses"].items()
            ),
        ]
        said += [f"refused: {number} {code}" for code, number in self.report["refusals"].items()]
        said += [f"applications saw {number} x {error}" for error, number in self.report["errors"].items()]
        return "\n  ".join(said + self.report["problems"])


class Load:
    """The load of one cluster, in a pod of its own, in the cluster's namespace."""

    def __init__(self, cluster: Cluster, image: str, *, seed: int) -> None:
        self._cluster = cluster
        self._image = image
        self._seed = seed
        self.pod = f"load-{SESSION}-{next(numbers)}"

    @property
    def _kube(self) -> Kube:
        return self._cluster.kube

    def start(self) -> None:
        """Start it, and return once every shard and every application is served.

        :raises Failed: if that takes too long.
        """
        self._kube.apply(program(self.pod), self._manifest(), namespace=self._cluster.namespace)
        try:
            self._kube.until_holds(lambda: self._unserved(0), f"{self.pod} served", seconds=WARM_UP)
        except Failed as error:
            namespace = self._cluster.namespace
            said = self._kube("logs", self.pod, "-n", namespace, "--tail=30", check=False)
            raise Failed(f"{error}; {self.pod} says: {said}") from error

    def served_again(self, *, seconds: float = SERVED_AGAIN) -> None:
        """Wait until every shard and every application had a write acknowledged that was sent from now on.

        :raises Failed: if that takes longer than `seconds`.
        """
        moment: int = self._kube.until(self._status, f"{self.pod} says something")["now"]
        self._kube.until_holds(lambda: self._unserved(moment), f"{self.pod} served again", seconds=seconds)

    def finish(self) -> Outcome:
        """Have it read everything once more, and judge what it was told.

        :raises Failed: if it comes to no end.
        """
        self._execute("touch", f"{WORK}/stop")
        report: dict[str, Any] = self._kube.until(
            self._report, f"the report of {self.pod}", seconds=JUDGED, every=1.0
        )
        history = Path(tempfile.gettempdir()) / f"mc-e2e-{self.pod}.jsonl"
        history.write_text(self._read("history.jsonl") or "")
        outcome = Outcome(asyncio.run(judge(history)), report)
        if outcome.ok:
            history.unlink()
        else:
            report["problems"].append(f"the history stays in {history}")
        return outcome

    def delete(self) -> None:
        """Remove the pod."""
        self._kube.delete("pod", self.pod, namespace=self._cluster.namespace, force=True)
        self._kube.delete("configmap", self.pod, namespace=self._cluster.namespace)

    # ---- inside

    def _execute(self, *command: str) -> str:
        namespace = self._cluster.namespace
        try:
            return self._kube.execute(self.pod, *command, namespace=namespace, seconds=30)
        except Failed as error:
            if "completed pod" in str(error):  # no use in waiting
                said = self._kube("logs", self.pod, "-n", namespace, "--tail=20", check=False)
                raise RuntimeError(f"{self.pod} has ended: {said}") from error
            raise

    def _read(self, name: str) -> str:
        return self._execute("sh", "-c", f"cat {WORK}/{name} 2>/dev/null || true")

    def _status(self) -> dict[str, Any] | None:
        return _parsed(self._read("status.json"))

    def _report(self) -> dict[str, Any] | None:
        return _parsed(self._read("report.json"))

    def _unserved(self, moment: int) -> str:
        """Return who has had no write acknowledged that was sent after a moment of the pod's clock."""
        if report := self._report():
            raise RuntimeError(f"{self.pod} has ended: {report['problems']}")
        status = self._status()
        if status is None:
            return "it has not begun"
        waiting = [f"shard {index}" for index, at in enumerate(status["shards"]) if at <= moment]
        waiting += [name for name, at in status["applications"].items() if at <= moment]
        said = {name: what for name, what in status.items() if name not in ("shards", "applications")}
        return f"no write acknowledged to {', '.join(waiting)}; it says {said}" if waiting else ""

    def _manifest(self) -> Object:
        cluster = self._cluster
        given = f"{cluster.service}:6379 {cluster.nodes} {self.pod}- {self._seed} {WORK}"
        # It sleeps in the end, so that what it wrote can still be read.
        command = ["sh", "-c", f"python3 -m tests.e2e.load {given}; sleep infinity"]
        return client_pod(self.pod, self._image, command, program=self.pod)


def _parsed(text: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def program(name: str) -> Object:
    """Return the ConfigMap with the load's modules."""
    data = {path.replace("/", "."): (ROOT / path).read_text() for path in PROGRAM}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def client_pod(
    name: str,
    image: str,
    command: list[str],
    *,
    program: str | None = None,
    labels: dict[str, str] = CLIENTS,
) -> Object:
    """Return a pod that satisfies the restricted Pod Security Standard; faults of workers don't hit it."""
    mounts: list[Object] = [{"name": "work", "mountPath": WORK}]
    volumes: list[Object] = [{"name": "work", "emptyDir": {}}]
    if program:
        items = [{"key": path.replace("/", "."), "path": path} for path in PROGRAM]
        volumes.append({"name": "program", "configMap": {"name": program, "items": items}})
        mounts.append({"name": "program", "mountPath": "/program", "readOnly": True})
    container = {
        "name": "client",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "workingDir": "/program" if program else "/",
        "env": [{"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
    }
    control_plane = {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": [{**control_plane, "effect": "NoSchedule"}],
            "affinity": {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 100, "preference": {"matchExpressions": [control_plane]}}
                    ]
                }
            },
            "containers": [container],
            "volumes": volumes,
        },
    }


@contextmanager
def load(cluster: Cluster, image: str, *, seed: int) -> Iterator[Load]:
    """Run the load of a cluster."""
    one = Load(cluster, image, seed=seed)
    try:
        one.start()
        yield one
    finally:
        one.delete()
