"""Where the tests run: our own lab, or the cluster that MEMORYCLUSTER_KUBECONFIG names.

That one must have nodes in three zones, and be able to pull our images. MEMORYCLUSTER_TEST_IMAGES names them:
{"engine": ..., "next_engine": ..., "operator": ..., "log": ..., "client": ...}. For the lab they are built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.e2e.cluster import CLIENTS, Cluster, merged
from tests.e2e.kube import Kube, condition
from tests.lab.cluster import Lab
from tests.lab.images import Images, images

SMALL = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
"""Resources of each container: many of them share the lab's machine."""
IMAGES_VARIABLE = "MEMORYCLUSTER_TEST_IMAGES"
NODE_BACK = 120.0
"""Seconds within which a node that was started again must be ready."""


@dataclass(slots=True)
class Site:
    """A Kubernetes cluster with nodes in three zones, and our images."""

    lab: Lab
    kube: Kube
    images: Images
    system: str = "memorycluster-system"
    """The operator's namespace."""

    @classmethod
    def find(cls) -> Site:
        """Return the cluster that is given, else our own, brought up first if need be."""
        lab = Lab()
        lab.up()
        named = os.environ.get(IMAGES_VARIABLE)
        assert named or not lab.given, f"{IMAGES_VARIABLE} must name images that this cluster can pull"
        ours = Images(**json.loads(named)) if named else images()
        if not lab.given:
            lab.load_image(*ours.all)
            lab.load_image(ours.client, everywhere=True)
        return cls(lab, Kube(lab.kubeconfig), ours)

    def cluster(self, namespace: str, name: str, **spec: Any) -> Cluster:
        """Return a MemoryCluster of this spec, with our images, for the load's clients; not applied yet."""
        basic = {
            "engine": {
                "image": self.images.engine,
                "imagePullPolicy": "IfNotPresent",
                "resources": SMALL,
                "agentResources": SMALL,
            },
            "log": {"image": self.images.log, "maxBytes": "256Mi", "resources": SMALL},
            "networkPolicy": {"from": [{"podSelector": {"matchLabels": CLIENTS}}]},
        }
        return Cluster(self.kube, namespace, name, merged(basic, spec))

    @contextmanager
    def dead(self, node: str) -> Iterator[None]:
        """Kill a node, with all that runs on it; start it again in the end, and wait until it is ready."""
        if self.lab.given:
            pytest.skip("nodes of a cluster that was given are not ours to kill")
        self.lab.kill_node(node)
        try:
            yield
        finally:
            self.lab.start_node(node)
            self.kube.until_holds(lambda: self._unready(node), f"{node} ready", seconds=NODE_BACK)

    def _unready(self, node: str) -> str:
        found = condition(self.kube.get("node", node), "Ready")
        # Until kubelet reports again, the condition says what was before: its heartbeat tells them apart.
        return "" if found.get("status") == "True" else f"Ready is {found.get('status')}"
