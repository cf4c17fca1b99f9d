"""What the operator is told at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from memorycluster_operator import snapshot

ENGINE_IMAGE = f"memorycluster-engine:{version('memorycluster')}"
LOG_IMAGE = "nats:2.15.1"


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """How one of several operators is chosen. Durations in seconds."""

    name: str = "memorycluster-operator"
    namespace: str = "memorycluster-system"
    duration: float = 30.0
    """An operator that has not renewed it for so long is taken to be gone."""
    deadline: float = 20.0
    """One that could not renew it for so long ends itself."""
    retry: float = 1.0
    """Between two looks at it; it is renewed at every second one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    namespaces: tuple[str, ...] = ()
    """Whose MemoryClusters are looked after; empty: all."""
    watch_nodes: bool = True
    """May Nodes be read? They tell zones, and whether a pod's machine is there."""
    kubeconfig: str | None = None
    """None: the pod's service account, or what kubectl would use."""
    elect: bool = True
    """Work only while the lease is held."""
    lease: LeaseSettings = LeaseSettings()
    health_host: str | None = None
    """Where probes and metrics are served; None: on all addresses."""
    health_port: int = 8081
    engine_image: str = ENGINE_IMAGE
    log_image: str = LOG_IMAGE
    cluster_domain: str = "cluster.local"
    operator_namespace: str = "memorycluster-system"
    operator_labels: Mapping[str, str] = field(
        default_factory=lambda: {"app.kubernetes.io/name": "memorycluster-operator"}
    )
    """Of the operator's own pods: network policies let them in."""

    @property
    def facts(self) -> snapshot.Settings:
        """What plans depend on."""
        return snapshot.Settings(
            engine_image=self.engine_image,
            log_image=self.log_image,
            cluster_domain=self.cluster_domain,
            operator_namespace=self.operator_namespace,
            operator_labels=self.operator_labels,
        )


def parse_labels(text: str) -> dict[str, str]:
    """Return the labels in ``a=b,c=d``."""
    return dict(each.strip().split("=", 1) for each in text.split(",") if "=" in each)
