"""Watches pods, so that what was true for a moment only is seen too."""

from __future__ import annotations

import json
import subprocess
import threading
from types import TracebackType
from typing import Any

from tests.e2e.cluster import Cluster, ready


class Watch:
    """Every state of a cluster's engine pods, from entering to leaving the context."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pods: dict[str, dict[str, Any]] = {}
        self.unready: dict[str, set[str]] = {}
        """Of each shard: the largest set of pods that were gone or not ready at one time."""
        self.seen = threading.Event()

    def __enter__(self) -> Watch:
        names = self._cluster.pods("engine")
        self._expected = {pod["metadata"]["name"]: pod["metadata"]["labels"] for pod in names}
        command = [*self._cluster.kube.kubectl, "get", "pods", "-n", self._cluster.namespace]
        command += ["-l", f"memorycluster.io/cluster={self._cluster.name},app.kubernetes.io/component=engine"]
        command += ["--watch", "--output-watch-events", "-o", "json"]
        self._process = subprocess.Popen(
            command, env=self._cluster.kube.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        assert self.seen.wait(30), "kubectl get --watch says nothing"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._thread.join(10)

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            pod = event["object"]
            name = pod["metadata"]["name"]
            if event["type"] == "DELETED":
                self._pods.pop(name, None)
            else:
                self._pods[name] = pod
            if self._expected.keys() <= self._pods.keys():
                self.seen.set()
            if self.seen.is_set():
                self._judge()

    def _judge(self) -> None:
        by_shard: dict[str, set[str]] = {}
        for name, labels in self._expected.items():
            pod = self._pods.get(name)
            if pod is None or not ready(pod):
                by_shard.setdefault(labels["memorycluster.io/shard"], set()).add(name)
        for shard, names in by_shard.items():
            if len(names) > len(self.unready.get(shard, ())):
                self.unready[shard] = names
