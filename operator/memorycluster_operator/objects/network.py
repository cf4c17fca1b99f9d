"""How a cluster is reached, by whom, and how many of its pods may be missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memorycluster_operator.objects import log, names
from memorycluster_operator.objects.engine import PORTS
from memorycluster_operator.objects.inputs import Inputs
from memorycluster_operator.objects.names import ROLE_LABEL, make
from memorycluster_operator.objects.store import store_egress, store_of
from memorycluster_operator.snapshot import Component, Key, Manifest


def services(inputs: Inputs) -> Iterator[tuple[Key, Manifest]]:
    """Yield the Services: for clients, for the primary and the replicas, and the nodes' names."""
    engines = names.selector(inputs.name, Component.ENGINE)
    clients = {"clients": PORTS.clients}
    yield _service(inputs, "", Component.ENGINE, engines, clients)
    if inputs.spec.shards == 1:
        yield _service(inputs, "-primary", Component.ENGINE, {**engines, ROLE_LABEL: "primary"}, clients)
    yield _service(inputs, "-replicas", Component.ENGINE, {**engines, ROLE_LABEL: "replica"}, clients)
    all_ports = {"clients": PORTS.clients, "bus": PORTS.bus, "api": PORTS.api}
    yield _service(inputs, "-nodes", Component.ENGINE, engines, all_ports, headless=True)
    members = names.selector(inputs.name, Component.LOG)
    yield _service(inputs, "-log", Component.LOG, members, log.PORTS, headless=True)


def _service(
    inputs: Inputs,
    ending: str,
    component: Component,
    selector: Mapping[str, str],
    ports: Mapping[str, int],
    *,
    headless: bool = False,
) -> tuple[Key, Manifest]:
    key = Key("Service", inputs.name + ending)
    spec: dict[str, Any] = {
        "selector": selector,
        "ports": [
            {"name": name, "port": port, "targetPort": port, "protocol": "TCP"}
            for name, port in ports.items()
        ],
    }
    if headless:
        # Nodes find each other before they are ready, or they never would be.
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return key, make(inputs.cluster, key, component=component, spec=spec)


def disruption_budgets(inputs: Inputs) -> Iterator[tuple[Key, Manifest]]:
    """Yield the PodDisruptionBudgets: one pod of each shard, and of the log, may be missing.

    None may while a node is frozen: its memory, and the log's, may be all there is of what was acknowledged.
    """
    for shard in range(inputs.spec.shards):
        key = Key("PodDisruptionBudget", f"{inputs.name}-{shard}")
        yield _budget(inputs, key, Component.ENGINE, shard, may_miss=0 if shard in inputs.frozen else 1)
    key = Key("PodDisruptionBudget", f"{inputs.name}-log")
    yield _budget(inputs, key, Component.LOG, None, may_miss=0 if inputs.frozen else 1)


def _budget(
    inputs: Inputs, key: Key, component: Component, shard: int | None, *, may_miss: int
) -> tuple[Key, Manifest]:
    selector = {"matchLabels": names.selector(inputs.name, component, shard)}
    spec = {"maxUnavailable": may_miss, "selector": selector}
    return key, make(inputs.cluster, key, component=component, shard=shard, spec=spec)


def network_policies(inputs: Inputs) -> Iterator[tuple[Key, Manifest]]:
    """Yield the NetworkPolicies: nothing reaches a pod, or is reached by one, but what is listed here."""
    engines = _pods(names.selector(inputs.name, Component.ENGINE))
    members = _pods(names.selector(inputs.name, Component.LOG))
    operator = {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": inputs.settings.operator_namespace}
        },
        **_pods(inputs.settings.operator_labels),
    }
    store = store_of(inputs.spec)
    makings = _pods(names.selector(inputs.name, Component.SNAPSHOT))
    to_store = store_egress(store) if store else []
    restoring = [_pods(names.selector(each, Component.SNAPSHOT)) for each in inputs.readers]
    restore = inputs.spec.restore_from
    to_source = []
    if restore is not None and restore.store.chosen:
        to_source += store_egress(restore.store)
    elif restore is not None and inputs.source_store is not None and inputs.source_store.chosen:
        to_source += store_egress(inputs.source_store)
    if restore is not None and restore.cluster and (restore.time or not restore.store.chosen):
        theirs = _pods(names.selector(restore.cluster, Component.LOG))
        to_source.append(_rule("to", [theirs], log.PORTS["clients"]))
    clients = [peer.as_written() for peer in inputs.spec.network_policy.peers]
    yield _policy(
        inputs,
        Component.ENGINE,
        ingress=[
            *([_rule("from", clients, PORTS.clients)] if clients else []),
            _rule("from", [engines], PORTS.clients, PORTS.bus),
            _rule("from", [operator, *([makings] if store else [])], PORTS.api),
        ],
        egress=[
            _rule("to", [engines], PORTS.clients, PORTS.bus),
            _rule("to", [members], log.PORTS["clients"]),
            _DNS,
            *to_store,
        ],
    )
    yield _policy(
        inputs,
        Component.LOG,
        ingress=[
            _rule("from", [engines, *([makings] if store else []), *restoring], log.PORTS["clients"]),
            _rule("from", [members], log.PORTS["routes"], log.PORTS["monitor"]),
            _rule("from", [operator], log.PORTS["clients"], log.PORTS["monitor"]),
        ],
        # A member whose copy is made anew asks the others first if they have everything.
        egress=[_rule("to", [members], log.PORTS["routes"], log.PORTS["monitor"]), _DNS],
    )
    if store:
        yield _policy(
            inputs,
            Component.SNAPSHOT,
            ingress=[_rule("from", [operator], PORTS.api)],
            egress=[
                _rule("to", [members], log.PORTS["clients"]),
                _rule("to", [engines], PORTS.api),
                _DNS,
                *to_store,
                *to_source,
            ],
        )


_DNS: Mapping[str, Any] = {
    "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
}
"""Wherever the DNS servers are: some clusters have them on the nodes."""


def _policy(
    inputs: Inputs,
    component: Component,
    *,
    ingress: Sequence[Mapping[str, Any]],
    egress: Sequence[Mapping[str, Any]],
) -> tuple[Key, Manifest]:
    key = Key("NetworkPolicy", f"{inputs.name}-{component}")
    spec = {
        "podSelector": {"matchLabels": names.selector(inputs.name, component)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": list(ingress),
        "egress": list(egress),
    }
    return key, make(inputs.cluster, key, component=component, spec=spec)


def _pods(labels: Mapping[str, str]) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": dict(labels)}}


def _rule(direction: str, peers: Sequence[Mapping[str, Any]], *ports: int) -> dict[str, Any]:
    return {direction: list(peers), "ports": [{"port": port, "protocol": "TCP"} for port in ports]}
