"""What an engine reads at its start: ``valkey.conf`` and ``nodes.conf``, rewritten before every start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from memorycluster.api.topology import Node, Topology

AGENT_USER = "txlog-agent"
"""The ACL user by which an engine knows its agent."""

PEER_USER = "txlog-peer"
"""The ACL user by which nodes ask each other who they are; it needs no password, and may do nothing else."""

DEFAULT_USERS = ("user default on nopass ~* &* +@all",)
"""Who may connect when nothing else is said: everybody who reaches the port."""

AGENT_RIGHTS = (
    "resetkeys resetchannels -@all +hello +auth +ping +info +client +command +select "
    "+txlog +psync +replconf +shutdown +config|get +config|set +cluster|info +cluster|nodes +cluster|myid "
    "+cluster|meet +cluster|forget"
)


class FixedParameter(ValueError):
    """A parameter that durability or the cluster stands on can't be chosen."""


def valkey_conf(
    *,
    node: Node,
    directory: Path,
    engine_socket: Path,
    follow_port: int,
    agent_password: str,
    agent_user: str = AGENT_USER,
    address: str | None = None,
    users: Sequence[str] = DEFAULT_USERS,
    io_threads: int = 1,
    lease: float = 5.0,
    parameters: Mapping[str, str] | None = None,
) -> str:
    """Return the ``valkey.conf`` of ``node``, whose working directory is ``directory``.

    :param engine_socket: the unix socket on which the agent finds the engine.
    :param follow_port: where the agent, posing as a primary, waits for the engine.
    :param address: where to listen, if ``node.host`` is a name. Clients are sent to that name, and may come
        from other machines.
    :param users: ACL rules, one a line, beside the agent's.
    :param lease: seconds; a script that runs for a quarter of it lets the agent in between.
    :param parameters: Valkey's own parameters; those set here are refused.
    :raises FixedParameter: names the parameter.
    """
    password = hashlib.sha256(agent_password.encode()).hexdigest()
    fixed: dict[str, str] = {
        # Where
        "port": str(node.port),
        "unixsocket": str(engine_socket),
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "dir": str(directory),
        "daemonize": "no",
        "proc-title-template": "{title} {listen-addr} {server-mode} {config-file}",
        # Nothing on disk: the log and its snapshots hold the data.
        "save": "",
        "appendonly": "no",
        # The transaction log
        "txlog-enabled": "yes",
        "txlog-follow-port": str(follow_port),
        "txlog-agent-user": agent_user,
        "primaryuser": agent_user,
        "primaryauth": agent_password,
        "busy-reply-threshold": str(max(50, round(lease * 250))),
        # Replication: from and to the agent only, on this machine, of committed bytes. An idle link is not a
        # dead one: on loopback the end of either side shows at once.
        "repl-diskless-load": "flush-before-load",
        "repl-diskless-sync": "no",
        "dual-channel-replication-enabled": "no",
        "repl-timeout": "2000000",
        "repl-backlog-size": "16mb",
        "repl-backlog-ttl": "0",
        "replica-serve-stale-data": "yes",
        "replica-read-only": "yes",
        "replica-ignore-maxmemory": "yes",
        # A view of the cluster that decides nothing: the log does.
        "cluster-enabled": "yes",
        "cluster-port": str(node.bus_port),
        "cluster-config-file": "nodes.conf",
        "cluster-config-save-behavior": "best-effort",
        "cluster-node-timeout": "5000",
        "cluster-announce-human-nodename": node.name,
        "availability-zone": node.zone,
        "cluster-replica-no-failover": "yes",
        "cluster-require-full-coverage": "no",
        "cluster-allow-replica-migration": "no",
        # What could lead around all this
        "enable-debug-command": "no",
        "enable-module-command": "no",
        "enable-protected-configs": "no",
        "shutdown-timeout": "2",
    }
    if address is not None:
        fixed |= {
            "protected-mode": "no",
            "cluster-announce-ip": address,
            "cluster-announce-hostname": node.host,
            "cluster-preferred-endpoint-type": "hostname",
        }
        users = [*users, f"user {PEER_USER} on nopass resetkeys resetchannels -@all +cluster|myid"]
    chosen = {"io-threads": str(io_threads), **(parameters or {})}
    for name in chosen:
        if name.lower() in fixed or name.lower().startswith(
            ("bind", "txlog-", "user", "aclfile", "include", "loadmodule")
        ):
            raise FixedParameter(f"parameter {name!r} can't be chosen: the engine's durability stands on it")
    lines = [f"{name} {quoted(value)}" for name, value in {**fixed, **chosen}.items()]
    lines += [f"bind {' '.join(_listening(address or node.host))}"]
    lines += ["client-output-buffer-limit replica 0 0 0", *users]
    lines.append(f"user {agent_user} on #{password} {AGENT_RIGHTS}")
    return "\n".join(lines) + "\n"


def _listening(address: str) -> list[str]:
    """Return where an engine listens whose address is ``address``: there, and on loopback if there is any."""
    return [address] if ip_address(address).is_loopback else [address, "-127.0.0.1", "-::1"]


def quoted(value: str) -> str:
    """Return ``value`` as one argument of a line of ``valkey.conf``."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(character, character) for character in value) + '"'


def nodes_conf(myself: Node, topology: Topology, *, address: str | None = None) -> str:
    """Return the ``nodes.conf`` with which ``myself`` starts: the cluster as it was made.

    :param address: of ``myself``, if hosts are names: nobody else's address is known then, until the engine
        has met them.

    Whoever is listed as a primary here has a lower config epoch (its shard's index) than any leader that the
    log has seen, so the first news of the real ones replaces it.
    """
    lines = []
    for shard in topology.shards:
        first = shard.nodes[0]
        for node in shard.nodes:
            flags = ("myself," if node == myself else "") + ("master" if node == first else "slave")
            slots = (
                " ".join(f"{a}-{b}" if a != b else str(a) for a, b in shard.slots) if node == first else ""
            )
            if address is None:
                host, name = node.host, ""
            else:
                host, name = address if node == myself else "", node.host
            place = f"{host}:{node.port}@{node.bus_port},{name},tls-port=0,shard-id={shard.id}"
            primary = "-" if node == first else first.id
            lines.append(f"{node.id} {place} {flags} {primary} 0 0 {shard.index} connected {slots}".rstrip())
    lines.append(f"vars currentEpoch {len(topology.shards) - 1} lastVoteEpoch 0")
    return "\n".join(lines) + "\n"
