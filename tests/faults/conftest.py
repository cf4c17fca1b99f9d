"""Clusters that tests share: faults are done to them one after the other, so each must leave them whole."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.faults.cluster import Cluster


def base_port() -> int:
    """Return where this run's ports begin; runs beside each other rarely meet."""
    given = os.environ.get("MEMORYCLUSTER_TEST_FAULTS_PORT")
    return int(given) if given else random.randrange(24000, 25900, 50)


async def running(name: str, **given: object) -> AsyncIterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix=f"mc-{name}-"))
    cluster = Cluster(directory, base_port=base_port(), **given)  # type: ignore[arg-type]
    try:
        await cluster.start()
        await cluster.whole()
        yield cluster
    except BaseException:
        print(f"the cluster's files stay in {directory}")
        raise
    finally:
        await cluster.stop()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def keep() -> Path:
    """Where the histories of faults that did harm stay; pytest's own directories don't last."""
    directory = Path(tempfile.gettempdir()) / f"mc-histories-{os.getuid()}"
    directory.mkdir(exist_ok=True)
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    """One shard, three nodes."""
    async for each in running("f1"):
        yield each


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two_shards() -> AsyncIterator[Cluster]:
    """Two shards of two nodes each."""
    async for each in running("f2", shards=2, replicas=1):
        yield each
