"""The MemoryCluster resource as people write it: read, checked, with one clear line for each mistake."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from memorycluster.api.model import MEANING, ClusterName, Model
from memorycluster.api.spec import Spec
from memorycluster.api.units import format_quantity

API_VERSION = "memorycluster.io/v1alpha1"
KIND = "MemoryCluster"


class ManifestError(ValueError):
    """The manifest can't be used. One line for each mistake, naming the field and the remedy."""


class Metadata(Model):
    """What Kubernetes knows of any object; what its API server adds is accepted and ignored."""

    model_config = ConfigDict(extra="ignore")

    name: ClusterName
    namespace: str = "default"
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    generation: int = 1


class Manifest(Model):
    """A MemoryCluster."""

    api_version: Literal["memorycluster.io/v1alpha1"]
    kind: Literal["MemoryCluster"]
    metadata: Metadata
    spec: Spec = Spec()
    status: Any = None
    """Accepted and ignored, so that what Kubernetes exports can be read again."""


def load_manifest(path: Path) -> Manifest:
    """Return the manifest in the file ``path``.

    :raises ManifestError: each line of its text names the file, the field and the remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ManifestError(f"{path}: can't be read: {reason}") from error
    try:
        return parse_manifest(text)
    except ManifestError as error:
        raise ManifestError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def parse_manifest(text: str) -> Manifest:
    """Return the manifest in ``text``. Raises ManifestError."""
    try:
        documents = [each for each in yaml.load_all(text, Loader=_Loader) if each is not None]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ManifestError(f"{line}not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ManifestError(f"not valid YAML: {' '.join(str(error).split())}") from error
    if len(documents) != 1:
        count = len(documents) or "no"
        raise ManifestError(f"{count} YAML documents; expected exactly one {KIND}")
    document = documents[0]
    if not isinstance(document, dict):
        raise ManifestError(
            f"expected a map with apiVersion, kind, metadata and spec; found {_kind(document)}"
        )
    found = [document.get("apiVersion"), document.get("kind")]
    if found != [API_VERSION, KIND]:
        names = " ".join(str(each or "none") for each in found)
        raise ManifestError(f"apiVersion, kind: expected {API_VERSION} {KIND}, found {names}")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise ManifestError("\n".join(_line(each) for each in error.errors())) from error


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which the last would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    kinds = {str: "a string", int: "an integer", float: "a number", list: "a list", dict: "a map"}
    return kinds.get(type(value), "nothing" if value is None else type(value).__name__)


_EXPECTED = {
    "int_type": "an integer",
    "string_type": "a string (put it in quotes)",
    "tuple_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "bool_type": "true or false",
}


def _line(error: ErrorDetails) -> str:
    """Return one line that says what is wrong where, and what to do."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    path = path.removeprefix(".") or "manifest"
    context = error.get("ctx", {})
    value = error["input"]
    match error["type"]:
        case "extra_forbidden":
            return f"{path}: unknown field; remove it (known here: {', '.join(_fields(error['loc'][:-1]))})"
        case "missing":
            return f"{path}: missing; add it"
        case "literal_error":
            return f"{path}: {value!r} is not supported; use {context['expected']}"
        case "greater_than_equal" | "less_than_equal":
            relation = "at least" if error["type"] == "greater_than_equal" else "at most"
            return f"{path}: {value!r} is out of range; use {relation} {_limit(path, context)}"
        case "string_pattern_mismatch":
            return f"{path}: {value!r} is not {MEANING[context['pattern']]}"
        case "string_too_long":
            return f"{path}: {value!r} is too long; use at most {context['max_length']} characters"
        case "too_long":
            return f"{path}: {context['actual_length']} items; use at most {context['max_length']}"
        case "mistake":
            return f"{path}.{context['path']}: {context['reason']}"
        case "value_error":
            return f"{path}: {context['error']}"
        case kind if kind in _EXPECTED:
            return f"{path}: expected {_EXPECTED[kind]}, found {_kind(value)}"
    return f"{path}: {error['msg']}"


def _limit(path: str, context: dict[str, Any]) -> str:
    limit = context["ge"] if "ge" in context else context["le"]
    if path in ("spec.failover.lease", "spec.snapshots.beforeDeleteTimeout"):
        return f"{limit:g}s"
    if path in ("spec.log.maxBytes", "spec.snapshots.maxLogReplay"):
        return format_quantity(int(limit))
    return f"{limit}"


def _fields(path: tuple[int | str, ...]) -> list[str]:
    """Return the names of the fields of the model at ``path`` of a manifest."""
    model: type[BaseModel] = Manifest
    for part in path:
        for name, field in model.model_fields.items():
            if (field.alias or name) == part:
                model = _model(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model(annotation: object) -> type[BaseModel] | None:
    """Return the model that an annotation contains: alone, in a tuple, or optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model, get_args(annotation))), None)
