"""The log service: a NATS server in each zone, with a volume of its own."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from memorycluster.log.server import (
    ADDRESS_VARIABLE,
    NAME_VARIABLE,
    TAG_VARIABLE,
    ZONE_TAG,
    Server,
    service_conf,
)
from memorycluster_operator.objects import names
from memorycluster_operator.objects.credentials import make_secret
from memorycluster_operator.objects.inputs import Credentials, Heal, Inputs
from memorycluster_operator.objects.names import make
from memorycluster_operator.objects.pods import container, from_pod, pod_spec, probe
from memorycluster_operator.objects.template import template_hash
from memorycluster_operator.snapshot import Component, Key, Manifest

PORTS = {"clients": 4222, "routes": 6222, "monitor": 8222}
LOG_USER = "memorycluster"
CONTAINER = "log"
CONF = "server.conf"
DATA = "data"
"""Name of the volume, and of the claims' prefix."""

_DATA_DIR = Path("/data")

REQUESTS = {"cpu": "100m", "memory": "128Mi"}
"""What a member asks for where the spec says nothing."""


def member_host(inputs: Inputs, index: int) -> str:
    """Return the DNS name of a member."""
    service = names.host(inputs.cluster, f"{inputs.name}-log", inputs.settings.cluster_domain)
    return f"{names.member_name(inputs.name, index)}.{service}"


def log_secret(inputs: Inputs, credentials: Credentials) -> tuple[Key, Manifest]:
    """Return the Secret with the configuration of all members."""
    key = names.log_secret(inputs.name)
    # Members see their configuration alone; the rest is a second copy, should the other Secret get lost.
    conf = _service_conf(inputs, credentials)
    return key, make_secret(inputs, key, credentials, **{CONF: conf})


def _service_conf(inputs: Inputs, credentials: Credentials) -> str:
    """Return the configuration of all members: what differs is in each one's environment."""
    service = [
        Server(
            names.member_name(inputs.name, index),
            zone,
            member_host(inputs, index),
            PORTS["clients"],
            PORTS["routes"],
            PORTS["monitor"],
        )
        for index, zone in enumerate(inputs.spec.zones)
    ]
    return service_conf(
        service,
        cluster=inputs.name,
        data_dir=_DATA_DIR,
        user=LOG_USER,
        password=credentials.log_password,
        max_file_store=inputs.spec.log_file_bytes,
    )


def log_stateful_set(inputs: Inputs) -> tuple[Key, Manifest]:
    """Return the StatefulSet of the log's members."""
    key = names.log_set(inputs.name)
    labels = names.labels(inputs.name, Component.LOG)
    manifest = make(
        inputs.cluster,
        key,
        component=Component.LOG,
        spec={
            "replicas": len(inputs.spec.zones),
            "serviceName": f"{inputs.name}-log",
            "updateStrategy": {"type": "OnDelete"},
            "podManagementPolicy": "Parallel",
            "persistentVolumeClaimRetentionPolicy": {
                # Who deletes the StatefulSet deletes no data; what goes with the cluster: see plan.volumes.
                "whenDeleted": "Retain",
                "whenScaled": "Retain",
            },
            "selector": {"matchLabels": names.selector(inputs.name, Component.LOG)},
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {
                        names.TEMPLATE_ANNOTATION: template_hash(inputs, Component.LOG),
                        # Not in the hash: an order, or its renewal, replaces no pod.
                        **({names.HEAL_ANNOTATION: str(inputs.heal)} if inputs.heal else {}),
                    },
                },
                "spec": _pod(inputs),
            },
            "volumeClaimTemplates": _claims(inputs, key),
        },
    )
    if inputs.images.log_default:
        manifest["metadata"]["annotations"] = {names.DEFAULT_IMAGE_ANNOTATION: inputs.images.log_default}
    return key, manifest


def _claims(inputs: Inputs, key: Key) -> list[dict[str, Any]]:
    """Return the claims' templates: what there is, where there is something, because it can't be changed.

    Claims that are to be larger are grown themselves.
    """
    if key in inputs.live:
        found = inputs.live[key]["spec"]["volumeClaimTemplates"]
        return [{part: each for part, each in claim.items() if part != "status"} for claim in found]
    class_name = inputs.spec.log.storage.storage_class_name
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": DATA, "labels": names.selector(inputs.name, Component.LOG)},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": str(inputs.spec.log_volume_bytes)}},
                **({"storageClassName": class_name} if class_name else {}),
            },
        }
    ]


