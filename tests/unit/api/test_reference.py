"""What is made from the models is up to date, and says what the code does."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from memorycluster.api import crd, reference
from memorycluster.api.manifest import parse_manifest
from memorycluster.api.parameters import list_parameters
from memorycluster.api.spec import Spec

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "manifest.md").read_text()


def test_the_documented_tables_are_up_to_date() -> None:
    assert reference.renew(TEXT) == TEXT, "run: make manifests"


@pytest.mark.parametrize("directory", ["crds", "charts/memorycluster-operator/files/crds"])
def test_the_custom_resource_definitions_are_up_to_date(directory: str) -> None:
    kept = {path.name: path.read_text() for path in (ROOT / directory).iterdir()}
    assert kept == crd.render(), "run: make manifests"


def test_the_api_server_knows_the_fields_that_the_operator_does() -> None:
    spec = crd.memoryclusters()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(spec["properties"]) == {field.alias or name for name, field in Spec.model_fields.items()}


def test_the_documented_example_is_valid() -> None:
    parse_manifest(re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0])


def test_every_field_is_documented() -> None:
    table = "".join(
        TEXT.partition(f"<!-- {name} -->")[2].partition("<!-- end -->")[0] for name in ("spec", "run")
    )
    documented = dict(re.findall(r"^\| `([\w.\[\]]+)` \| .* \| (.*) \|$", table, re.MULTILINE))
    for name, field in Spec.model_fields.items():
        path = field.alias or name
        assert documented[path] == " ".join((field.description or "").split())
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for inner, each in field.annotation.model_fields.items():
                assert f"{path}.{each.alias or inner}" in documented
    assert documented["networkPolicy.from[].ipBlock.cidr"] == "Like 10.0.0.0/8."


def test_the_documented_defaults_are_the_defaults() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| .* \| `(.*)` \| .* \|$", TEXT, re.MULTILINE)
    spec: dict[str, object] = {}
    for path, default in rows:
        at = spec
        *parents, last = path.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})  # type: ignore[assignment]
        at[last] = yaml.safe_load(default)
    assert len(rows) > 8
    assert Spec.model_validate(spec) == Spec()


def test_every_parameter_is_documented() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([^|]*) \|$", TEXT.partition("## Engine parameters")[2], re.MULTILINE
    )
    assert dict(rows) == list_parameters()


def test_every_field_of_the_definition_explains_itself() -> None:
    def fields(schema: crd.Schema, path: str) -> list[str]:
        inner = schema.get("items", schema)
        own = [] if schema.get("description") else [path]
        return own + [
            line
            for name, each in inner.get("properties", {}).items()
            for line in fields(each, f"{path}.{name}")
        ]

    for make in crd.CRDS:
        schema = make()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert fields(schema["properties"]["spec"], "spec") == []
        assert fields(schema["properties"]["status"], "status") == []
