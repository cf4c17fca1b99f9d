"""The operator's chart: a real API server accepts what it renders; its rights are what the operator needs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from tests.lab.apiserver import ApiServer
from tests.operator.chart import CHART, DEPLOY, NAMESPACE, RELEASE, ROOT, deploy_manifest, template
from tests.operator.tools import helm, kubectl, server_configuration
from typer.main import get_command

from memorycluster_operator.__main__ import app
from memorycluster_operator.kube import RESOURCES
from memorycluster_operator.settings import ENGINE_IMAGE
from memorycluster_operator.watches import KINDS

pytestmark = pytest.mark.timeout(1200)  # the first time, helm is built

OPERATOR = f"system:serviceaccount:{NAMESPACE}:memorycluster-operator"

VALUES = {
    "defaults": [],
    "two namespaces": ["--set", "watchNamespaces={shop,reports}"],
    "no rights on nodes": ["--set", "watchNamespaces={shop}", "--set", "watchNodes=false"],
    "two operators": ["--set", "replicas=2"],
    "images": [
        *(
            "--set",
            "registry=registry.example.com/memorycluster",
            "--set",
            "logImage=registry.example.com/nats:2.15.1",
        ),
        *("--set", "imagePullSecrets[0].name=registry", "--set", "imagePullPolicy=Always"),
    ],
    "everything else": [
        *("--set", "clusterDomain=example.com", "--set", "log.level=debug", "--set", "log.format=json"),
        *(
            "--set",
            "crds.install=false",
            "--set",
            "deletionGuard.install=false",
            "--set",
            "rbac.userRoles=false",
            "--set",
            "networkPolicy.enabled=false",
        ),
        *(
            "--set",
            "serviceAccount.name=mine",
            "--set",
            "serviceAccount.annotations.a=b",
            "--set",
            "podLabels.c=d",
        ),
        *("--set", "podAnnotations.e=f", "--set", "nodeSelector.disk=ssd", "--set", "priorityClassName=high"),
        *("--set-json", 'tolerations=[{"operator": "Exists"}]', "--set", "fullnameOverride=other"),
        *("--set-json", 'affinity={"podAntiAffinity": {}}'),
    ],
    "metrics": ["--set-json", 'networkPolicy.metricsFrom=[{"namespaceSelector": {}}]'],
}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        for name in (NAMESPACE, "shop", "reports"):
            kubectl(running, "create", "namespace", name)
        kubectl(running, "label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        kubectl(running, "create", "priorityclass", "high", "--value=1000")
        yield running


@pytest.fixture
def release(server: ApiServer) -> Iterator[None]:
    """The chart, installed."""
    helm("install", RELEASE, str(CHART), "--namespace", NAMESPACE, server=server)
    yield
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, server=server)


def objects(rendered: str, kind: str = "") -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(rendered) if each and kind in ("", each["kind"])]


def deployment(rendered: str) -> dict[str, Any]:
    [found] = objects(rendered, "Deployment")
    return found


# Rendering


def test_it_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version("memorycluster")
    [container] = deployment(template())["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert container["image"] == f"memorycluster-operator:{version('memorycluster')}"
    assert env["MEMORYCLUSTER_ENGINE_IMAGE"] == ENGINE_IMAGE


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_it_is_linted_and_accepted_by_the_api_server(server: ApiServer, values: list[str]) -> None:
    helm("lint", "--strict", str(CHART), *values)
    rendered = template(*values)
    kubectl(server, "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_its_pod_satisfies_the_restricted_standard(server: ApiServer, values: list[str]) -> None:
    pod = deployment(template(*values))["spec"]["template"]
    manifest = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "name": "pod"}}
    kubectl(server, "-n", NAMESPACE, "create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(manifest))
    [container] = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_the_operator_knows_what_it_is_told(values: list[str]) -> None:
    [container] = deployment(template(*values))["spec"]["template"]["spec"]["containers"]
    told = {each["name"] for each in container["env"]} - {"POD_NAME"}
    known = {option.envvar for option in get_command(app).params if getattr(option, "envvar", None)}
    assert told <= known


def test_values_reach_the_operator() -> None:
    rendered = template(
        "--set", "watchNamespaces={shop,reports}", "--set", "watchNodes=false", "--set", "image=a@b"
    )
    [container] = deployment(rendered)["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert (env["MEMORYCLUSTER_NAMESPACES"], env["MEMORYCLUSTER_WATCH_NODES"]) == ("shop,reports", "false")
    assert container["image"] == "a@b"
    labels = dict(each.split("=") for each in env["MEMORYCLUSTER_POD_LABELS"].split(","))
    assert labels.items() <= deployment(rendered)["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("relicas=2", "additional properties 'relicas' not allowed"),
        ("watchNamespaces=shop", "'/watchNamespaces': got string, want array"),
        ("log.level=loud", "'/log/level'"),
        ("replicas=-1", "'/replicas'"),
    ],
)
def test_wrong_values_are_refused(values: str, complaint: str) -> None:
    with pytest.raises(AssertionError) as caught:
        template("--set", values)
    assert complaint in str(caught.value)


def test_the_definitions_in_it_are_those_of_crds(server: ApiServer) -> None:
    rendered = {each["metadata"]["name"]: each for each in objects(template(), "CustomResourceDefinition")}
    ours = {
        each["metadata"]["name"]: each
        for path in (ROOT / "crds").iterdir()
        for each in objects(path.read_text())
    }
    assert rendered == ours
    assert objects(template("--set", "crds.install=false"), "CustomResourceDefinition") == []


def test_the_manifest_for_those_without_helm_is_up_to_date() -> None:
    assert DEPLOY.read_text() == deploy_manifest(), "run: make manifests"
    assert "elm" not in DEPLOY.read_text().partition("---")[2]


# Rights


def may(server: ApiServer, verb: str, resource: str, namespace: str, name: str = "") -> bool:
    """Whether the operator may; ``resource`` is like ``pods/eviction`` or ``statefulsets.apps``."""
    resource, _, subresource = resource.partition("/")
    plural, _, group = resource.partition(".")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    review = {"user": OPERATOR, "resourceAttributes": attributes | {"namespace": namespace, "name": name}}
    with client.ApiClient(server_configuration(server)) as api:
        answer = client.AuthorizationV1Api(api).create_subject_access_review({"spec": review})
    return bool(answer.status.allowed)


def resource(kind: str) -> str:
    group = RESOURCES[kind].api_version.rpartition("/")[0]
    return f"{RESOURCES[kind].plural}.{group}".removesuffix(".")


OWNED = (
    "ConfigMap",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet",
    "PodDisruptionBudget",
    "NetworkPolicy",
)


@pytest.mark.usefixtures("release")
def test_the_operator_has_the_rights_that_it_needs_and_no_others(server: ApiServer) -> None:
    needed = {(verb, resource(kind)) for kind in KINDS for verb in ("get", "list", "watch")}
    needed |= {(verb, resource(kind)) for kind in OWNED for verb in ("create", "patch")}
    needed |= {("patch", "pods"), ("delete", "pods"), ("create", "pods/eviction")}
    needed |= {("patch", "persistentvolumeclaims"), ("create", "events.events.k8s.io")}
    needed |= {("patch", "memoryclusters.memorycluster.io/status")}
    made = {resource(kind) for kind in ("Job", "MemorySnapshot")}
    needed |= {(verb, each) for verb in ("create", "delete") for each in made}
    needed |= {("patch", "memorysnapshots.memorycluster.io/status")}
    finalized = {resource(kind) for kind in ("MemoryCluster", "MemorySnapshot")}
    needed |= {("patch", each) for each in finalized}
    needed -= {("get", each) for each in made}
    assert {each for each in needed if not may(server, *each, "shop")} == set()
    assert may(server, "watch", "nodes", "")
    assert may(server, "create", "leases.coordination.k8s.io", NAMESPACE)
    assert may(server, "update", "leases.coordination.k8s.io", NAMESPACE, "memorycluster-operator")

    forbidden = {
        ("delete", "persistentvolumeclaims"),
        ("deletecollection", "persistentvolumeclaims"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("update", "memoryclusters.memorycluster.io"),
        ("delete", "memoryclusters.memorycluster.io"),
        *((verb, each) for verb in ("get", "update", "deletecollection") for each in made),
        ("patch", resource("Job")),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("create", "serviceaccounts/token"),
        ("update", "leases.coordination.k8s.io"),
        ("delete", "nodes"),
        ("patch", "nodes"),
    }
    forbidden |= {("delete", resource(kind)) for kind in OWNED}
    assert {each for each in forbidden if may(server, *each, "shop")} == set()
    assert not may(server, "update", "leases.coordination.k8s.io", NAMESPACE, "another")


def test_with_namespaces_it_has_rights_in_these_alone(server: ApiServer) -> None:
    values = ("--set", "watchNamespaces={shop}", "--set", "watchNodes=false")
    helm("install", RELEASE, str(CHART), "--namespace", NAMESPACE, *values, server=server)
    try:
        assert may(server, "list", "secrets", "shop")
        for namespace in ("reports", NAMESPACE, "kube-system"):
            assert not may(server, "list", "secrets", namespace)
        assert not may(server, "list", "nodes", "")
        assert not may(server, "list", "memoryclusters.memorycluster.io", "reports")
    finally:
        helm("uninstall", RELEASE, "--namespace", NAMESPACE, server=server)


@pytest.mark.usefixtures("release")
def test_users_of_a_namespace_may_do_with_its_clusters_what_they_may_do_with_the_rest(
    server: ApiServer,
) -> None:
    selector = (
        "rbac.authorization.k8s.io/aggregate-to-edit=true,app.kubernetes.io/name=memorycluster-operator"
    )
    assert "memorycluster-operator-edit" in kubectl(
        server, "get", "clusterroles", "-l", selector, "-o", "name"
    )


@pytest.mark.usefixtures("release")
def test_a_cluster_that_says_retain_is_not_deleted_while_its_volumes_would_go_along(
    server: ApiServer,
) -> None:
    """Delete -> Retain -> deleted, all in one breath, before the operator can have released the volumes."""
    kubectl(server, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    kubectl(server, "apply", "-n", "shop", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    delete = ("delete", "-n", "shop", "mc", "quickstart")

    def say(**policies: str) -> None:
        for part, policy in policies.items():
            where = ("--subresource=status",) if part == "status" else ()
            patch = json.dumps({part: {"deletionPolicy": policy}})
            kubectl(server, "patch", "-n", "shop", "mc", "quickstart", *where, "--type=merge", "-p", patch)

    def refused(*options: str) -> str:
        try:
            kubectl(server, *delete, "--dry-run=server", *options)
        except AssertionError as error:
            return str(error)
        return ""

    say(status="Delete", spec="Delete")
    assert not refused()
    say(spec="Retain")
    deadline = time.monotonic() + 60
    while not refused():  # a new policy is in force a moment later
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "delete it once status.deletionPolicy is Retain too" in refused()
    controller = "system:serviceaccount:kube-system:namespace-controller"
    assert not refused("--as", controller, "--as-group", "system:masters"), "a namespace is not held up"
    say(status="Retain")
    kubectl(server, *delete)


# Life


def test_upgrades_and_uninstalls_keep_clusters_and_upgrade_the_definitions(
    server: ApiServer, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(CHART, older)
    definition = older / "files" / "crds" / "memoryclusters.yaml"
    was = yaml.safe_load(definition.read_text())
    columns = was["spec"]["versions"][0]["additionalPrinterColumns"]
    last = columns.pop()["name"]
    definition.write_text(yaml.safe_dump(was))

    def shown() -> str:
        jsonpath = "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}"
        return kubectl(server, "get", "crd", was["metadata"]["name"], "-o", jsonpath)

    where = ("--namespace", NAMESPACE)
    helm("uninstall", RELEASE, *where, "--ignore-not-found", server=server)
    helm("install", RELEASE, str(older), *where, server=server)
    kubectl(server, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    assert last not in shown().split()
    kubectl(server, "apply", "-n", "shop", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    uid = kubectl(server, "get", "-n", "shop", "mc", "quickstart", "-o", "jsonpath={.metadata.uid}")

    helm("upgrade", RELEASE, str(CHART), *where, server=server)
    assert last in shown().split()
    helm("uninstall", RELEASE, *where, server=server)
    assert "memorycluster-operator" not in kubectl(
        server, "get", "deployments,clusterroles", "-A", "-o", "name"
    )
    helm("install", RELEASE, str(CHART), *where, server=server)
    assert kubectl(server, "get", "-n", "shop", "mc", "quickstart", "-o", "jsonpath={.metadata.uid}") == uid
    helm("uninstall", RELEASE, *where, server=server)


def test_without_helm(server: ApiServer) -> None:
    kubectl(server, "delete", "crd", "--all")
    kubectl(server, "apply", "-f", str(ROOT / "crds"), "-f", str(ROOT / "deploy"))
    again = kubectl(server, "apply", "-f", str(ROOT / "crds"), "-f", str(ROOT / "deploy"))
    assert all(line.endswith("unchanged") for line in again.splitlines()), again
    assert may(server, "create", "statefulsets.apps", "shop")
    kubectl(server, "delete", "-f", str(ROOT / "deploy"), "--wait=false")
