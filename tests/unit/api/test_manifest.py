# ruff: noqa: E501 (a mistake and its line side by side)
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memorycluster.api.manifest import Manifest, ManifestError, load_manifest, parse_manifest
from memorycluster.api.parameters import check_parameter, list_parameters

HEAD = "apiVersion: memorycluster.io/v1alpha1\nkind: MemoryCluster\n"
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
  log: {maxBytes: 512Mi}
  failover: {lease: 1500ms}
"""
    )
    spec = manifest.spec
    assert manifest.metadata.name == "demo"
    assert spec.engine.io_threads == 4
    assert spec.engine.parameters == {"maxmemory": "1gb", "hz": "50", "activedefrag": "yes"}
    assert (spec.shards, spec.nodes_per_shard, spec.zones) == (3, 1, ("here",))
    assert (spec.log.max_bytes, spec.failover.lease) == (512 << 20, 1.5)


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

BAD_SPEC = {
    "shard: 1": ".shard: unknown field; remove it (known here: engine, shards, replicasPerShard, zones, log, failover)",
    "tls: {}": ".tls: unknown field; remove it (known here: engine, shards, replicasPerShard, zones, log, failover)",
    "replicas_per_shard: 1": ".replicas_per_shard: unknown field; remove it (known here: engine, shards, replicasPerShard, zones, log, failover)",
    "engine: {threads: 1}": ".engine.threads: unknown field; remove it (known here: version, ioThreads, parameters)",
    "shards: '1'": ".shards: expected an integer, found a string",
    "shards: true": ".shards: expected an integer, found a boolean",
    "shards: 1.0": ".shards: expected an integer, found a number",
    "shards:": ".shards: expected an integer, found nothing",
    "shards: 0": ".shards: 0 is out of range; use at least 1",
    "shards: 501": ".shards: 501 is out of range; use at most 500",
    "replicasPerShard: -1": ".replicasPerShard: -1 is out of range; use at least 0",
    "replicasPerShard: 6": ".replicasPerShard: 6 is out of range; use at most 5",
    "{shards: 500, replicasPerShard: 5}": ": 500 shards with 5 replicas are 3000 nodes; at most 1000: lower shards or replicasPerShard",
    "zones: zone-a": ".zones: expected a list, found a string",
    "zones: []": ".zones: 0 zones; name 1 or 3 (two zones can't lose one and keep a majority)",
    "zones: [a, b]": ".zones: 2 zones; name 1 or 3 (two zones can't lose one and keep a majority)",
    "zones: [a, b, a]": ".zones: zones must differ from each other",
    "zones: [a, b, 3]": ".zones[2]: expected a string (put it in quotes), found an integer",
    "engine: {version: 9.1}": ".engine.version: 9.1 is not supported; use '9.1.2'",
    "engine: 5": ".engine: expected a map, found an integer",
    "engine: {ioThreads: 0}": ".engine.ioThreads: 0 is out of range; use at least 1",
    "engine: {parameters: [a]}": ".engine.parameters: expected a map of parameter names to values",
    "engine: {parameters: {appendonly: yes}}": ".engine.parameters.appendonly: durability stands on this parameter, so MemoryCluster sets it; remove it",
    "engine: {parameters: {txlog-enabled: 'no'}}": ".engine.parameters.txlog-enabled: durability stands on this parameter, so MemoryCluster sets it; remove it",
    "engine: {parameters: {io-threads: 4}}": ".engine.parameters.io-threads: set spec.engine.ioThreads instead",
    "engine: {parameters: {maxmemory-polcy: x}}": ".engine.parameters.maxmemory-polcy: not a parameter that can be set here; did you mean maxmemory-policy?",
    "engine: {parameters: {requirepass: x}}": ".engine.parameters.requirepass: not a parameter that can be set here; remove it",
    "engine: {parameters: {activedefrag: yes}}": ".engine.parameters.activedefrag: expected a string or an integer; put the value in quotes",
    "engine: {parameters: {maxmemory: lots}}": ".engine.parameters.maxmemory: 'lots' is not bytes, like 100mb",
    "log: {maxBytes: 4GB}": ".log.maxBytes: '4GB' is not a quantity of bytes: write it like 4Gi or 512Mi",
    "log: {maxBytes: true}": ".log.maxBytes: expected a quantity of bytes like 4Gi",
    "log: {maxBytes: 1Mi}": ".log.maxBytes: '1Mi' is out of range; use at least 64Mi",
    "failover: {lease: 5}": ".failover.lease: expected a duration like 5s",
    "failover: {lease: soon}": ".failover.lease: 'soon' is not a duration: write it like 5s, 500ms or 1m30s",
    "failover: {lease: 500ms}": ".failover.lease: '500ms' is out of range; use at least 1s",
    "failover: {lease: 2m}": ".failover.lease: '2m' is out of range; use at most 60s",
}


@pytest.mark.parametrize(("text", "line"), BAD.items())
def test_a_bad_manifest_gets_one_line(text: str, line: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    assert str(caught.value) == line


@pytest.mark.parametrize(("spec", "line"), BAD_SPEC.items())
def test_a_bad_spec_gets_one_line_that_names_the_field(spec: str, line: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(NAMED + "spec: " + (spec if spec.startswith("{") else f"{{{spec}}}"))
    assert str(caught.value) == "spec" + line


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
