"""One node, in its pod: from what the pod is told to what its engine and its agent read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from memorycluster.agent.config import AgentConfig
from memorycluster.api.topology import Node, Topology
from memorycluster.pod.config import (
    AGENT_PASSWORD,
    AGENT_SOCKET,
    API_TOKEN,
    LOG_PASSWORD,
    POD_IP,
    POD_NAME,
    SECRETS,
    ZONE_FILE,
    ClusterConfig,
)
from memorycluster.valkey.config import AGENT_USER, nodes_conf, valkey_conf
from memorycluster.valkey.parameters import READ_AT_START

MAX_NODES = 16
"""More nodes than any shard has."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a node, below a directory that both of its containers share. None outlives the pod."""

    directory: Path

    @property
    def engine_conf(self) -> Path:
        """valkey.conf, rewritten before each start."""
        return self.directory / "valkey.conf"

    @property
    def nodes_conf(self) -> Path:
        """nodes.conf, rewritten before each start."""
        return self.directory / "nodes.conf"

    @property
    def agent_conf(self) -> Path:
        """The agent's configuration, rewritten before each start."""
        return self.directory / "agent.yaml"

    @property
    def engine_socket(self) -> Path:
        """Where the engine listens for its agent."""
        return self.directory / "engine.sock"

    @property
    def agent_socket(self) -> Path:
        """Where the agent serves its API to this pod."""
        return self.directory / AGENT_SOCKET.name


@dataclass(frozen=True, slots=True)
class Pod:
    """What differs from pod to pod, and what only pods of this cluster know."""

    name: str
    """The pod's, and so the node's."""
    address: str
    """The pod's IP address."""
    zone: str
    """Where it is; empty while Kubernetes has not said."""
    log_password: str
    agent_password: str
    api_token: str

    @classmethod
    def load(cls, directory: Path, environment: Mapping[str, str] = os.environ) -> Pod:
        """Return what the environment and the files below ``directory`` say.

        :raises ValueError: an environment variable is missing or wrong. :raises OSError: a file is missing.
        """
        for name in (POD_NAME, POD_IP):
            if not environment.get(name):
                raise ValueError(f"the environment variable {name} is not set")
        ip_address(environment[POD_IP])
        return cls(
            name=environment[POD_NAME],
            address=environment[POD_IP],
            zone=read_zone(directory),
            log_password=_secret(directory, LOG_PASSWORD),
            agent_password=_secret(directory, AGENT_PASSWORD),
            api_token=_secret(directory, API_TOKEN),
        )


def read_zone(directory: Path) -> str:
    """Return the zone that the files below ``directory`` tell; empty while Kubernetes has not said."""
    try:
        return (directory / ZONE_FILE).read_text().strip()
    except OSError:
        return ""


def _secret(directory: Path, key: str) -> str:
    path = directory / SECRETS / key
    if value := path.read_text().strip():
        return value
    raise ValueError(f"{path} is empty")


def find_node(config: ClusterConfig, name: str) -> tuple[Node, Topology]:
    """Return the node called ``name``, and its cluster.

    A node beyond ``nodes_per_shard`` is one too: its pod is about to go, or is newer than what it was told.

    :raises ValueError: no node of this cluster is ever called so.
    """
    index = name.rpartition("-")[2]
    size = config.nodes_per_shard
    if index.isdecimal() and int(index) < MAX_NODES:
        size = max(size, int(index) + 1)
    topology = config.model_copy(update={"nodes_per_shard": size}).topology()
    try:
        return topology.node(name), topology
    except KeyError:
        raise ValueError(f"{name} is not a pod of the cluster {config.cluster}") from None


def engine_texts(config: ClusterConfig, pod: Pod, files: Files) -> dict[Path, str]:
    """Return the files that the engine reads at its start.

    The parameters that it takes live are not among them: its agent sets those, so that no value that the
    engine refuses can keep it from starting.

    :raises FixedParameter, ValueError: the configuration can't be used.
    """
    node, topology = find_node(config, pod.name)
    conf = valkey_conf(
        node=replace(node, zone=pod.zone),
        directory=files.directory,
        engine_socket=files.engine_socket,
        follow_port=config.ports.follow,
        agent_password=pod.agent_password,
        address=pod.address,
        io_threads=config.engine.io_threads,
        lease=config.lease,
        parameters={k: v for k, v in config.engine.parameters.items() if k in READ_AT_START},
    )
    return {
        files.engine_conf: conf,
        files.nodes_conf: nodes_conf(node, topology, address=pod.address),
    }


def agent_texts(config: ClusterConfig, pod: Pod, files: Files) -> dict[Path, str]:
    """Return the file that the agent reads at its start. Raises ValueError."""
    node, topology = find_node(config, pod.name)
    index = node.shard + int(node.name.rpartition("-")[2])
    first = index % len(config.log.servers)  # so that the agents' connections spread
    fields: dict[str, Any] = {
        "cluster": config.cluster,
        "shard": node.shard,
        "node": node.name,
        "node_id": node.id,
        "zone": pod.zone,
        "generation": str(config.shards[node.shard].generation),
        "stream": config.stream(node.shard),
        "log_servers": [*config.log.servers[first:], *config.log.servers[:first]],
        "log_user": config.log.user,
        "log_password": pod.log_password,
        "engine_socket": str(files.engine_socket),
        "api_socket": str(files.agent_socket),
        "api_address": pod.address,
        "api_port": config.ports.api,
        "api_token": pod.api_token,
        "follow_port": config.ports.follow,
        "user": AGENT_USER,
        "password": pod.agent_password,
        "lease": config.lease,
        "slots": [list(each) for each in topology.shards[node.shard].slots],
        "snapshots": config.snapshots,
        "parameters": config.engine.parameters,
        "parameters_revision": config.engine.revision,
    }
    AgentConfig.model_validate(fields)
    return {files.agent_conf: json.dumps(fields, indent=2) + "\n"}
