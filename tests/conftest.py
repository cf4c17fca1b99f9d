"""What holds for all tests; and what the lab needs is made outside of any test's time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.lab import docker
from tests.lab.apiserver import PROGRAMS
from tests.lab.cluster import Lab
from tests.lab.images import images
from tests.lab.programs import LabError, program
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Times are no property: these machines are busy.
# In CI no luck: what is found at random is for whoever runs the tests, and can look into it.
settings.register_profile("memorycluster", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("memorycluster")

TIERS = (
    *("unit", "engine", "log", "agent", "local", "clients", "snapshot", "pod", "operator"),
    *("compat", "faults", "lab", "e2e"),
)
"""Directories of tests, fastest first. The last run in a cluster that takes CPU from whatever comes after."""
KUBERNETES_LANE = {"unit", "operator", "lab", "e2e"}
"""With ``-n 2`` these run beside all others, which share ranges of ports."""
LAB_FIXTURES = {"lab", "site"}
UP = pytest.StashKey[bool]()


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


class Lanes(LoadScopeScheduling):
    """Two sequences of tests, each for one process."""

    def _split_scope(self, nodeid: str) -> str:
        return "kubernetes" if nodeid.split("/")[1] in KUBERNETES_LANE else "processes"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    """Return how tests are shared out to processes."""
    return Lanes(config, log)


def _in_lab(item: pytest.Item) -> bool:
    """Say whether it is to run in the lab's cluster."""
    wants = LAB_FIXTURES & set(getattr(item, "fixturenames", ()))
    return bool(wants) and not item.get_closest_marker("skip") and not Lab().given


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tiers in their order."""
    order = {tier: index for index, tier in enumerate(TIERS)}
    items.sort(key=lambda item: order.get(_tier(item), -1))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before the first test; what fails here fails again where it is used."""
    if session.config.option.collectonly:
        return
    with _outside_of_tests(session.config):
        if any(_tier(item) == "operator" for item in session.items):
            for name in PROGRAMS:
                program(name)
        if any(map(_in_lab, session.items)):
            docker.ensure()
            Lab().node_image()
            images()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Have the cluster up before the first test that runs in it."""
    if _in_lab(item) and not item.config.stash.get(UP, False):
        item.config.stash[UP] = True
        lab = Lab()
        with _outside_of_tests(item.config):
            lab.up()
            lab.load_image(*images().all)
    return (yield)


@contextlib.contextmanager
def _outside_of_tests(config: pytest.Config) -> Generator[None]:
    """Let be seen what is done, and leave what fails to the tests that need it."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), contextlib.suppress(LabError):
        yield
