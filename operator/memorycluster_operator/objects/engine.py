"""A shard's engine pods, and the configuration that they read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memorycluster.pod import config as pod
from memorycluster_operator.identity import Identity
from memorycluster_operator.objects import names
from memorycluster_operator.objects.inputs import Inputs
from memorycluster_operator.objects.log import LOG_USER, member_host
from memorycluster_operator.objects.log import PORTS as LOG_PORTS
from memorycluster_operator.objects.names import make
from memorycluster_operator.objects.pods import container, from_pod, pod_spec, probe
from memorycluster_operator.objects.store import (
    identity_labels,
    store_env,
    store_mounts,
    store_of,
    store_volumes,
)
from memorycluster_operator.objects.template import digest, template_hash
from memorycluster_operator.snapshot import Component, Key, Manifest

PORTS = pod.Ports()
ENGINE, AGENT = "engine", "agent"
"""The containers' names."""

AGENT_REQUESTS = {"cpu": "50m", "memory": "96Mi"}
"""What an agent asks for where the spec says nothing."""


def parameters_revision(parameters: Mapping[str, str]) -> str:
    """Return the name of a set of engine parameters: the same for the same set."""
    return digest(dict(sorted(parameters.items())))


def config_map(inputs: Inputs, identity: Identity) -> tuple[Key, Manifest]:
    """Return the ConfigMap that tells every engine pod what the cluster is."""
    spec, cluster, domain = inputs.spec, inputs.cluster, inputs.settings.cluster_domain
    members = range(len(spec.zones))
    config = pod.ClusterConfig(
        cluster=cluster.name,
        namespace=cluster.namespace,
        uid=str(identity.uid),
        domain=names.host(cluster, f"{cluster.name}-nodes", domain),
        shards=tuple(pod.ShardConfig(generation=shard.generation) for shard in identity.shards),
        nodes_per_shard=inputs.nodes_per_shard or spec.nodes_per_shard,
        zones=spec.zones,
        log=pod.LogConfig(
            servers=tuple(f"nats://{member_host(inputs, each)}:{LOG_PORTS['clients']}" for each in members),
            user=LOG_USER,
        ),
        lease=spec.failover.lease,
        engine=pod.EngineConfig(
            io_threads=spec.engine.io_threads,
            parameters=dict(spec.engine.parameters),
            revision=parameters_revision(spec.engine.parameters),
        ),
        snapshots=store.as_written() if (store := store_of(spec)) else None,
    )
    key = names.config_key(inputs.name)
    return key, make(cluster, key, data={pod.CLUSTER_FILE.rpartition("/")[2]: config.dump()})


def shard_stateful_set(inputs: Inputs, shard: int) -> tuple[Key, Manifest]:
    """Return the StatefulSet of a shard's nodes."""
    key = names.shard_set(inputs.name, shard)
    labels = {**names.labels(inputs.name, Component.ENGINE, shard), **identity_labels(store_of(inputs.spec))}
    default = inputs.images.engine_default
    manifest = make(
        inputs.cluster,
        key,
        component=Component.ENGINE,
        shard=shard,
        spec={
            "replicas": inputs.replicas.get(shard, inputs.spec.nodes_per_shard),
            "serviceName": f"{inputs.name}-nodes",
            # The operator chooses which pod is replaced when. None of them waits for another to start.
            "updateStrategy": {"type": "OnDelete"},
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": names.selector(inputs.name, Component.ENGINE, shard)},
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {names.TEMPLATE_ANNOTATION: template_hash(inputs, Component.ENGINE)},
                },
                "spec": _pod(inputs, shard),
            },
        },
    )
    if default:
        manifest["metadata"]["annotations"] = {names.DEFAULT_IMAGE_ANNOTATION: default}
    return key, manifest


def _pod(inputs: Inputs, shard: int) -> dict[str, Any]:
    selector = {"matchLabels": names.selector(inputs.name, Component.ENGINE, shard)}
    return pod_spec(
        inputs,
        # The agent holds on to the engine's process (pidfd) and ends it.
        shareProcessNamespace=True,
        topologySpreadConstraints=[
            _spread("topology.kubernetes.io/zone", "DoNotSchedule", selector),
            _spread("kubernetes.io/hostname", "ScheduleAnyway", selector),
        ],
        containers=[_engine(inputs), _agent(inputs)],
        volumes=[
            {"name": "config", "configMap": {"name": names.config_key(inputs.name).name}},
            {
                "name": "secrets",
                "secret": {"secretName": names.internal_secret(inputs.name).name, "defaultMode": 0o440},
            },
            {
                "name": "pod",
                "downwardAPI": {
                    "items": [
                        {
                            "path": pod.ZONE_FILE.rpartition("/")[2],
                            "fieldRef": {
                                "apiVersion": "v1",
                                "fieldPath": f"metadata.labels['{names.ZONE_LABEL}']",
                            },
                        }
                    ]
                },
            },
            {"name": "run", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            *store_volumes(store_of(inputs.spec)),
        ],
    )


def _engine(inputs: Inputs) -> dict[str, Any]:
    engine = inputs.spec.engine
    return container(
        ENGINE,
        inputs.images.engine,
        engine.image_pull_policy,
        command=["python", "-m", "memorycluster.pod", "engine"],
        env=_ENV,
        ports={"clients": PORTS.clients, "bus": PORTS.bus},
        mounts=_MOUNTS,
        resources=engine.resources.as_written(),
        # No liveness probe: an engine that has ended is started again in the container, one that hangs loses
        # its lease and is ended by its agent, and a frozen one may hold the only copy of acknowledged data.
        probes={"startupProbe": probe(tcp=PORTS.clients, period=2, failures=60)},
    )


def _agent(inputs: Inputs) -> dict[str, Any]:
    engine = inputs.spec.engine
    resources = engine.agent_resources.as_written() or {"requests": AGENT_REQUESTS}
    return container(
        AGENT,
        inputs.images.engine,
        engine.image_pull_policy,
        command=["python", "-m", "memorycluster.pod", "agent"],
        env=[*_ENV, *store_env(store_of(inputs.spec))],
        ports={"api": PORTS.api},
        mounts=[*_MOUNTS, *store_mounts(store_of(inputs.spec))],
        resources=resources,
        probes={
            "startupProbe": probe(http=("/livez", PORTS.api), period=2, failures=60),
            "livenessProbe": probe(http=("/livez", PORTS.api), period=10, failures=6),
            # It serves as primary, or has caught up as replica.
            "readinessProbe": probe(http=("/readyz", PORTS.api), period=2, failures=2),
        },
    )


_ENV = [from_pod(pod.POD_NAME, "metadata.name"), from_pod(pod.POD_IP, "status.podIP")]
_MOUNTS: list[dict[str, Any]] = [
    {"name": "config", "mountPath": f"{pod.CONFIG_DIR}/config", "readOnly": True},
    {"name": "secrets", "mountPath": f"{pod.CONFIG_DIR}/{pod.SECRETS}", "readOnly": True},
    {"name": "pod", "mountPath": f"{pod.CONFIG_DIR}/pod", "readOnly": True},
    {"name": "run", "mountPath": str(pod.RUN_DIR)},
    {"name": "tmp", "mountPath": "/tmp"},
]


def _spread(topology: str, otherwise: str, selector: Manifest) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": topology,
        "whenUnsatisfiable": otherwise,
        "labelSelector": selector,
    }
