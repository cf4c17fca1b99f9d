"""One Kubernetes cluster and one operator for the session, and a MemoryCluster that most cases share."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.release import Operator
from tests.e2e.scenario import Stage, Table
from tests.e2e.site import Site

NAMESPACE = "memorycluster-e2e"
TABLE = pytest.StashKey[Table]()
SITE = pytest.StashKey[Site]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: runs with `make e2e` only, not with `make test`")
    config.stash[TABLE] = Table()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is long, unless all is asked for; give each case the time that it may need."""
    everything = os.environ.get("MEMORYCLUSTER_E2E") == "all"
    for item in items:
        if "tests/e2e" not in item.path.as_posix():
            continue
        if item.get_closest_marker("long") and not everything:
            item.add_marker(pytest.mark.skip(reason="long: make e2e"))
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with each failure what a human would look at first."""
    report = yield
    site = item.config.stash.get(SITE, None)
    if report.failed and site is not None and call.when in ("setup", "call"):
        report.sections.append(("cluster", site.kube.explain([NAMESPACE], site.system)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash[TABLE]
    if table.rows:
        terminalreporter.section("times on Kubernetes")
        terminalreporter.write_line(str(table))


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Site:
    """The Kubernetes cluster."""
    site = Site.find()
    request.config.stash[SITE] = site
    return site


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest, site: Site) -> Stage:
    return Stage(site.images.client, request.config.stash[TABLE])


@pytest.fixture(scope="session")
def namespace(site: Site) -> Iterator[str]:
    """An empty namespace that enforces the restricted Pod Security Standard."""
    site.kube("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true", seconds=150)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    site.kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    )
    yield NAMESPACE
    if not os.environ.get("MEMORYCLUSTER_E2E_KEEP"):
        site.kube("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="session")
def operator(site: Site) -> Iterator[Operator]:
    """The operator, installed by Helm."""
    operator = Operator(site.kube, site.images, site.system)
    operator.uninstall()
    operator.install()
    yield operator
    if not os.environ.get("MEMORYCLUSTER_E2E_KEEP"):
        operator.uninstall()


@pytest.fixture(scope="session")
def orders(site: Site, stage: Stage, operator: Operator, namespace: str) -> Iterator[Cluster]:
    """Two shards of three nodes each, in three zones; cases share it, and each must leave it whole."""
    cluster = site.cluster(namespace, "orders", shards=2, replicasPerShard=2)
    stage.created("orders: 2 shards, 6 nodes", cluster)
    yield cluster
    if not os.environ.get("MEMORYCLUSTER_E2E_KEEP"):
        cluster.delete()