def _pod(inputs: Inputs) -> dict[str, Any]:
    # A zone has one member, so that losing a zone leaves a majority.
    apart = {
        "labelSelector": {"matchLabels": names.selector(inputs.name, Component.LOG)},
        "topologyKey": names.ZONE_LABEL,
    }
    return pod_spec(
        inputs,
        affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        **({"initContainers": [_healing(inputs, inputs.heal)]} if inputs.heal else {}),
        containers=[_server(inputs)],
        volumes=[
            {
                "name": "config",
                "secret": {
                    "secretName": names.log_secret(inputs.name).name,
                    "defaultMode": 0o440,
                    "items": [{"key": CONF, "path": CONF}],
                },
            }
        ],
    )


def ordered(stateful_set: Manifest | None, now: datetime) -> Heal | None:
    """Return whose copy is to be made anew, by the template of the log's pods; None: nobody's (any more)."""
    template = stateful_set["spec"]["template"]["metadata"] if stateful_set else {}
    said = (template.get("annotations") or {}).get(names.HEAL_ANNOTATION)
    if not said:
        return None
    try:
        member, pod_uid, until, ends = said.split()
        order = Heal(member, pod_uid, datetime.fromisoformat(until), tuple(map(int, ends.split(","))))
        return order if now < order.until else None
    except (ValueError, TypeError):  # TypeError: it does not say in which time zone
        return None


def _healing(inputs: Inputs, heal: Heal) -> dict[str, Any]:
    """Return the container that gives up a rotten copy before its server starts, if the others have all."""
    members = {names.member_name(inputs.name, index): index for index in range(len(inputs.spec.zones))}
    others = [f"{name}={member_host(inputs, i)}" for name, i in members.items() if name != heal.member]
    ends = {shard: heal.ends[shard] if shard < len(heal.ends) else 0 for shard in range(inputs.spec.shards)}
    logs = [f"{inputs.name}-{shard}:{end}" for shard, end in ends.items()]
    return container(
        "heal",
        inputs.images.engine,
        inputs.spec.engine.image_pull_policy,
        command=[
            *("python", "-m", "memorycluster.pod", "heal"),
            *("--member", heal.member, "--order", heal.pod_uid, "--until", heal.until.isoformat()),
            *("--others", ",".join(others), "--logs", ",".join(logs)),
        ],
        env=[from_pod(NAME_VARIABLE, "metadata.name")],
        ports={},
        mounts=[{"name": DATA, "mountPath": str(_DATA_DIR)}],
        resources=inputs.spec.log.resources.as_written() or {"requests": REQUESTS},
        probes={},
    )


def _server(inputs: Inputs) -> dict[str, Any]:
    log = inputs.spec.log
    return container(
        CONTAINER,
        inputs.images.log,
        log.image_pull_policy,
        command=["nats-server", "-c", f"/etc/memorycluster/log/{CONF}"],
        env=[
            from_pod(NAME_VARIABLE, "metadata.name"),
            from_pod(ADDRESS_VARIABLE, "status.podIP"),
            # Members are kept in zones of their own, so each stands for its zone.
            {"name": TAG_VARIABLE, "value": f"{ZONE_TAG}$({NAME_VARIABLE})"},
        ],
        ports=PORTS,
        mounts=[
            {"name": "config", "mountPath": "/etc/memorycluster/log", "readOnly": True},
            {"name": DATA, "mountPath": str(_DATA_DIR)},
        ],
        resources=log.resources.as_written() or {"requests": REQUESTS},
        # Ready: it has all of every log, so that nobody drains the next member before. Alive: it answers; a
        # server without a majority is healthy for that, or the kubelet would end the servers one needs.
        probes={
            "startupProbe": probe(
                http=("/healthz?js-enabled-only=true", PORTS["monitor"]), period=2, failures=1800
            ),
            "livenessProbe": probe(
                http=("/healthz?js-enabled-only=true", PORTS["monitor"]), period=10, failures=6
            ),
            "readinessProbe": probe(http=("/healthz", PORTS["monitor"]), period=5, failures=2),
        },
    )
