"""The ports of a local cluster: who gets which, and whether they are free."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping, Sequence

import psutil

from memorycluster.local.errors import UserError

HOST = "127.0.0.1"
FIRST_BASE = 7000
LAST_BASE = 32000
"""Below Linux's ephemeral ports, which an outgoing connection may take at any time."""
STEP = 100


def node_ports(name: str) -> tuple[str, str, str]:
    """Return the names of the ports of a node: clients, cluster bus, the agent's follow port."""
    return (f"{name}/clients", f"{name}/bus", f"{name}/follow")


def log_ports(zone: str) -> tuple[str, str, str]:
    """Return the names of the ports of the log server in ``zone``: clients, routes, monitoring."""
    return (f"log-{zone}/clients", f"log-{zone}/routes", f"log-{zone}/monitor")


def port_names(nodes: Iterable[str], zones: Iterable[str]) -> list[str]:
    """Return the names of all ports, those that users see first."""
    groups = [list(each) for each in zip(*map(node_ports, nodes), strict=True)]
    groups += [list(each) for each in zip(*map(log_ports, zones), strict=True)]
    return [name for group in groups for name in group]


def allocate(names: Sequence[str], base: int, taken: Mapping[str, int]) -> dict[str, int]:
    """Return a port for each of ``names``: the one it has in ``taken``, or the next one from ``base`` on.

    :raises UserError: when they reach beyond 65535.
    """
    ports = {name: taken[name] for name in names if name in taken}
    following = max([base - 1, *taken.values()]) + 1
    for name in names:
        if name not in ports:
            ports[name] = following
            following += 1
    if following - 1 > 65535:
        raise UserError(
            f"--base-port {base}: {len(names)} ports from there on reach beyond 65535; choose a lower one"
        )
    return ports


def free_base(count: int) -> int:
    """Return the first port of a block of ``count`` free ones. Raises UserError."""
    base = FIRST_BASE
    while base + count <= LAST_BASE:
        used = next((port for port in reversed(range(base, base + count)) if not is_free(port)), None)
        if used is None:
            return base
        base = (used // STEP + 1) * STEP
    raise UserError(
        f"no {count} free ports in a row between {FIRST_BASE} and {LAST_BASE}; choose with --base-port"
    )


def is_free(port: int) -> bool:
    """Return whether a server could listen at ``port`` of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def used_port(ports: Mapping[str, int]) -> tuple[str, int] | None:
    """Return the first of ``ports`` that is in use, with its name."""
    return next(((name, port) for name, port in ports.items() if not is_free(port)), None)


def in_use(name: str, port: int) -> UserError:
    """Return the error that ``port``, wanted for ``name``, is in use, and by whom if that can be seen."""
    who = ""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                who = f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
                break
    except psutil.Error:
        pass
    owner, _, purpose = name.partition("/")
    what = f"port {port} ({purpose} of {owner}) is in use{who}"
    return UserError(f"{what}; stop that, or choose other ports with --base-port")
