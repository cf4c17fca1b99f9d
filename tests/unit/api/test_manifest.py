# ruff: noqa: E501 (a mistake and its line side by side)
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.api.corpus import BAD_SPECS, GOOD_SPECS, HEAD, Bad, manifest_text

from memorycluster.api.manifest import Manifest, ManifestError, load_manifest, parse_manifest
from memorycluster.api.parameters import check_parameter, list_parameters

NAMED = HEAD + "metadata: {name: demo}\n"
ROOT = Path(__file__).parents[3]


def test_everything_but_the_name_has_a_default() -> None:
    spec = parse_manifest(NAMED).spec
    assert (spec.shards, spec.replicas_per_shard, spec.zones) == (1, 2, ("zone-a", "zone-b", "zone-c"))
    assert (spec.engine.version, spec.engine.io_threads, spec.engine.parameters) == ("9.1.2", 1, {})
    assert (spec.log.max_bytes, spec.failover.lease) == (4 << 30, 5.0)


def test_every_field() -> None:
    manifest = parse_manifest(
        NAMED
        + """
spec:
  engine: {version: "9.1.2", ioThreads: 4, parameters: {maxmemory: 1gb, hz: 50, activedefrag: "yes"}}
  shards: 3
  replicasPerShard: 0
  zones: [here]
  log: {maxBytes: 512Mi, image: nats:2.15.1, storage: {size: 4Gi, storageClassName: fast}}
  failover: {lease: 1500ms}
  networkPolicy: {from: [{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 10.0.0.0/8}}]}
  deletionPolicy: Delete
  paused: true
  scheduling: {tolerations: [{key: dedicated, operator: Exists}], nodeSelector: {disk: ssd}}
  imagePullSecrets: [{name: registry}]
"""
    )
    spec = manifest.spec
    assert manifest.metadata.name == "demo"
    assert spec.engine.io_threads == 4
    assert spec.engine.parameters == {"maxmemory": "1gb", "hz": "50", "activedefrag": "yes"}
    assert (spec.shards, spec.nodes_per_shard, spec.zones) == (3, 1, ("here",))
    assert (spec.log.max_bytes, spec.failover.lease) == (512 << 20, 1.5)
    assert (spec.log.storage.size, spec.log.storage.storage_class_name) == (4 << 30, "fast")
    assert [peer.as_written() for peer in spec.network_policy.peers] == [
        {"podSelector": {"matchLabels": {"app": "web"}}},
        {"ipBlock": {"cidr": "10.0.0.0/8"}},
    ]
    assert (spec.deletion_policy, spec.paused, spec.image_pull_secrets[0].name) == (
        "Delete",
        True,
        "registry",
    )
    assert spec.scheduling.as_written() == {
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "nodeSelector": {"disk": "ssd"},
    }


def test_what_kubernetes_exports_can_be_read_again() -> None:
    manifest = parse_manifest(
        HEAD
        + """
metadata:
  name: demo
  namespace: team
  generation: 4
  uid: 6a1f
  resourceVersion: "12"
  creationTimestamp: 2026-01-01T00:00:00Z
  managedFields: []
spec: {shards: 2}
status: {phase: Ready}
"""
    )
    assert (manifest.metadata.generation, manifest.spec.shards) == (4, 2)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert load_manifest(path).metadata.name == path.stem


BAD = {
    "": "no YAML documents; expected exactly one MemoryCluster",
    "- 1": "expected a map with apiVersion, kind, metadata and spec; found a list",
    "a: 1\nb: [": "line 2: not valid YAML: expected the node content, but found '<stream end>'",
    NAMED + "\t- x": "line 4: not valid YAML: found character '\\t' that cannot start any token",
    "{}: 1": "line 1: not valid YAML: found unhashable key",
    NAMED + "kind: MemoryCluster": "line 4: not valid YAML: the key 'kind' is given twice",
    NAMED + "---\n" + NAMED: "2 YAML documents; expected exactly one MemoryCluster",
    "kind: Pod\napiVersion: v1": "apiVersion, kind: expected memorycluster.io/v1alpha1 MemoryCluster, found v1 Pod",
    "kind: MemoryCluster\napiVersion: memorycluster.io/v1": "apiVersion, kind: expected memorycluster.io/v1alpha1 MemoryCluster, found memorycluster.io/v1 MemoryCluster",
    HEAD: "metadata: missing; add it",
    HEAD + "metadata: {}": "metadata.name: missing; add it",
    HEAD + "metadata: {name: no}": "metadata.name: expected a string (put it in quotes), found a boolean",
    HEAD
    + "metadata: {name: A_b}": "metadata.name: 'A_b' is not a name: use lower-case letters, digits and '-', a letter first",
    HEAD
    + "metadata: {name: '../x'}": "metadata.name: '../x' is not a name: use lower-case letters, digits and '-', a letter first",
    HEAD
    + f"metadata: {{name: {'x' * 41}}}": f"metadata.name: '{'x' * 41}' is too long; use at most 40 characters",
    NAMED + "foo: 1": "foo: unknown field; remove it (known here: apiVersion, kind, metadata, spec, status)",
}


