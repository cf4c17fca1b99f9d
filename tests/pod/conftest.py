from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from memorycluster.valkey.build import build


@pytest.fixture(scope="session")
def programs() -> Path:
    given = os.environ.get("MEMORYCLUSTER_TEST_PROGRAMS")  # of an engine that is being worked on
    return Path(given) if given else asyncio.run(build(print))
