"""The MemoryCluster's definition in a real API server: it judges as the models do, and in their words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes import client
from tests.lab.apiserver import ApiServer
from tests.operator.tools import kubectl, server_configuration
from tests.unit.api.corpus import BAD_SPECS, GOOD_SPECS, Bad, manifest_text

from memorycluster.api.manifest import Manifest, ManifestError, parse_manifest
from memorycluster.api.parameters import list_parameters
from memorycluster.api.status import MemoryClusterStatus

ROOT = Path(__file__).parents[2]
STORED = sorted((Path(__file__).parent / "stored").glob("*.yaml"))


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        kubectl(running, "apply", "--server-side", "-f", str(ROOT / "crds"))
        kubectl(running, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        yield running


@pytest.fixture
def clusters(server: ApiServer) -> Iterator[Clusters]:
    here = Clusters(server)
    yield here
    here.remove_all()


class Refused(Exception):
    """The API server refuses: what, for each field."""

    def __init__(self, error: client.ApiException) -> None:
        answer = json.loads(error.body)
        causes = answer.get("details", {}).get("causes", [])
        self.lines = [f"{each.get('field')}: {each['message']}" for each in causes] or [answer["message"]]
        super().__init__("\n".join(self.lines))


class Clusters:
    """The MemoryClusters, or other objects of ours, of a namespace of their own."""

    def __init__(self, server: ApiServer, plural: str = "memoryclusters") -> None:
        self._plural = plural
        self._api = client.ApiClient(server_configuration(server))
        self._objects = client.CustomObjectsApi(self._api)
        self.namespace = f"test-{uuid4().hex[:8]}"
        namespaces = client.CoreV1Api(self._api)
        namespaces.create_namespace({"metadata": {"name": self.namespace}})

    def remove_all(self) -> None:
        self._objects.delete_collection_namespaced_custom_object(*self._where())
        self._api.close()

    def create(self, manifest: dict[str, Any], *, try_only: bool = False) -> dict[str, Any]:
        more = {"dry_run": "All"} if try_only else {}
        return self._ask("create", manifest, field_validation="Strict", **more)

    def get(self, name: str) -> dict[str, Any]:
        return self._ask("get", name)

    def change(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return self._ask("patch", name, {"spec": spec}, field_validation="Strict")

    def set_status(self, name: str, status: dict[str, Any]) -> dict[str, Any]:
        body = {"status": status}
        return self._ask("patch", name, body, suffix="_status", field_validation="Strict")

    def scale(self, name: str, replicas: int) -> dict[str, Any]:
        return self._ask("patch", name, {"spec": {"replicas": replicas}}, suffix="_scale")

    def _where(self) -> tuple[str, str, str, str]:
        return "memorycluster.io", "v1alpha1", self.namespace, self._plural

    def _ask(self, verb: str, *arguments: Any, suffix: str = "", **more: Any) -> dict[str, Any]:
        call = getattr(self._objects, f"{verb}_namespaced_custom_object{suffix}")
        try:
            answer: dict[str, Any] = call(*self._where(), *arguments, **more)
        except client.ApiException as error:
            if error.status not in (400, 422):
                raise
            raise Refused(error) from error
        return answer


def manifest(spec: str, name: str = "demo") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(manifest_text(spec, name))
    return loaded


# What only makes sense without Kubernetes


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            "snapshots: {store: {directory: {path: /backups}}}",
            "spec.snapshots.store.directory: Invalid value: a directory is of one machine",
        ),
        (
            "snapshots: {beforeDelete: true}",
            "spec.snapshots.beforeDelete: Invalid value: a last snapshot needs a store that does not go with",
        ),
    ],
)
def test_what_needs_a_store_that_all_machines_reach(clusters: Clusters, spec: str, line: str) -> None:
    parse_manifest(manifest_text(spec))
    with pytest.raises(Refused) as caught:
        clusters.create(manifest(spec), try_only=True)
    assert any(_plain(line) in _plain(each) for each in caught.value.lines), caught.value.lines


def _plain(line: str) -> str:
    return re.sub(r"Invalid value(: .*)?: (?=a)", "", line)


def test_what_a_cluster_began_with_stays(clusters: Clusters) -> None:
    store = "snapshots: {store: {s3: {bucket: b}}}"
    clusters.create(manifest(f"{{restoreFrom: {{snapshot: one}}, {store}}}"))
    clusters.create(manifest(f"{{{store}}}", name="other"))
    for name, change in (
        ("demo", {"restoreFrom": {"snapshot": "two"}}),
        ("demo", {"restoreFrom": None}),
        ("other", {"restoreFrom": {"snapshot": "one"}}),
    ):
        with pytest.raises(Refused, match="it says what the cluster began with"):
            clusters.change(name, change)


def test_a_store_stays_once_there_is_a_snapshot_in_it(clusters: Clusters) -> None:
    """Until then it may have been a mistake; from then on engines need it."""
    clusters.create(manifest("{snapshots: {store: {s3: {bucket: a}}}}"))
    clusters.change("demo", {"snapshots": {"store": {"s3": {"bucket": "b"}}}})
    kept = {"name": "x", "sequence": 5, "offset": 7, "size": 9, "createdAt": "2026-11-01T12:00:00Z"}
    shard = {"index": 0, "slots": ["0-16383"], "nodes": [], "snapshots": {"kept": [kept]}}
    clusters.set_status("demo", {"shards": [shard]})
    for store in (
        {"s3": {"bucket": "a"}},
        {"s3": {"bucket": "b", "prefix": "p"}},
        {"s3": None},
        {"s3": None, "gcs": {"bucket": "b"}},
    ):
        with pytest.raises(Refused, match="engines start from what is in it"):
            clusters.change("demo", {"snapshots": {"store": store}})
    with pytest.raises(Refused, match="engines start from what is in it"):
        clusters.change("demo", {"snapshots": None})
    clusters.change("demo", {"snapshots": {"store": {"credentials": {"secretName": "others"}}}})
    clusters.change("demo", {"snapshots": {"schedule": "0 3 * * *"}})


IDENTITY = {"uid": "00000000-0000-4000-8000-000000000001", "shards": []}


@pytest.mark.parametrize("by_default", [True, False])
def test_what_is_in_the_log_service_stays_and_another_store_may_come_beside_it(
    clusters: Clusters, by_default: bool
) -> None:
    clusters.create(manifest("{}" if by_default else "{snapshots: {store: {log: {}}}}"))
    clusters.set_status("demo", {"identity": {**IDENTITY, "logStore": by_default}})
    with pytest.raises(Refused, match="can only grow: by default"):
        clusters.change("demo", {"snapshots": {"store": {"log": {"maxBytes": "1Gi"}}}})
    clusters.change("demo", {"snapshots": {"store": {"log": {"maxBytes": "5Gi"}}}})
    with pytest.raises(Refused, match="can only grow"):
        clusters.change("demo", {"snapshots": {"store": {"log": {"maxBytes": "4Gi"}}}})
    with pytest.raises(Refused, match="too small for the logs and the snapshots"):
        clusters.change("demo", {"log": {"storage": {"size": "10Gi"}}})
    clusters.change("demo", {"log": {"storage": {"size": "20Gi"}}})
    clusters.change("demo", {"snapshots": {"store": {"s3": {"bucket": "a"}}}})
    with pytest.raises(Refused, match="can only grow" if by_default else "beside another store"):
        clusters.change("demo", {"snapshots": {"store": {"log": None}}})


def test_snapshots_that_are_kept_in_the_log_service_keep_nobody_from_changing_anything(
    clusters: Clusters,
) -> None:
    clusters.create(manifest("{}"))
    kept = {"name": "x", "sequence": 5, "offset": 7, "size": 9, "createdAt": "2026-11-01T12:00:00Z"}
    in_log = kept | {"inLog": True}
    shard = {"index": 0, "slots": ["0-16383"], "nodes": [], "snapshots": {"kept": [in_log]}}
    clusters.set_status("demo", {"identity": {**IDENTITY, "logStore": True}, "shards": [shard]})
    for change in (
        {"replicasPerShard": 1},
        {"snapshots": {"schedule": "0 3 * * *"}},
        {"snapshots": None},
        {"snapshots": {"store": {"log": {}}}},
        {"snapshots": {"store": {"log": None, "s3": {"bucket": "mistaken"}}}},
        {"snapshots": {"store": {"s3": {"bucket": "a"}}}},
    ):
        clusters.change("demo", change)
    shard["snapshots"] = {"kept": [kept, in_log]}
    clusters.set_status("demo", {"identity": {**IDENTITY, "logStore": True}, "shards": [shard]})
    with pytest.raises(Refused, match="engines start from what is in it"):
        clusters.change("demo", {"snapshots": None})


def test_a_cluster_that_was_made_without_may_get_room_in_its_log_service(clusters: Clusters) -> None:
    clusters.create(manifest("{}"))
    clusters.set_status("demo", {"identity": {**IDENTITY, "logStore": False}})
    clusters.change("demo", {"snapshots": {"store": {"log": {"maxBytes": "1Gi"}}}})


def test_the_store_of_a_restored_cluster_stays(clusters: Clusters) -> None:
    """Its log begins with a snapshot that is in it."""
    clusters.create(manifest("{restoreFrom: {snapshot: one}, snapshots: {store: {s3: {bucket: b}}}}"))
    with pytest.raises(Refused, match="engines start from what is in it"):
        clusters.change("demo", {"snapshots": {"store": {"s3": {"bucket": "a"}}}})


# MemorySnapshots


def memorysnapshot(name: str = "now", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "memorycluster.io/v1alpha1",
        "kind": "MemorySnapshot",
        "metadata": {"name": name},
        "spec": {"cluster": "demo"} | spec,
    }


@pytest.fixture
def snapshots(server: ApiServer) -> Iterator[Clusters]:
    here = Clusters(server, "memorysnapshots")
    yield here
    here.remove_all()


def test_a_memorysnapshot_says_what_it_is_of(snapshots: Clusters) -> None:
    snapshots.create(memorysnapshot(), try_only=True)
    for bad, words in (
        (memorysnapshot(cluster="Demo"), "not a name"),
        (memorysnapshot(cluster="demo-log"), "not the name of a MemoryCluster"),
        (memorysnapshot(deletionPolicy="Keep"), "Unsupported value"),
        (memorysnapshot(retention="Keep"), "unknown field"),
        (memorysnapshot(name="x" * 64), "at most 63 characters"),
        ({**memorysnapshot(), "spec": {}}, "Required value"),
        ({key: each for key, each in memorysnapshot().items() if key != "spec"}, "Required value"),
    ):
        with pytest.raises(Refused, match=words):
            snapshots.create(bad, try_only=True)


def test_a_memorysnapshot_stays_what_it_is(snapshots: Clusters) -> None:
    snapshots.create(memorysnapshot())
    with pytest.raises(Refused, match="create another MemorySnapshot"):
        snapshots.change("now", {"cluster": "other"})
    snapshots.change("now", {"deletionPolicy": "Delete"})


def test_kubectl_get_shows_a_memorysnapshot(snapshots: Clusters, server: ApiServer) -> None:
    snapshots.create(memorysnapshot())
    snapshots.set_status("now", {"phase": "Running", "progress": "1/2", "size": "3Mi", "message": "waiting"})
    shown = kubectl(server, "get", "msnap", "-n", snapshots.namespace, "-o", "wide")
    for each in ("demo", "Running", "1/2", "3Mi", "waiting"):
        assert each in shown


# Judging


@pytest.mark.parametrize("bad", BAD_SPECS, ids=lambda bad: bad.spec)
def test_what_the_models_refuse_is_refused_in_the_same_words(clusters: Clusters, bad: Bad) -> None:
    if bad.refusal is None:
        clusters.create(manifest(bad.spec), try_only=True)
        return
    with pytest.raises(Refused) as caught:
        clusters.create(manifest(bad.spec), try_only=True)
    path, _, words = bad.refusal.partition(": ")
    said = caught.value.lines
    if words == "unknown":
        assert any(f'unknown field "spec{path}"' in line for line in said), said
    else:
        assert any(line.startswith(f"spec{path}: ") and words in line for line in said), said
    assert not [line for line in said if "evaluating rule" in line]


@pytest.mark.parametrize("spec", GOOD_SPECS)
def test_what_the_models_accept_is_accepted_and_means_the_same(clusters: Clusters, spec: str) -> None:
    stored = clusters.create(manifest(spec), try_only=True)
    assert Manifest.model_validate(stored).spec == parse_manifest(manifest_text(spec)).spec


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_accepted(clusters: Clusters, path: Path) -> None:
    clusters.create(yaml.safe_load(path.read_text()), try_only=True)


@pytest.mark.parametrize(
    "name", ["x" * 41, "9lives", "a.b", "orders-log", "orders-0", "orders-replicas", "a-config", "orders-"]
)
def test_bad_names_are_refused_by_both(clusters: Clusters, name: str) -> None:
    with pytest.raises(ManifestError, match=r"^metadata\.name: "):
        parse_manifest(manifest_text("{}", name))
    with pytest.raises(Refused, match=r"metadata\.name: "):
        clusters.create(manifest("{}", name), try_only=True)


@pytest.mark.parametrize("name", ["x" * 40, "a", "orders-0a", "log", "replicas-of"])
def test_good_names_are_accepted_by_both(clusters: Clusters, name: str) -> None:
    parse_manifest(manifest_text("{}", name))
    clusters.create(manifest("{}", name), try_only=True)


QUANTITIES = [
    "64Mi",
    "63Mi",
    "67108864",
    67108864,
    1,
    "1.5Gi",
    "1Pi",
    "1.1P",
    "2P",
    "4GB",
    "-1",
    "",
    "4 Gi",
    "9" * 17,
]
AMOUNTS = ["1", 2, "500m", "0.5", "1.5Gi", "x", "", "-1", "1e3", "5.", True]
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "shards": st.sampled_from([0, 1, 2, 166, 167, 333, 334, 500, 501, -1, "1"]),
        "replicasPerShard": st.integers(-1, 6),
        "zones": st.lists(
            st.sampled_from(["a", "A", "b", "c", "1", "d.e_f", "-x", "", "z" * 63, "z" * 64]), max_size=9
        ),
        "paused": st.sampled_from([True, False, "yes"]),
        "deletionPolicy": st.sampled_from(["Retain", "Delete", "retain"]),
        "failover": st.fixed_dictionaries(
            {},
            optional={
                "lease": st.sampled_from(
                    [
                        "1s",
                        "0.999s",
                        "60s",
                        "60.000001s",
                        "1m",
                        "1m1ms",
                        "1h",
                        "",
                        "5",
                        "5s\n",
                        "1s1s1s1s1s1s1s1s",
                        5,
                    ]
                )
            },
        ),
        "log": st.fixed_dictionaries(
            {},
            optional={
                "maxBytes": st.sampled_from(QUANTITIES),
                "storage": st.fixed_dictionaries(
                    {},
                    optional={
                        "size": st.sampled_from([*QUANTITIES, "128Mi", "127Mi", "20Gi"]),
                        "storageClassName": st.sampled_from(["fast", "a.b", "A", "", "x" * 253, "x" * 254]),
                    },
                ),
            },
        ),
        "engine": st.fixed_dictionaries(
            {},
            optional={
                "ioThreads": st.sampled_from([0, 1, 64, 65]),
                "image": st.sampled_from(["a", "a b", "", "é", "a:b@c", "i" * 512, "i" * 513]),
                "parameters": st.dictionaries(
                    st.sampled_from([*list_parameters(), "appendonly", "save"]),
                    st.sampled_from(
                        ["yes", "no", "1", 1, -1, "10mb", "5%", "KEA", "allkeys-lru", "", "1\n", "debug"]
                    ),
                    max_size=3,
                ),
                "resources": st.fixed_dictionaries(
                    {}, optional={"limits": st.dictionaries(st.just("cpu"), st.sampled_from(AMOUNTS))}
                ),
            },
        ),
    },
)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(spec=SPECS)
def test_models_and_api_server_judge_alike(clusters: Clusters, spec: dict[str, Any]) -> None:
    text = json.dumps(spec)
    try:
        mine = parse_manifest(manifest_text(text)).spec
    except ManifestError:
        with pytest.raises(Refused):
            clusters.create(manifest(text), try_only=True)
    else:
        assert Manifest.model_validate(clusters.create(manifest(text), try_only=True)).spec == mine


# Storing


def test_defaults_are_filled_in(clusters: Clusters) -> None:
    stored = clusters.create(
        {"apiVersion": "memorycluster.io/v1alpha1", "kind": "MemoryCluster"} | {"metadata": {"name": "demo"}}
    )
    assert stored["spec"] == {
        "engine": {"version": "9.1.2", "ioThreads": 1},
        "shards": 1,
        "replicasPerShard": 2,
        "zones": ["zone-a", "zone-b", "zone-c"],
        "log": {"maxBytes": "4Gi", "storage": {}},
        "snapshots": {
            "maxLogReplay": "256Mi",
            "retention": {"count": 7},
            "beforeDelete": False,
            "beforeDeleteTimeout": "3600s",
        },
        "failover": {"lease": "5s"},
        "deletionPolicy": "Retain",
        "paused": False,
    }


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_what_was_stored_stays_valid_and_whole(clusters: Clusters, path: Path) -> None:
    was = yaml.safe_load(path.read_text())
    stored = clusters.create(was)
    assert {field: stored["spec"].get(field) for field in was["spec"]} == was["spec"]
    stored = clusters.set_status("stored", was["status"])
    assert stored["status"] == was["status"]
    clusters.change("stored", {"replicasPerShard": 2})
    assert Manifest.model_validate(stored).spec.shards == was["spec"]["shards"]
    status = MemoryClusterStatus.model_validate(stored["status"])
    assert status.model_dump(mode="json", by_alias=True, exclude_none=True) == was["status"]


def test_a_status_without_anything_is_valid(clusters: Clusters) -> None:
    clusters.create(manifest("{}"))
    clusters.set_status("demo", {"phase": "SomethingNewer", "shards": [{"index": 0}]})


# Changing


CHANGES = {
    "replicasPerShard up": ("replicasPerShard: 1", {"replicasPerShard": 3}),
    "replicasPerShard down": ("replicasPerShard: 1", {"replicasPerShard": 0}),
    "maxBytes grows": ("log: {maxBytes: 1Gi}", {"log": {"maxBytes": "1025Mi"}}),
    "maxBytes otherwise written": ("log: {maxBytes: 1Gi}", {"log": {"maxBytes": 1 << 30}}),
    "lease otherwise written": ("failover: {lease: 5s}", {"failover": {"lease": "5000ms"}}),
    "size grows": ("log: {storage: {size: 8Gi}}", {"log": {"storage": {"size": "9Gi"}}}),
    "size set to more than it was": ("{}", {"log": {"storage": {"size": "10Gi"}}}),
    "paused": ("{}", {"paused": True}),
    "deletionPolicy": ("{}", {"deletionPolicy": "Delete"}),
    "peers": ("{}", {"networkPolicy": {"from": [{"podSelector": {}}]}}),
    "parameters": ("{}", {"engine": {"parameters": {"hz": 5}}}),
    "image": ("{}", {"engine": {"image": "other"}}),
}

FIXED = "can't be changed yet: put it back, or make another MemoryCluster"
REFUSED_CHANGES = {
    "shards": ("shards: 2", {"shards": 3}, f"spec.shards: {FIXED}"),
    "shards removed": ("shards: 2", {"shards": None}, f"spec.shards: {FIXED}"),
    "zones": ("zones: [a, b, c]", {"zones": ["a", "b", "d"]}, f"spec.zones: {FIXED}"),
    "zones in another order": ("zones: [a, b, c]", {"zones": ["b", "a", "c"]}, f"spec.zones: {FIXED}"),
    "lease": ("{}", {"failover": {"lease": "6s"}}, f"spec.failover.lease: {FIXED}"),
    "failover removed": ("failover: {lease: 6s}", {"failover": None}, f"spec.failover.lease: {FIXED}"),
    "storage class": (
        "log: {storage: {storageClassName: a}}",
        {"log": {"storage": {"storageClassName": "b"}}},
        f"spec.log.storage.storageClassName: {FIXED}",
    ),
    "storage class removed": (
        "log: {storage: {storageClassName: a}}",
        {"log": {"storage": None}},
        f"spec.log.storage.storageClassName: {FIXED}",
    ),
    "storage class added": (
        "{}",
        {"log": {"storage": {"storageClassName": "b"}}},
        f"spec.log.storage.storageClassName: {FIXED}",
    ),
    "maxBytes shrinks": (
        "log: {maxBytes: 1Gi}",
        {"log": {"maxBytes": "1023Mi"}},
        "spec.log.maxBytes: can only grow",
    ),
    "maxBytes removed": (
        "log: {maxBytes: 5Gi}",
        {"log": {"maxBytes": None}},
        "spec.log.maxBytes: can only grow",
    ),
    "maxBytes outgrows the volume": (
        "log: {maxBytes: 1Gi, storage: {size: 3Gi}}",
        {"log": {"maxBytes": "2Gi"}},
        "spec.log.storage.size: too small for what the logs may take: "
        "use at least log.maxBytes times one more than shards",
    ),
    "size shrinks": (
        "log: {storage: {size: 9Gi}}",
        {"log": {"storage": {"size": "8Gi"}}},
        "spec.log.storage.size: can only grow",
    ),
    "size removed": (
        "log: {storage: {size: 9Gi}}",
        {"log": {"storage": {"size": None}}},
        "spec.log.storage.size: can only grow",
    ),
    "size set to less than it was": (
        "{}",
        {"log": {"storage": {"size": "9Gi"}}},
        "spec.log.storage.size: can only grow: "
        "by default volumes are a quarter larger than what the logs may take",
    ),
}


@pytest.mark.parametrize(("before", "change"), CHANGES.values(), ids=CHANGES.keys())
def test_what_may_change(clusters: Clusters, before: str, change: dict[str, Any]) -> None:
    clusters.create(manifest(before))
    clusters.change("demo", change)


@pytest.mark.parametrize(("before", "change", "line"), REFUSED_CHANGES.values(), ids=REFUSED_CHANGES.keys())
def test_what_may_not_change(clusters: Clusters, before: str, change: dict[str, Any], line: str) -> None:
    clusters.create(manifest(before))
    with pytest.raises(Refused) as caught:
        clusters.change("demo", change)
    path, _, words = line.partition(": ")
    assert [each.startswith(f"{path}: ") and each.endswith(words) for each in caught.value.lines] == [True]


# Using


def test_scaling_is_of_the_replicas_of_each_shard(clusters: Clusters, server: ApiServer) -> None:
    clusters.create(manifest("replicasPerShard: 1"))
    status = {"replicasPerShard": 1, "selector": "memorycluster.io/cluster=demo"}
    clusters.set_status("demo", status)
    scale = clusters.scale("demo", 3)
    assert (scale["spec"]["replicas"], scale["status"]) == (
        3,
        {"replicas": 1, "selector": "memorycluster.io/cluster=demo"},
    )
    assert clusters.get("demo")["spec"]["replicasPerShard"] == 3
    kubectl(server, "scale", "-n", clusters.namespace, "memorycluster/demo", "--replicas=2")
    assert clusters.get("demo")["spec"]["replicasPerShard"] == 2
    with pytest.raises(Refused, match="less than or equal to 5"):
        clusters.scale("demo", 6)


def test_kubectl_get_shows_what_matters(clusters: Clusters, server: ApiServer) -> None:
    clusters.create(yaml.safe_load(STORED[0].read_text()))
    clusters.set_status("stored", yaml.safe_load(STORED[0].read_text())["status"])
    for name in ("mc", "memoryclusters", "memorycluster"):
        head, line = kubectl(server, "get", "-n", clusters.namespace, name).splitlines()
        assert head.split("  ")[0] == "NAME"
        assert line.split()[:4] == ["stored", "Degraded", "1/2", "zone-a,-"]
    head, line = kubectl(server, "get", "-n", clusters.namespace, "mc", "-o", "wide").splitlines()
    columns = [
        "NAME",
        "PHASE",
        "SHARDS",
        "PRIMARY",
        "ZONES",
        "AGE",
        "VERSION",
        "REPLICAS",
        "ENDPOINT",
        "LOG",
        "MESSAGE",
    ]
    assert head.split() == columns
    assert line.split()[5:9] == ["9.1.2", "0", "stored.default.svc.cluster.local:6379", "1/1"]
    assert line.rstrip().endswith("shard 1 has no replica that has caught up")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("memorycluster", "A durable, Valkey-compatible in-memory database."),
        ("mc.spec.failover.lease", "For how long a leader may serve"),
        ("mc.spec.engine.parameters.maxmemory", "Bytes, like 100mb."),
        ("mc.status.blocked", "What the operator waits for"),
    ],
)
def test_kubectl_explain_is_the_reference(
    clusters: Clusters, server: ApiServer, path: str, text: str
) -> None:
    assert text in kubectl(server, "explain", path)
