"""``memorycluster recover --cluster NAME``: asking the agents of a shard, each in its own pod.

By ``exec``, as a human would: that right is theirs, and the operator has it not.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import WSServerHandshakeError
from kubernetes.aio import client
from kubernetes.aio.stream import WsApiClient

from memorycluster.pod.config import AGENT_SOCKET
from memorycluster_operator.explain import Unexplained
from memorycluster_operator.kube import Kube
from memorycluster_operator.objects.names import CLUSTER_LABEL, COMPONENT_LABEL, SHARD_LABEL
from memorycluster_operator.snapshot import Component

COMMAND = ("python", "-P", "-m", "memorycluster.agent.ask", str(AGENT_SOCKET))

REFUSED = (401, 403)
"""What the API server answers to who may not do this; other failures are the pod's."""


async def nodes_of(kube: Kube, namespace: str, name: str, shard: int) -> list[str]:
    """Return the nodes of a shard: those that there should be, and those that there are.

    :raises Unexplained: there is no such cluster, or shard. :raises kube.API_ERRORS:
    """
    found = await kube.get("MemoryCluster", namespace, name)
    if found is None:
        raise Unexplained(f"there is no MemoryCluster {name} in the namespace {namespace}")
    shards = {each["index"]: each for each in (found.get("status") or {}).get("shards") or []}
    labels = f"{CLUSTER_LABEL}={name},{SHARD_LABEL}={shard},{COMPONENT_LABEL}={Component.ENGINE}"
    pods, _ = await kube.list("Pod", namespace, labels=labels)
    nodes = {each["name"] for each in shards.get(shard, {}).get("nodes") or []}
    nodes |= {each["metadata"]["name"] for each in pods}
    if not nodes:
        raise Unexplained(f"MemoryCluster {name} has no shard {shard}, as far as its status and its pods say")
    return sorted(nodes)


async def recovery(
    configuration: client.Configuration, namespace: str, pod: str, *, act: bool
) -> dict[str, Any]:
    """Return what the agent in a pod says, as ``memorycluster.agent.ask`` prints it.

    An ``answer`` of None: it does not answer, or the pod is not there.

    :raises WSServerHandshakeError: who asks has not the right to.
    """
    command = [*COMMAND, "--act"] if act else [*COMMAND]
    async with WsApiClient(configuration) as api:
        try:
            printed = await client.CoreV1Api(api).connect_get_namespaced_pod_exec(
                pod, namespace, command=command, container="agent", stdout=True, stderr=False
            )
            # (What is JSON from its first letter on, the library would read itself, and give as a repr.)
            said: dict[str, Any] = json.loads(printed.removeprefix("recovery"))
        except WSServerHandshakeError as error:
            if error.status in REFUSED:
                raise
            return {"answer": None}
        except ValueError:
            return {"answer": None}  # it has not begun, or was ended
    return said
