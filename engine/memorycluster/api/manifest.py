"""The MemoryCluster resource as people write it: read, checked, with one clear line for each mistake."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from memorycluster.api.parameters import check_parameter
from memorycluster.api.units import parse_duration, parse_quantity

API_VERSION = "memorycluster.io/v1alpha1"
KIND = "MemoryCluster"
MAX_NODES = 1000
"""Nodes of one cluster at most: what Valkey's cluster bus is known to bear."""


class ManifestError(ValueError):
    """The manifest can't be used. One line for each mistake, naming the field and the remedy."""


class Model(BaseModel):
    """Base: camelCase in YAML, unknown fields refused, no silent conversions."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)


def _seconds(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError("expected a duration like 5s")
    return parse_duration(value)


def _bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a quantity of bytes like 4Gi")
    return parse_quantity(str(value))


def _parameters(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("expected a map of parameter names to values")
    checked = {}
    for name, each in value.items():
        try:
            checked[str(name)] = check_parameter(str(name), each)
        except ValueError as error:
            reason = {"name": str(name), "reason": str(error)}
            raise PydanticCustomError("parameter", "{name}: {reason}", reason) from error
    return checked


def _unique_zones(zones: tuple[str, ...]) -> tuple[str, ...]:
    if len(zones) not in (1, 3):
        raise ValueError(f"{len(zones)} zones; name 1 or 3 (two zones can't lose one and keep a majority)")
    if len(set(zones)) != len(zones):
        raise ValueError("zones must differ from each other")
    return zones


LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
Label = Annotated[str, Field(pattern=LABEL, max_length=40)]
Duration = Annotated[float, BeforeValidator(_seconds)]
Quantity = Annotated[int, BeforeValidator(_bytes)]
Parameters = Annotated[dict[str, str], BeforeValidator(_parameters)]
Zones = Annotated[
    tuple[Label, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
]


class Engine(Model):
    """The engine of each node."""

    version: Literal["9.1.2"] = "9.1.2"
    """Valkey's version."""
    io_threads: Annotated[int, Field(ge=1, le=64)] = 1
    parameters: Parameters = {}
    """Valkey configuration parameters, those that don't touch durability."""


class Log(Model):
    """The log of each shard."""

    max_bytes: Annotated[Quantity, Field(ge=64 << 20)] = 4 << 30
    """Size limit on each member, in bytes; at 90% writes are refused."""


class Failover(Model):
    """How fast a dead primary is noticed."""

    lease: Annotated[Duration, Field(ge=1, le=60)] = 5.0
    """Seconds for which a leader may serve after its last committed record."""


class Spec(Model):
    """What is wanted."""

    engine: Engine = Engine()
    shards: Annotated[int, Field(ge=1, le=500)] = 1
    replicas_per_shard: Annotated[int, Field(ge=0, le=5)] = 2
    zones: Annotated[Zones, AfterValidator(_unique_zones)] = ("zone-a", "zone-b", "zone-c")
    log: Log = Log()
    failover: Failover = Failover()

    @property
    def nodes_per_shard(self) -> int:
        """The primary and its replicas."""
        return 1 + self.replicas_per_shard

    @model_validator(mode="after")
    def _bounded(self) -> Spec:
        nodes = self.shards * self.nodes_per_shard
        if nodes > MAX_NODES:
            raise ValueError(
                f"{self.shards} shards with {self.replicas_per_shard} replicas are {nodes} nodes; "
                f"at most {MAX_NODES}: lower shards or replicasPerShard"
            )
        return self


class Metadata(Model):
    """What Kubernetes knows of any object; what its API server adds is accepted and ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Label
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
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
            return f"{path}: {value!r} is not a name: use lower-case letters, digits and '-', a letter first"
        case "string_too_long":
            return f"{path}: {value!r} is too long; use at most {context['max_length']} characters"
        case "parameter":
            return f"{path}.{context['name']}: {context['reason']}"
        case "value_error":
            return f"{path}: {context['error']}"
        case kind if kind in _EXPECTED:
            return f"{path}: expected {_EXPECTED[kind]}, found {_kind(value)}"
    return f"{path}: {error['msg']}"


def _limit(path: str, context: dict[str, Any]) -> str:
    limit = context["ge"] if "ge" in context else context["le"]
    if path == "spec.failover.lease":
        return f"{limit:g}s"
    if path == "spec.log.maxBytes":
        return f"{int(limit) >> 20}Mi"
    return f"{limit}"


def _fields(path: tuple[int | str, ...]) -> list[str]:
    """Return the names of the fields of the model at ``path`` of a manifest."""
    model: type[BaseModel] = Manifest
    for part in path:
        for field in model.model_fields.values():
            if field.alias == part and isinstance(field.annotation, type):
                model = field.annotation
    return [field.alias or name for name, field in model.model_fields.items()]
