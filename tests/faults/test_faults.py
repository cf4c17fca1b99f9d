"""The faults that a cluster must survive, each once; `make soak` does them for as long as asked."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.faults.cluster import Cluster, Node
from tests.faults.faults import FAULTS
from tests.faults.resp import Connection
from tests.faults.scenario import suffer
from tests.faults.workload import Workload

SEED = int(os.environ.get("MEMORYCLUSTER_TEST_SEED") or random.randrange(1 << 24))
OUTAGE = 12.0

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("name", FAULTS)
async def test_fault(cluster: Cluster, name: str, keep: Path) -> None:
    report = await suffer(cluster, FAULTS[name], seed=SEED, outage=OUTAGE, keep=keep)
    print(report)
    assert report.ok, str(report)
    assert report.verdict.operations > 500
    if name == "log without quorum":
        assert "CLUSTERDOWN" in report.refusals, "clients were told, by an error that they know"


async def test_a_replica_comes_back_while_writes_go_on(cluster: Cluster) -> None:
    work = Workload(cluster.shards(), seed=SEED, prefix="back-")
    work.start()
    try:
        await asyncio.sleep(1)
        for replica in await cluster.followers():
            cluster.kill(replica.engine)
            async with asyncio.timeout(30):
                await becomes(cluster, replica, ready=False)
                await becomes(cluster, replica, ready=True)
            key = work.repertoire.keys["string"].all[0]
            link = await Connection.open(replica.address)
            answers = await link.call([("READONLY",), ("GET", key)], seconds=5)
            link.close()
            assert not isinstance(answers[1].value, Exception), answers[1].value
    finally:
        await work.finish()


async def becomes(cluster: Cluster, node: Node, *, ready: bool) -> None:
    while True:
        [status] = await cluster.said([node])
        if (status is not None and bool(status["ready"])) == ready:
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "name", ["primary engine killed", "everything killed", "log's leader and primary killed"]
)
async def test_fault_with_two_shards(two_shards: Cluster, name: str, keep: Path) -> None:
    report = await suffer(two_shards, FAULTS[name], seed=SEED, outage=OUTAGE, keep=keep)
    print(report)
    assert report.ok, str(report)
