import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.local.harness import short_directory

from memorycluster.valkey.build import build


@pytest.fixture(scope="session", autouse=True)
def engine() -> Path:
    """Return where the engine's programs are; `make test` has built them before."""
    return asyncio.run(build(lambda text: None))


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as made:
        yield made
