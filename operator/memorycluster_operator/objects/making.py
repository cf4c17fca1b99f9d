"""The Jobs that make snapshots."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from memorycluster.api.snapshots import SnapshotStore
from memorycluster.api.spec import Spec
from memorycluster.api.topology import shard_slots
from memorycluster.pod import config as pod
from memorycluster_operator.identity import Identity
from memorycluster_operator.makings import CONFIG_ANNOTATION, MAKING_LABEL, SNAPSHOT_LABEL
from memorycluster_operator.objects import names
from memorycluster_operator.objects.inputs import Inputs
from memorycluster_operator.objects.log import LOG_USER, member_host
from memorycluster_operator.objects.log import PORTS as LOG_PORTS
from memorycluster_operator.objects.pods import container, pod_spec
from memorycluster_operator.objects.store import (
    identity_labels,
    making_store,
    room_of,
    store_env,
    store_mounts,
    store_volumes,
)
from memorycluster_operator.quantity import parse
from memorycluster_operator.snapshot import Component, Key, Manifest, Source

CONTAINER = "snapshot"
RESULT = "/dev/termination-log"
"""Where a container leaves what its pod's status is to say."""

REQUESTS = {"cpu": "100m", "memory": "256Mi"}
"""What a Job asks for where the spec says nothing of the engine's memory either."""

ENDS_WITHIN = 6 * 3600
"""Seconds after which a Job is ended that has not."""

GRACE = 1
"""Seconds from a pod's deletion to its end: it heeds no signal, and who deletes it does not want it to go on.
What it leaves behind in the store is deleted some day, as if it had died."""

KEPT_FOR = 3600
"""Seconds for which a Job that is finished is kept: its result goes into a status at once."""

NONE: Mapping[str, str] = MappingProxyType({})

_CONF_DIR = f"{pod.CONFIG_DIR}/making"
_SECRETS = f"{pod.CONFIG_DIR}/{pod.SECRETS}"
SOURCE_SECRETS = f"{pod.CONFIG_DIR}/source"
_WORK = "/work"
_COMMAND = ["python", "-m", "memorycluster.snapshot", "--config", f"{_CONF_DIR}/job.json"]


def job_key(cluster: str, shard: int, token: str) -> Key:
    """Return the Job of a shard that ``token`` (8 characters) tells from others."""
    return Key("Job", f"{cluster}-{shard}-snapshot-{token}")


