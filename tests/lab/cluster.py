"""A kind cluster: a control plane and three workers, each in a zone of its own.

``MEMORYCLUSTER_KUBECONFIG`` names another cluster to use instead (one with nodes in three zones);
``MEMORYCLUSTER_NODE_IMAGE`` another image for kind's nodes. ``MEMORYCLUSTER_LAB_CNI=cilium`` means another
lab, whose network is Cilium's.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from tests.lab import cache
from tests.lab.docker import docker, ensure, environment
from tests.lab.node import cilium_node_image, node_image
from tests.lab.programs import LabError, program

KUBECONFIG_VARIABLE = "MEMORYCLUSTER_KUBECONFIG"
NODE_IMAGE_VARIABLE = "MEMORYCLUSTER_NODE_IMAGE"
CNI_VARIABLE = "MEMORYCLUSTER_LAB_CNI"
ZONE_LABEL = "topology.kubernetes.io/zone"
READY_WITHIN = 300
"""Seconds until all nodes and the cluster's own pods are ready; about 40 on two busy cores."""
BACK_WITHIN = 120
"""The same, for nodes that were stopped; after that the cluster is made anew."""
INOTIFY_INSTANCES = 1024
"""Four nodes use some 70; the kernel's default is 128 for everything of a user."""


class Lab:
    """The cluster, whether it is there already or not."""

    def __init__(self) -> None:
        self.cilium = os.environ.get(CNI_VARIABLE) == "cilium"
        self.name = "memorycluster-cilium" if self.cilium else "memorycluster"
        given = os.environ.get(KUBECONFIG_VARIABLE)
        self.given = given is not None
        """Whether it is somebody else's: neither made nor removed here."""
        self.kubeconfig = Path(given) if given else cache.directory() / f"{self.name}.kubeconfig"

    def node_image(self) -> str:
        """Return the tag of the image of its nodes, built now if there is none. Needs docker (``ensure``)."""
        given = os.environ.get(NODE_IMAGE_VARIABLE)
        return given or (cilium_node_image() if self.cilium else node_image())

    def up(self) -> None:
        """Make the cluster be there and ready: it is started, or made anew, only if need be."""
        if not self.given:
            ensure()
            with cache.lock(f"cluster-{self.name}"):
                self._up()

    def down(self) -> None:
        """Remove the cluster; docker and what took long to make stay."""
        if self.given:
            raise LabError(f"{self.kubeconfig} is not the lab's to remove")
        ensure()
        self._kind("delete", "cluster")

    def exists(self) -> bool:
        """Return whether there is such a cluster already, running or not. Needs docker (``ensure``)."""
        return self.given or bool(self._nodes())

    def zones(self) -> dict[str, str]:
        """Return the zone of each node that has one."""
        nodes = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        labels = {node["metadata"]["name"]: node["metadata"]["labels"] for node in nodes}
        return {name: each[ZONE_LABEL] for name, each in labels.items() if ZONE_LABEL in each}

    def load_image(self, *tags: str, everywhere: bool = False) -> None:
        """Copy images from docker into every worker that has not got them yet.

        :param everywhere: into the control plane too, which no fault of a zone hits.
        """
        if self.given:
            raise LabError(f"push the images to where the nodes of {self.kubeconfig} can pull them")
        nodes = self._nodes() if everywhere else self.zones()
        self._kind("load", "docker-image", *tags, "--nodes", ",".join(nodes))

    def kill_node(self, name: str) -> None:
        """End all of a node's processes at once, as a power cut does."""
        self._is_ours(name)
        docker("kill", name)

    def start_node(self, name: str) -> None:
        """Start a node that was killed; it comes back by itself."""
        self._is_ours(name)
        docker("start", name)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl; return what it prints. LabError if it fails."""
        done = subprocess.run(
            [program("kubectl"), "--kubeconfig", self.kubeconfig, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"kubectl {' '.join(arguments[:8])} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def _up(self) -> None:
        _raise_inotify_limit()
        given, image = bool(os.environ.get(NODE_IMAGE_VARIABLE)), self.node_image()
        nodes = self._nodes()
        used = {docker("inspect", "-f", "{{.Config.Image}}", node) for node in nodes}
        if nodes and not given and used != {image}:
            cache.say(f"cluster {self.name} is of other images: making it anew")
            self._kind("delete", "cluster")
            nodes = []
        if nodes:
            states = docker("inspect", "-f", "{{.State.Running}}", *nodes).split()
            docker("start", *nodes)  # those that run are left alone
            self._kind("export", "kubeconfig")
            try:
                self._await_ready(BACK_WITHIN, heard_of=nodes if "false" in states else ())
            except LabError as problem:
                cache.say(f"cluster {self.name} does not come back: making it anew ({problem})")
                self._kind("delete", "cluster")
            else:
                return
        cache.say(f"creating cluster {self.name}")
        config: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "node/kind.yaml").read_text())
        for node in config["nodes"]:
            node["image"] = image
        self._kind("create", "cluster", "--config", "-", stdin=yaml.safe_dump(config))
        self._await_ready(READY_WITHIN)

    def _await_ready(self, seconds: float, heard_of: Sequence[str] = ()) -> None:
        """Wait until all is ready, nodes and the cluster's own pods.

        :param heard_of: nodes that must have reported anew: what is known of them may be from before.
        """
        deadline = time.monotonic() + seconds
        begin = datetime.now(UTC)
        while True:  # until the API server answers
            try:
                self.kubectl("get", "--raw", "/readyz")
                break
            except LabError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        while not all(self._reported(node, begin) for node in heard_of):
            if time.monotonic() > deadline:
                raise LabError("not all nodes report")
            time.sleep(0.5)
        left = f"--timeout={max(1, int(deadline - time.monotonic()))}s"
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", left)
        for namespace in ("kube-system", "local-path-storage"):
            found = self.kubectl("get", "deployments,daemonsets", "-n", namespace, "-o", "name").split()
            for each in found:
                self.kubectl("rollout", "status", each, "-n", namespace, left)

    def _reported(self, node: str, since: datetime) -> bool:
        lease = ("get", "lease", node, "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}")
        try:
            return datetime.fromisoformat(self.kubectl(*lease)) > since
        except LabError:
            return False

    def _nodes(self) -> list[str]:
        label = f"label=io.x-k8s.kind.cluster={self.name}"
        return docker("ps", "-a", "--filter", label, "--format", "{{.Names}}").split()

    def _is_ours(self, node: str) -> None:
        if node not in self._nodes():
            raise LabError(f"{node} is no node of the lab's cluster {self.name}")

    def _kind(self, *arguments: str, stdin: str | None = None) -> None:
        command: Sequence[str | Path] = (program("kind"), *arguments, "--name", self.name)
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env={**environment(), "KUBECONFIG": str(self.kubeconfig)},
            check=False,
        )
        if done.returncode:
            raise LabError(f"kind {' '.join(arguments[:3])} failed:\n{done.stderr[-4000:]}")


def _raise_inotify_limit() -> None:
    """Let four nodes have the inotify instances that they need; as root only."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < INOTIFY_INSTANCES and os.geteuid() == 0:
        limit.write_text(str(INOTIFY_INSTANCES))
