"""The lab for its own tests; others make theirs of tests.lab."""

from __future__ import annotations

import pytest
from tests.lab import docker
from tests.lab.cluster import Lab
from tests.lab.images import Images, images


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "e2e: in a Kubernetes cluster")


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab's cluster; it stays up afterwards."""
    lab = Lab()
    if lab.given:
        pytest.skip("the cluster is somebody else's")
    lab.up()
    return lab


@pytest.fixture(scope="session")
def our_images(lab: Lab) -> Images:
    """Our images, in the cluster's nodes."""
    docker.ensure()
    found = images()
    lab.load_image(*found.all)
    return found