def job_config(
    inputs: Inputs,
    identity: Identity,
    shard: int,
    *,
    reason: str = "replay",
    name: str = "",
    make: bool = True,
    frozen: tuple[str, ...] = (),
    held: bool = False,
    spared: Collection[str] = (),
    must_spare: bool = True,
    listed: Mapping[str, str] = NONE,
    unwanted: Mapping[str, str] = NONE,
    others: Mapping[int, int] | None = None,
    grow: bool = True,
    restore: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a Job is told: see ``memorycluster.snapshot.job.JobConfig``.

    :param name: of the snapshot; empty: it is drawn from the time. :param make: False: only keep them.
    :param frozen: nodes that are known to be. :param held: the log is not to be trimmed.
    :param spared: names of snapshots that are not to be deleted. :param must_spare: an engine image that does
    not know of that is to refuse, rather than delete them.
    :param listed: places of snapshots that may be gone, with the name of each. :param unwanted: of those
    that are to go. :param others: the last record in the older snapshot that each other shard needs.
    :param grow: the log service's store may be made to hold more.
    :param restore: what to restore.
    """
    spec, cluster, shards = inputs.spec, inputs.cluster, inputs.spec.shards
    nodes = names.host(cluster, f"{cluster.name}-nodes", inputs.settings.cluster_domain)
    agents = [
        names.node_name(cluster.name, shard, each)
        for each in range(inputs.nodes_per_shard or spec.nodes_per_shard)
    ]
    # What is as by default is left out: an engine image that is older than it refuses what it does not know.
    more = {
        "frozen": list(frozen),
        "held": held,
        "spared": sorted(spared),
        "must_know": ["spared"] if spared and must_spare and not held else [],
        "listed": dict(listed),
        "unwanted": dict(unwanted),
        "others": dict(others or {}),
    }
    return {
        "cluster": cluster.name,
        "shard": shard,
        "slots": [shard_slots(shard, shards)],
        "generation": str(identity.generations[shard]),
        "stream": f"{cluster.name}-{shard}",
        "log_servers": [
            f"nats://{member_host(inputs, each)}:{LOG_PORTS['clients']}" for each in range(len(spec.zones))
        ],
        "log_user": LOG_USER,
        "log_password_file": f"{_SECRETS}/{pod.LOG_PASSWORD}",
        "store": making_store(spec, grow=grow).as_written(),
        "work": _WORK,
        "reason": reason,
        "name": name,
        "anew": bool(name),
        "make": make,
        "keep": {
            "retention": spec.snapshots.retention.as_written(),
            "agents": {each: f"http://{each}.{nodes}:{pod.Ports().api}" for each in agents},
            "api_token_file": f"{_SECRETS}/{pod.API_TOKEN}",
            **({} if (room := room_of(spec)) is None else {"room": room}),
            **{name: each for name, each in more.items() if each},
        }
        if restore is None
        else None,
        **({} if restore is None else {"restore": restore}),
        "result": RESULT,
        "tell": {"port": pod.Ports().api, "token_file": f"{_SECRETS}/{pod.API_TOKEN}"},
    }


def job(
    inputs: Inputs,
    key: Key,
    shard: int,
    kind: str,
    config: Mapping[str, Any],
    *,
    owner: Mapping[str, Any] | None = None,
    snapshot: str = "",
    stores: tuple[SnapshotStore | None, ...] = (),
    source: Source | None = None,
) -> Manifest:
    """Return a Job.

    :param kind: one of ``makings.KINDS``. :param config: what it is told.
    :param owner: with which it goes; None: the MemoryCluster. :param snapshot: the MemorySnapshot's name.
    :param stores: all that it uses. :param source: the cluster whose log it reads, beside its own.
    """
    labels = {
        **names.labels(inputs.name, Component.SNAPSHOT, shard),
        MAKING_LABEL: kind,
        **({SNAPSHOT_LABEL: snapshot} if snapshot else {}),
    }
    engine = inputs.spec.engine
    manifest = names.make(
        inputs.cluster,
        key,
        component=Component.SNAPSHOT,
        shard=shard,
        spec={
            # Who tries again, and when, is the operator's to say.
            "backoffLimit": 0,
            "activeDeadlineSeconds": ENDS_WITHIN,
            "ttlSecondsAfterFinished": KEPT_FOR,
            "template": {
                "metadata": {
                    "labels": {**labels, **identity_labels(stores[0] if stores else None)},
                    "annotations": {CONFIG_ANNOTATION: json.dumps(config, sort_keys=True)},
                },
                "spec": pod_spec(
                    inputs,
                    restartPolicy="Never",
                    terminationGracePeriodSeconds=GRACE,
                    containers=[
                        container(
                            CONTAINER,
                            inputs.images.engine,
                            engine.image_pull_policy,
                            command=_COMMAND,
                            env=store_env(*stores),
                            ports={"api": pod.Ports().api},
                            mounts=[
                                {"name": "making", "mountPath": _CONF_DIR, "readOnly": True},
                                {"name": "secrets", "mountPath": _SECRETS, "readOnly": True},
                                {"name": "work", "mountPath": _WORK},
                                {"name": "tmp", "mountPath": "/tmp"},
                                *(
                                    [{"name": "source", "mountPath": SOURCE_SECRETS, "readOnly": True}]
                                    if source
                                    else []
                                ),
                                *store_mounts(*stores),
                            ],
                            resources=_resources(inputs.spec, *([source.spec] if source else [])),
                            probes={},
                        )
                    ],
                    volumes=[
                        {
                            "name": "making",
                            "downwardAPI": {
                                "items": [
                                    {
                                        "path": "job.json",
                                        "fieldRef": {
                                            "apiVersion": "v1",
                                            "fieldPath": f"metadata.annotations['{CONFIG_ANNOTATION}']",
                                        },
                                    }
                                ]
                            },
                        },
                        {
                            "name": "secrets",
                            "secret": {
                                "secretName": names.internal_secret(inputs.name).name,
                                "defaultMode": 0o440,
                            },
                        },
                        {"name": "work", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                        *(
                            [
                                {
                                    "name": "source",
                                    "secret": {
                                        "secretName": names.internal_secret(source.name).name,
                                        "defaultMode": 0o440,
                                        "items": [{"key": pod.LOG_PASSWORD, "path": pod.LOG_PASSWORD}],
                                    },
                                }
                            ]
                            if source
                            else []
                        ),
                        *store_volumes(*stores),
                    ],
                ),
            },
        },
    )
    metadata = {**manifest["metadata"], "labels": labels}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    return {**manifest, "metadata": metadata}


def _resources(spec: Spec, *sources: Spec) -> dict[str, Any]:
    """Return what a Job asks for: memory for the data of a whole shard, as the engine does.

    ``sources`` are of other clusters whose shards' data it loads as well.
    """
    if written := spec.snapshots.resources.as_written():
        return written
    asked = [
        memory
        for each in (spec.engine.resources, *(other.engine.resources for other in sources))
        if (memory := each.requests.get("memory") or each.limits.get("memory"))
    ]
    most = {"memory": max(asked, key=lambda each: parse(each) or 0)} if asked else {}
    return {"requests": {**REQUESTS, **most}}
