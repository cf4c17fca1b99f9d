"""A cluster, as its user meets it."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.e2e.cluster import Cluster
from tests.e2e.scenario import Stage


def test_ordinary_clients_use_it(stage: Stage, orders: Cluster) -> None:
    """Through the one Service name. Where nothing happens, nobody sees an error."""
    with stage.case("nothing", orders) as scene:
        scene.load.served_again()
    assert not scene.outcome.report["errors"], "an application saw an error"
    assert scene.outcome.report["refusals"].keys() <= {"MOVED"}


def test_get_shows_what_matters(orders: Cluster) -> None:
    head, line = orders.kube("get", "mc", orders.name, "-n", orders.namespace).splitlines()
    columns = re.split(r"\s{2,}", head.strip())
    assert columns[:2] == ["NAME", "PHASE"]
    assert columns[-1] == "AGE"
    values = re.split(r"\s{2,}", line.strip())
    assert values[:2] == [orders.name, "Ready"]
    assert "2/2" in values
    zones = [value for value in values if re.fullmatch(r"zone-[abc],zone-[abc]", value)]
    assert len(zones) == 1, "the primaries' zones"
    wide = orders.kube("get", "memoryclusters", "-n", orders.namespace, "-o", "wide").splitlines()
    assert len(re.split(r"\s{2,}", wide[0])) > len(columns), "-o wide shows more"


def test_the_zones_that_it_shows_are_where_the_primaries_are(orders: Cluster) -> None:
    status = orders.status()
    for index, shard in enumerate(status["shards"]):
        node = orders.kube.get("node", orders.node_of(shard["primary"]))
        assert node["metadata"]["labels"]["topology.kubernetes.io/zone"] == shard["zone"]
        zones = {each["zone"] for each in shard["nodes"]}
        assert len(zones) == 3, f"shard {index} stands in three zones: {zones}"


def test_describe_explains_itself(orders: Cluster) -> None:
    said = orders.kube("describe", "memorycluster", orders.name, "-n", orders.namespace)
    conditions = {"Ready", "Redundant", "Progressing", "LogIntact", "ParametersApplied"}
    for name in conditions:
        assert re.search(rf"Type:\s+{name}\n", said), f"no condition {name} in:\n{said}"
    assert re.search(r"^Events:\s*\n\s+Type\s+Reason", said, re.MULTILINE), f"no events in:\n{said}"


def test_whoever_holds_what_the_log_lacks_is_asked_in_its_pod(orders: Cluster) -> None:
    """`memorycluster recover`: nothing is frozen here, but each agent answers for itself."""
    command = ["recover", "0", "--cluster", orders.name, "-n", orders.namespace]
    asked = subprocess.run(
        [sys.executable, "-m", "memorycluster", *command],
        env=orders.kube.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert asked.returncode == 0, asked.stderr
    shard = orders.status()["shards"][0]
    for node in shard["nodes"]:
        assert re.search(rf"^{node['name']}\s+nothing\s.*it is not frozen$", asked.stdout, re.MULTILINE), (
            asked.stdout
        )
    assert asked.stdout.endswith("shard 0: no node is frozen\n")


def test_explain_is_the_reference(orders: Cluster) -> None:
    said = orders.kube("explain", "memorycluster.spec", "--recursive")
    for field in ("replicasPerShard", "networkPolicy", "deletionPolicy", "maxBytes"):
        assert field in said
    assert "DESCRIPTION" in orders.kube("explain", "mc.spec.failover.lease")


def test_pods_satisfy_the_restricted_standard(orders: Cluster) -> None:
    """The namespace enforces it, so they exist only because they do; this proves that it is enforced."""
    labels = orders.kube.get("namespace", orders.namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    said = orders.kube(
        *("run", "root", "-n", orders.namespace, "--image=none", "--dry-run=server", "-o", "name"),
        check=False,
    )
    assert "violates PodSecurity" in said
    for pod in orders.pods():
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
