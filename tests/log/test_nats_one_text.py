"""A log service as Kubernetes runs it: one configuration text, what differs in the environment."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from tests.log.servers import MAX_FILE_STORE, free_ports, healthy, until

from memorycluster.log.server import Server, find_server, service_conf
from memorycluster.log.service import LogService

USER, PASSWORD = "log", "$POD_NAME/pass word"


@pytest.fixture
async def servers() -> AsyncIterator[list[Server]]:
    ports = free_ports(3)
    hosts = [f"127.0.7.{index + 1}" for index in range(3)]
    found = [Server(f"orders-log-{i}", f"orders-log-{i}", host, *ports) for i, host in enumerate(hosts)]
    root = Path(tempfile.mkdtemp(prefix="mcl-", dir="/tmp"))
    processes = []
    try:
        for server in found:
            directory = root / server.name  # as each pod has its own /data
            directory.mkdir()
            text = service_conf(
                found,
                cluster="orders",
                data_dir=Path("data"),
                user=USER,
                password=PASSWORD,
                max_file_store=MAX_FILE_STORE,
            )
            (directory / "server.conf").write_text(text)
            environment = {"POD_NAME": server.name, "POD_IP": server.host, "ZONE_TAG": f"az:{server.name}"}
            processes.append(
                subprocess.Popen(
                    [await find_server(), "-c", "server.conf"],
                    cwd=directory,
                    env=os.environ | environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        async with aiohttp.ClientSession() as http:
            for server in found:
                await until(lambda s=server: healthy(http, s), 60)
        yield found
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            await asyncio.to_thread(process.wait, 30)
        shutil.rmtree(root)


async def test_one_text_makes_a_service_of_three(servers: list[Server]) -> None:
    stream, generation = "orders-0", uuid4()
    async with LogService(servers, user=USER, password=PASSWORD) as admin:
        await admin.assert_safe()
        await admin.create(stream, generation, max_bytes=1 << 30)
        await admin.verify(stream, generation)
        members = (await admin.health(stream)).members
    assert {member.name for member in members} == {server.name for server in servers}
    assert {member.zone for member in members} == {server.zone for server in servers}
