"""docs/manifest.md says what the code does."""

import re
from pathlib import Path

import yaml

from memorycluster.api.manifest import Manifest, parse_manifest
from memorycluster.api.parameters import list_parameters

TEXT = (Path(__file__).parents[3] / "docs" / "manifest.md").read_text()
EXAMPLE = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0]


def test_the_documented_defaults_are_the_defaults() -> None:
    bare = Manifest.model_validate(yaml.safe_load(EXAMPLE) | {"spec": {}})
    assert parse_manifest(EXAMPLE).spec == bare.spec


def test_every_field_is_documented() -> None:
    spec = yaml.safe_load(EXAMPLE)["spec"]
    defaults = Manifest.model_validate(yaml.safe_load(EXAMPLE)).spec.model_dump(by_alias=True)
    assert set(spec) == set(defaults)
    for name, value in defaults.items():
        if isinstance(value, dict):
            assert set(spec[name]) == set(value)


def test_every_parameter_is_documented() -> None:
    rows = re.findall(r"^\| `(.*?)` \| (.*) \|$", TEXT, re.MULTILINE)
    assert dict(rows) == list_parameters()
