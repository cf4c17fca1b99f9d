"""The CustomResourceDefinitions, made from the models.

``python -m memorycluster.api.crd DIRECTORY`` writes them.

What the models check, the API server checks as well, by the schema and by the CEL of rules.py.
``kubectl explain`` shows the models' docstrings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel

from memorycluster.api.manifest import KIND
from memorycluster.api.memorysnapshot import SNAPSHOT_KIND, MemorySnapshotSpec, MemorySnapshotStatus
from memorycluster.api.model import MEANING
from memorycluster.api.rules import RULES, Rule, rule
from memorycluster.api.spec import Spec
from memorycluster.api.status import MemoryClusterStatus

GROUP = "memorycluster.io"
VERSION = "v1alpha1"

Schema = dict[str, Any]

HEADER = "# Made by `make manifests` from engine/memorycluster/api; a change here is lost.\n"


def memoryclusters() -> Schema:
    """Return the CustomResourceDefinition of the MemoryCluster."""
    columns = [
        ("Phase", "string", ".status.phase", "The whole in one word"),
        ("Shards", "string", ".status.shardsReady", "Shards with a primary that serves, of how many"),
        ("Primary Zones", "string", ".status.primaryZones", "Where the primaries are, by shard"),
        ("Age", "date", ".metadata.creationTimestamp", "Since when it exists"),
        ("Version", "string", ".status.version", "Version of the engine that all nodes run"),
        ("Replicas", "integer", ".status.replicasPerShard", "Replicas of each shard"),
        ("Endpoint", "string", ".status.endpoints[0]", "What to give a cluster client"),
        ("Log", "string", ".status.logMembersReady", "Members of the log that are current, of how many"),
        ("Message", "string", ".status.message", "What is going on, or what is wrong"),
    ]
    root = _root(
        KIND,
        "A durable, Valkey-compatible in-memory database.",
        RULES[""],
        spec=_structural(Spec, "spec"),
        status=_structural(MemoryClusterStatus, "status"),
    )
    return _crd(
        KIND,
        "mc",
        root,
        columns=_columns(columns, narrow=4),
        scale={
            "specReplicasPath": ".spec.replicasPerShard",
            "statusReplicasPath": ".status.replicasPerShard",
            "labelSelectorPath": ".status.selector",
        },
    )


def memorysnapshots() -> Schema:
    """Return the CustomResourceDefinition of the MemorySnapshot."""
    spec = _structural(MemorySnapshotSpec, "snapshot.spec")
    spec.pop("default", None)
    root = _root(
        SNAPSHOT_KIND,
        "A snapshot of every shard of a MemoryCluster, taken now.",
        RULES["snapshot"],
        spec=spec,
        status=_structural(MemorySnapshotStatus, "snapshot.status"),
    ) | {"required": ["spec"]}
    columns = [
        ("Cluster", "string", ".spec.cluster", "The MemoryCluster that it is of"),
        ("Phase", "string", ".status.phase", "The whole in one word"),
        ("Shards", "string", ".status.progress", "Shards that are done, of how many"),
        ("Size", "string", ".status.size", "Of all its files"),
        ("Age", "date", ".metadata.creationTimestamp", "Since when it exists"),
        ("Completed", "date", ".status.completedAt", "Since when all of it is there"),
        ("Message", "string", ".status.message", "What is going on, or what is wrong"),
    ]
    return _crd(SNAPSHOT_KIND, "msnap", root, columns=_columns(columns, narrow=5))


CRDS = (memoryclusters, memorysnapshots)


def _root(kind: str, description: str, rules: Sequence[Rule], *, spec: Schema, status: Schema) -> Schema:
    return {
        "type": "object",
        "description": description,
        "x-kubernetes-validations": rules,
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": kind},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": spec,
            "status": _lenient(status),
        },
    }


def _columns(columns: Sequence[tuple[str, str, str, str]], *, narrow: int) -> list[Schema]:
    """Return the columns of ``kubectl get``; those beyond the first ``narrow`` are shown by -o wide."""
    return [
        {"name": name, "type": type_, "jsonPath": path, "description": description}
        | ({"priority": 1} if index >= narrow else {})  # 0 the API server would drop
        for index, (name, type_, path, description) in enumerate(columns)
    ]


def _crd(
    kind: str, short_name: str, schema: Schema, *, columns: list[Schema], scale: Schema | None = None
) -> Schema:
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            # Whoever uninstalls the operator keeps the clusters: without the CRD they would be deleted.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
                # With others in it, `kubectl get memorycluster` would list those too.
                **({"categories": [KIND.lower()]} if kind == KIND else {}),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}} | ({"scale": scale} if scale else {}),
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def _structural(model: type[BaseModel], path: str) -> Schema:
    """Return the structural schema of ``model``, which stands at ``path`` of the resource."""
    # Serialization: there defaults are written as a manifest writes them.
    whole = model.model_json_schema(mode="serialization")
    return _Converter(whole.get("$defs", {})).convert(whole, path)


class _Converter:
    """From pydantic's JSON schema to what a CustomResourceDefinition may contain."""

    KEPT = (
        "description",
        "type",
        "format",
        "enum",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "x-kubernetes-int-or-string",
    )

    LIMITS: ClassVar[dict[str, str]] = {"array": "maxItems", "object": "maxProperties"}
    """What pydantic calls maxLength where it can't see the type."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions

    def convert(self, schema: Schema, path: str) -> Schema:
        """Return ``schema``, which stands at ``path``, with all that it refers to."""
        schema = self._resolved(schema)
        made: Schema = {key: schema[key] for key in self.KEPT if key in schema}
        if "description" in made:
            made["description"] = " ".join(made["description"].split())
        if "const" in schema:
            made["enum"] = [schema["const"]]
        if "maxLength" in made and (limit := self.LIMITS.get(made.get("type", ""))):
            made[limit] = made.pop("maxLength")
        if made.get("type") == "integer":
            made["format"] = "int64"
        if "properties" in schema:
            made["properties"] = {
                name: self.convert(each, f"{path}.{name}") for name, each in schema["properties"].items()
            }
            if schema.get("required"):
                made["required"] = schema["required"]
        elif isinstance(schema.get("additionalProperties"), dict):
            made["additionalProperties"] = self.convert(schema["additionalProperties"], f"{path}{{}}")
        if "items" in schema:
            made["items"] = self.convert(schema["items"], f"{path}[]")
        default = schema.get("default")
        if "properties" in made:
            # All its fields' defaults, for rules judge a default; empty, if a rule compares it.
            default = {
                name: each["default"] for name, each in made["properties"].items() if "default" in each
            }
            there = not path.endswith("[]") and "required" not in made
            compared = any("oldSelf" in each["rule"] for each in RULES.get(path, ()))
            default = default if there and (default or compared) else None
        elif default in ({}, []):
            default = None
        if default is not None:
            made["default"] = default
        rules = [*self._pattern_rules(schema), *RULES.get(path, ())]
        if rules:
            made["x-kubernetes-validations"] = rules
        return made

    def _resolved(self, schema: Schema) -> Schema:
        """Return ``schema`` with what it refers to, and as if it could not be null."""
        schema = dict(schema)
        if options := schema.pop("anyOf", None):
            schema = self._resolved(next(each for each in options if each.get("type") != "null")) | schema
        if reference := schema.pop("$ref", None):
            schema = self._resolved(self._definitions[reference.rpartition("/")[2]]) | schema
        return schema

    @staticmethod
    def _pattern_rules(schema: Schema) -> list[Schema]:
        """Return a rule with a message for a pattern, of which the API server would only show the pattern."""
        pattern = schema.get("pattern")
        if pattern is None:
            return []
        text = "string(self)" if schema.get("x-kubernetes-int-or-string") else "self"
        return [rule(f"{text}.matches(r'{pattern}')", f"not {schema.get('x-meaning') or MEANING[pattern]}")]


def _lenient(schema: Schema) -> Schema:
    """Return the schema of a status, in which nothing must be: what an older operator wrote stays valid."""
    keys = {"conditions": "type", "shards": "index", "nodes": "name", "members": "name"}
    made = {key: value for key, value in schema.items() if key not in ("required", "enum", "default")}
    if "properties" in made:
        made["properties"] = {name: _lenient(each) for name, each in made["properties"].items()}
        for name, each in made["properties"].items():
            key = keys.get(name)
            if key and key in each.get("items", {}).get("properties", {}):
                each |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
                each["items"]["required"] = [key]
    if "items" in made:
        made["items"] = _lenient(made["items"])
    return made


class _Plain(yaml.SafeDumper):
    """Writes things out again where YAML could refer to them."""

    def ignore_aliases(self, data: object) -> bool:
        """Return that there are none."""
        return True


def render() -> dict[str, str]:
    """Return the text of each CustomResourceDefinition, by the name of its file."""
    return {
        f"{made['spec']['names']['plural']}.yaml": HEADER
        + yaml.dump(made, Dumper=_Plain, sort_keys=False, width=110)
        for made in (make() for make in CRDS)
    }


if __name__ == "__main__":
    for directory in sys.argv[1:]:
        for name, text in render().items():
            Path(directory, name).write_text(text, encoding="utf-8")
