"""Clients as they are published, unmodified and with their own settings, against a cluster of two shards.

Each runs the same steps, then writes while a shard's leadership is given away, and while a primary is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.clients.programs import Missing, Program, go, java, node, python
from tests.local.harness import Cluster, short_directory, until

import valkey
from memorycluster.local.layout import Layout
from memorycluster.valkey.build import build

STEPS = [
    "strings",
    "pipeline",
    "transaction",
    "script",
    "publish",
    "sharded_publish",
    "blocking_pop",
    "stream",
    "scan",
]

pytestmark = pytest.mark.timeout(900)
"""Seconds: the first one may build the engine, and the clients."""

KNOWN = re.compile(
    r"CLUSTERDOWN|MOVED|UNBLOCKED|LOADING|connect|closed|reset|refused|EOF|time", re.IGNORECASE
)
"""What a client may be told while a shard changes its primary."""


async def valkey_cli() -> Program:
    return python("cli.py", str(await build(print) / "valkey-cli"))


async def redis_cli() -> Program:
    if not shutil.which("redis-cli"):
        raise Missing("no redis-cli: apt-get install redis-tools")
    return python("cli.py", "redis-cli")


CLIENTS: dict[str, Callable[[], Any]] = {
    "valkey-cli": valkey_cli,
    "redis-cli": redis_cli,
    "valkey-py": lambda: python("blocking.py", "valkey"),
    "valkey-py-asyncio": lambda: python("awaiting.py", "valkey"),
    "redis-py": lambda: python("blocking.py", "redis"),
    "redis-py-asyncio": lambda: python("awaiting.py", "redis"),
    "valkey-glide": lambda: python("glide_client.py"),
    "iovalkey": lambda: node("iovalkey"),
    "ioredis": lambda: node("ioredis"),
    "valkey-go": lambda: go("valkeygo"),
    "go-redis": lambda: go("goredis"),
    "jedis": lambda: java("JedisClient"),
    "lettuce": lambda: java("LettuceClient"),
}

LACKS = {"valkey-py-asyncio": {"sharded_publish"}, "iovalkey": {"sharded_publish"}}
"""What a client can do with no cluster, also not with Valkey's own."""


@dataclass
class Report:
    """What a program says."""

    passed: list[str] = field(default_factory=list)
    lacks: set[str] = field(default_factory=set)
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    found: int = 0


def take_part(program: Program, cluster: Cluster, prefix: str, acts: dict[str, Callable[[], None]]) -> Report:
    """Call a program, and do what it waits for."""
    report = Report()
    command = [*program.command, f"127.0.0.1:{cluster.base_port}", prefix]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **program.env},
        )
        assert process.stdin
        assert process.stdout
        try:
            for line in process.stdout:
                match json.loads(line) if line.startswith("{") else None:
                    case {"passed": step}:
                        report.passed.append(step)
                    case {"lacks": step}:
                        report.lacks.add(step)
                    case {"writing": phase}:
                        acts[phase]()
                        process.stdin.write("done\n")
                        process.stdin.flush()
                    case {"written": phase, **rest}:
                        report.phases[phase] = rest
                    case {"found": count}:
                        report.found = count
            status = process.wait(30)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        assert status == 0, f"{report}\n{errors.read()}\n{cluster.log()}"
    return report


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    asyncio.run(build(print))
    with short_directory() as directory:
        cluster = Cluster(directory, name="clients", shards=2, replicasPerShard=1)
        try:
            cluster.start()
            yield cluster
            cluster.stop()
        finally:
            cluster.end()


def fail_over(cluster: Cluster) -> None:
    """Have the primary of shard 0 give its leadership away."""
    cluster.succeed("failover", "0", "--data-dir", str(cluster.data))


def kill_primary(cluster: Cluster) -> None:
    """`kill -9` the engine of the primary of shard 1, and wait for another primary."""

    def shard() -> dict[str, Any]:
        found: dict[str, Any] = cluster.status()["shards"][1]
        return found

    before = shard()
    conf = Layout(cluster.data).root / "nodes" / before["primary"] / "valkey.conf"
    (engine,) = cluster.processes(str(conf))
    engine.send_signal(signal.SIGKILL)
    until(lambda: (shard()["epoch"] or 0) > before["epoch"], "another epoch of shard 1")


def keys(cluster: Cluster, pattern: str) -> set[str]:
    with valkey.ValkeyCluster("127.0.0.1", cluster.base_port, decode_responses=True) as client:
        return set(client.scan_iter(match=pattern, count=1000))


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_works_unchanged(name: str, cluster: Cluster) -> None:
    try:
        program = CLIENTS[name]()
        program = await program if asyncio.iscoroutine(program) else program
    except Missing as missing:
        pytest.skip(str(missing))
    cluster.ready()
    prefix = f"{name}:{os.urandom(4).hex()}"
    acts = {"failover": lambda: fail_over(cluster), "kill": lambda: kill_primary(cluster)}
    report = await asyncio.to_thread(take_part, program, cluster, prefix, acts)
    for phase, said in report.phases.items():
        errors = said["errors"] or "no error"
        print(f"{name}: {phase}: {said['acknowledged']} writes, pause {said['pause']:.2f} s, {errors}")
    lacks = LACKS.get(name, set())
    assert report.lacks == lacks
    assert report.passed == [step for step in STEPS if step not in lacks]
    assert list(report.phases) == list(acts)
    acknowledged = [said["acknowledged"] for said in report.phases.values()]
    assert min(acknowledged) > 0
    assert len(keys(cluster, f"{prefix}:w:*")) >= report.found == sum(acknowledged)
    errors = [error for said in report.phases.values() for error in said["errors"]]
    assert [error for error in errors if not KNOWN.search(error)] == []
