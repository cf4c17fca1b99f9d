"""The faults that a cluster must survive, each once; `make soak` does them for as long as asked."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.faults.cluster import Cluster
from tests.faults.faults import FAULTS
from tests.faults.scenario import suffer

SEED = int(os.environ.get("MEMORYCLUSTER_TEST_SEED") or random.randrange(1 << 24))
OUTAGE = 12.0

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("name", FAULTS)
async def test_fault(cluster: Cluster, name: str, tmp_path: Path) -> None:
    report = await suffer(cluster, FAULTS[name], seed=SEED, outage=OUTAGE, keep=tmp_path)
    print(report)
    assert report.ok, str(report)
    assert report.verdict.operations > 500
    if name == "log without quorum":
        assert "CLUSTERDOWN" in report.refusals, "clients were told, by an error that they know"


@pytest.mark.parametrize(
    "name", ["primary engine killed", "everything killed", "log's leader and primary killed"]
)
async def test_fault_with_two_shards(two_shards: Cluster, name: str, tmp_path: Path) -> None:
    report = await suffer(two_shards, FAULTS[name], seed=SEED, outage=OUTAGE, keep=tmp_path)
    print(report)
    assert report.ok, str(report)