@pytest.mark.parametrize(("text", "line"), BAD.items())
def test_a_bad_manifest_gets_one_line(text: str, line: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    assert str(caught.value) == line


@pytest.mark.parametrize("bad", BAD_SPECS, ids=lambda bad: bad.spec)
def test_a_bad_spec_gets_one_line_that_names_the_field(bad: Bad) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(manifest_text(bad.spec))
    assert str(caught.value) == "spec" + bad.line


@pytest.mark.parametrize("name", ["orders-log", "orders-0", "orders-17", "orders-replicas", "a-b-config"])
def test_names_of_a_clusters_own_objects_are_taken(name: str) -> None:
    with pytest.raises(ManifestError, match=r"^metadata.name: names of a cluster's own objects end in -"):
        parse_manifest(manifest_text("{}", name))


@pytest.mark.parametrize(
    "name", ["orders", "log", "config", "orders-logs", "orders-0a", "orders0", "replicas-of"]
)
def test_other_names_are_free(name: str) -> None:
    assert parse_manifest(manifest_text("{}", name)).metadata.name == name


@pytest.mark.parametrize("spec", GOOD_SPECS)
def test_a_good_spec_says_what_it_said(spec: str) -> None:
    manifest = parse_manifest(manifest_text(spec))
    assert Manifest.model_validate(manifest.as_written()) == manifest
    assert (
        Manifest.model_validate(manifest.model_dump(mode="json", by_alias=True, exclude_none=True))
        == manifest
    )


def test_volumes_hold_what_the_logs_may_take() -> None:
    spec = parse_manifest(manifest_text("{shards: 3, log: {maxBytes: 1Gi}}")).spec
    assert (spec.log_bytes, spec.log_volume_bytes) == (4 << 30, 5 << 30)
    spec = parse_manifest(manifest_text("{log: {maxBytes: 1Gi, storage: {size: 20Gi}}}")).spec
    assert spec.log_volume_bytes == 20 << 30


def test_each_mistake_has_its_line() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(NAMED + "spec: {shards: 0, replicasPerShard: 9}")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "spec.shards",
        "spec.replicasPerShard",
    ]


def test_lines_name_the_file(tmp_path: Path) -> None:
    for content, reason in (
        (None, "no such file"),
        (b"\xff\xfe\xfa", "can't be read: not UTF-8 text"),
        (b"- 1", ""),
    ):
        path = tmp_path / "cluster.yaml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ManifestError) as caught:
            load_manifest(path)
        assert str(caught.value).startswith(f"{path}: {reason}")
    with pytest.raises(ManifestError, match="can't be read: Is a directory"):
        load_manifest(tmp_path)


def outcome(text: str) -> list[str]:
    try:
        return ["spec: valid"] if isinstance(parse_manifest(text), Manifest) else []
    except ManifestError as error:
        return str(error).splitlines()


@given(st.text())
def test_any_text_is_a_manifest_or_gets_lines(text: str) -> None:
    assert all(outcome(each) for each in (text, NAMED + text))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(
    st.dictionaries(
        st.sampled_from(["engine", "shards", "replicasPerShard", "zones", "log", "failover"]),
        VALUES | st.dictionaries(st.sampled_from(["version", "parameters", "maxBytes", "lease"]), VALUES),
    )
)
def test_any_spec_is_valid_or_gets_lines(spec: dict[str, object]) -> None:
    assert all(line.startswith("spec") for line in outcome(NAMED + yaml.safe_dump({"spec": spec})))


@given(st.sampled_from(sorted(list_parameters())), st.text())
def test_no_parameter_value_can_smuggle_a_second_line(name: str, value: str) -> None:
    try:
        text = check_parameter(name, value)
    except ValueError:
        return
    assert text == value
    assert not set(text) & set(" \n\r\t\0\"'\\#")
