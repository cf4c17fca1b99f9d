"""What differs is noticed; what only looks different is left alone."""

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.operator.test_objects import inputs

from memorycluster_operator import quantity
from memorycluster_operator.drift import difference, marked
from memorycluster_operator.objects import build_objects
from memorycluster_operator.snapshot import Key, Manifest

WANTED = {
    key: marked(manifest)
    for key, manifest in build_objects(
        inputs(
            engine={"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
            scheduling={"nodeSelector": {"disk": "fast"}},
            networkPolicy={"from": [{"podSelector": {}}]},
        )
    ).items()
}


def live(key: Key) -> Any:
    found = copy.deepcopy(dict(WANTED[key]))
    whole = {"podSelector", "namespaceSelector", "labelSelector", "selector"}
    found["spec"] = _but(found.get("spec", {}), whole)
    found["metadata"] = {
        **found["metadata"],
        "uid": "1",
        "resourceVersion": "2",
        "managedFields": [{"a": "b"}],
    }
    return {**found, "status": {"some": "thing"}}


def _but(value: Any, whole: set[str]) -> Any:
    if isinstance(value, dict):
        kept = {key: each if key in whole else _but(each, whole) for key, each in value.items()}
        plain = all(isinstance(each, str) for each in value.values())
        return kept if plain else kept | {"addedByTheServer": True}
    if isinstance(value, list | tuple):
        return [_but(each, whole) for each in value]
    return value


@pytest.mark.parametrize("key", sorted(WANTED))
def test_what_the_api_server_fills_in_is_no_drift(key: Key) -> None:
    assert difference(WANTED[key], live(key)) is None


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key, each in value.items() for found in paths(each, (*path, key))]
    if isinstance(value, list | tuple):
        return [found for index, each in enumerate(value) for found in paths(each, (*path, index))]
    return [path]


def test_every_single_value_that_is_changed_is_noticed() -> None:
    for key, wanted in WANTED.items():
        for path in paths(wanted):
            if path[0] in ("apiVersion", "kind"):
                continue
            found = live(key)
            target = found
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = "changed"
            assert difference(wanted, found), f"{key} {path}"


def changed(key: Key, edit: str) -> str | None:
    found = live(key)
    exec(edit, {"live": found})
    return difference(WANTED[key], found)


@pytest.mark.parametrize(
    ("kind", "edit", "where"),
    [
        ("Service orders", "live['spec']['selector']['more'] = 'x'", "spec.selector"),
        ("NetworkPolicy orders-engine", "live['spec']['ingress'].append({})", "spec.ingress"),
        (
            "NetworkPolicy orders-engine",
            "live['spec']['ingress'][0]['ports'].append({'port': 1})",
            "spec.ingress",
        ),
        ("NetworkPolicy orders-engine", "live['spec']['ingress'][0]['from'].append({})", "spec.ingress"),
        (
            "PodDisruptionBudget orders-0",
            "live['spec']['selector']['matchExpressions'] = [1]",
            "spec.selector",
        ),
        ("StatefulSet orders-0", "live['metadata']['ownerReferences'] = []", "metadata.ownerReferences"),
        (
            "StatefulSet orders-0",
            "live['spec']['template']['spec']['nodeSelector']['b'] = 'c'",
            "nodeSelector",
        ),
    ],
)
def test_what_somebody_added_where_it_matters_is_noticed(kind: str, edit: str, where: str) -> None:
    found = changed(Key(*kind.split()), edit)
    assert found is not None
    assert where in found


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("Service orders", "live['metadata']['labels']['team'] = 'x'"),
        ("Service orders", "live['spec']['ports'][0]['nodePort'] = 30000"),
        ("StatefulSet orders-0", "live['spec']['template']['spec']['containers'].reverse()"),
        (
            "StatefulSet orders-0",
            "live['spec']['template']['spec']['containers'].append({'name': 'injected'})",
        ),
        (
            "StatefulSet orders-0",
            "live['spec']['template']['spec']['containers'][0]['resources']['limits'] = "
            "{'cpu': '1000m', 'memory': '1024Mi'}",
        ),
    ],
)
def test_what_others_may_do_is_left_alone(kind: str, edit: str) -> None:
    assert changed(Key(*kind.split()), edit) is None


def test_what_is_no_longer_wanted_is_noticed() -> None:
    """A node selector that is removed from the spec is not in what is wanted; the hash tells of it."""
    key = Key("StatefulSet", "orders-0")
    without: Manifest = marked(build_objects(inputs())[key])
    found = copy.deepcopy(dict(without))
    found["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "fast"}
    found["metadata"]["annotations"] = dict(WANTED[key]["metadata"]["annotations"])
    assert difference(without, found) is not None


def test_claim_templates_as_the_api_server_returns_them_are_no_drift() -> None:
    key = Key("StatefulSet", "orders-log")
    made = inputs()
    there = copy.deepcopy(dict(marked(build_objects(made)[key])))
    (template,) = there["spec"]["volumeClaimTemplates"]
    template["spec"]["volumeMode"] = "Filesystem"
    template["status"] = {"phase": "Pending"}
    again = marked(build_objects(dataclasses.replace(made, live={key: there}))[key])
    assert difference(again, there) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1000m"),
        ("1Gi", "1024Mi"),
        ("0.5", "500m"),
        ("1e3", "1k"),
        (2, "2"),
        ("1.0", "1"),
        ("1E", "1000P"),
    ],
)
def test_quantities_are_what_they_mean(one: object, other: object) -> None:
    assert quantity.same(one, other)
    assert quantity.canonical(one) == quantity.canonical(other)


@given(st.integers(0, 10**15), st.sampled_from(["", "k", "Ki", "Mi", "G", "m"]))
def test_a_canonical_quantity_stands_for_the_same(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    assert quantity.parse(quantity.canonical(text)) == quantity.parse(text)
    assert not quantity.same(text, f"{number + 1}{suffix}")


def test_what_is_no_quantity_is_compared_as_it_is() -> None:
    assert quantity.parse("fast") is None
    assert quantity.same("fast", "fast")
    assert not quantity.same("fast", "slow")
