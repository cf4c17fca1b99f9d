"""The load and its judge, on one server without Kubernetes: a good run passes, lost memory is found."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.load import FIRST_APPLICATION
from tests.faults.judge import Verdict, judge
from tests.faults.resp import Connection
from tests.faults.test_workload import Server, binary
from tests.faults.workload import SLOTS

__all__ = ["binary"]
PATIENCE = 60.0


@pytest.fixture
async def server(binary: Path, tmp_path: Path) -> AsyncIterator[Server]:
    """A stock server that is a cluster by itself, and keeps its data in memory only."""
    server = Server(binary, tmp_path, "--cluster-enabled", "yes")
    try:
        await server.answers()
        link = await Connection.open(server.address)
        [added] = await link.call([("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)], seconds=5)
        assert added.value == "OK"
        async with asyncio.timeout(PATIENCE):
            while "cluster_state:ok" not in (await link.call([("CLUSTER", "INFO")], seconds=5))[0].value:
                await asyncio.sleep(0.1)
        link.close()
        yield server
    finally:
        server.kill()


class Run:
    """The load as a program, which is told by files what to do, and tells by files what it saw."""

    def __init__(self, server: Server, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        host, port = server.address
        command = [sys.executable, "-m", "tests.e2e.load", f"{host}:{port}", "1", "test-", "1"]
        self._process = subprocess.Popen([*command, str(directory)])

    def served(self) -> None:
        """Return once everybody had a write acknowledged that was sent from now on."""
        moment, status = time.monotonic_ns(), self._directory / "status.json"
        deadline = time.monotonic() + PATIENCE
        while True:
            said: dict[str, Any] = json.loads(status.read_text()) if status.exists() else {}
            times = [*said.get("shards", [0]), *said.get("applications", {}).values()]
            if min(times) > moment:
                return
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def judged(self) -> tuple[Verdict, dict[str, object]]:
        (self._directory / "stop").touch()
        assert self._process.wait(PATIENCE) == 0
        report = json.loads((self._directory / "report.json").read_text())
        return asyncio.run(judge(self._directory / "history.jsonl")), report

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def test_a_good_run_passes(server: Server, tmp_path: Path) -> None:
    run = Run(server, tmp_path / "load")
    try:
        await asyncio.to_thread(run.served)
        await asyncio.to_thread(run.served)
        verdict, report = await asyncio.to_thread(run.judged)
    finally:
        run.kill()
    assert verdict.ok, str(verdict)
    assert not report["problems"]
    assert not report["errors"]
    clients = {json.loads(line)["client"] for line in (tmp_path / "load/history.jsonl").open()}
    assert clients >= {FIRST_APPLICATION + index for index in range(4)}, "each application took part"


async def test_applications_notice_lost_memory(server: Server, tmp_path: Path) -> None:
    run = Run(server, tmp_path / "load")
    try:
        for _ in range(10):  # so that each has written most of its keys
            await asyncio.to_thread(run.served)
        server.kill()
        server.start()
        await server.answers()
        await asyncio.to_thread(run.served)
        verdict, _ = await asyncio.to_thread(run.judged)
    finally:
        run.kill()
    lost = {problem.key for problem in verdict.problems}
    for index in range(4):
        assert any(f"app{FIRST_APPLICATION + index}-" in key for key in lost), f"application {index}"
