"""The operator comes, goes and changes; the clusters go on."""

from __future__ import annotations

import pytest
from tests.e2e.cluster import Cluster, identities, restarts
from tests.e2e.release import Operator
from tests.e2e.scenario import Stage


def test_upgrade_rolls_no_pods(stage: Stage, orders: Cluster, operator: Operator) -> None:
    before = orders.pods()
    with stage.case("chart upgraded", orders):
        operator.upgrade()
        orders.whole()
    assert identities(orders.pods()) == identities(before), "an upgrade of the operator replaces no pod"
    assert restarts(orders.pods()) == restarts(before)


def test_uninstalled_and_installed_again(stage: Stage, orders: Cluster, operator: Operator) -> None:
    """Without the operator a cluster serves and fails over; nothing of it is deleted."""
    before = identities(orders.pods())
    with stage.case("chart uninstalled, primary's pod killed, installed again", orders) as scene:
        operator.uninstall()
        assert identities(orders.pods()) == before
        primary = orders.primary()
        orders.kube.delete("pod", primary, namespace=orders.namespace, force=True)
        scene.load.served_again()
        operator.install()
        orders.whole()
    after = identities(orders.pods())
    assert {name for name in before if before[name] != after[name]} == {primary}


@pytest.mark.long
def test_from_the_plain_manifest(stage: Stage, orders: Cluster, operator: Operator) -> None:
    before = identities(orders.pods())
    with stage.case("operator from the plain manifest instead", orders):
        operator.uninstall()
        with operator.from_manifest():
            orders.change(engine={"parameters": {"hz": "20"}})
            orders.whole()
            for pod in identities(orders.pods("engine")):
                assert orders.config(pod, "hz") == "20"
        operator.install()
    assert identities(orders.pods()) == before


@pytest.mark.long
def test_two_operators_do_no_harm(stage: Stage, orders: Cluster, operator: Operator) -> None:
    """One of them is active; when it goes, the other takes over."""
    with stage.case("two operators, the active one killed", orders):
        operator.scale(2)
        active = operator.active()
        orders.kube.delete("pod", active, namespace=operator.namespace, force=True)
        orders.kube.until(lambda: operator.active() != active, "another operator is active")
        orders.change(engine={"parameters": {"hz": "10"}})
        orders.whole()
        operator.scale(1)
