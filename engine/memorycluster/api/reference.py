"""The tables of docs/manifest.md, made from the models: ``python -m memorycluster.api.reference FILE``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memorycluster.api.crd import memoryclusters, memorysnapshots
from memorycluster.api.parameters import list_parameters

Schema = dict[str, Any]


def renew(text: str) -> str:
    """Return ``text`` with what stands between ``<!-- NAME -->`` and ``<!-- end -->`` made anew."""
    version = memoryclusters()["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    of_snapshots = memorysnapshots()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    tables = {
        "spec": _table(("field", "type", "default", ""), _spec_rows(properties["spec"])),
        "status": _table(("field", ""), _status_rows(properties["status"])),
        "snapshot spec": _table(("field", "type", "default", ""), _spec_rows(of_snapshots["spec"])),
        "snapshot status": _table(("field", ""), _status_rows(of_snapshots["status"])),
        "parameters": _table(
            ("parameter", "value"), ((f"`{name}`", value) for name, value in list_parameters().items())
        ),
    }
    for name, table in tables.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        text = before + start + table + end + after
    return text


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _spec_rows(schema: Schema) -> Iterator[tuple[str, ...]]:
    for path, each in _fields(schema, "", set()):
        default = each.get("default")
        written = f"`{_written(default)}`" if default is not None and "properties" not in each else ""
        yield f"`{path}`", _type(each), written, each.get("description", "")


def _status_rows(schema: Schema) -> Iterator[tuple[str, ...]]:
    for path, each in _fields(schema, "", set()):
        yield f"`{path}`", each.get("description", "")


def _fields(schema: Schema, prefix: str, told: set[tuple[str, ...]]) -> Iterator[tuple[str, Schema]]:
    """Yield the path and the schema of each field; what is inside of one only the first time.

    The engine's parameters have a table of their own.
    """
    for name, each in schema["properties"].items():
        path = f"{prefix}{name}"
        yield path, each
        inner, ending = (each["items"], "[].") if "items" in each else (each, ".")
        content = tuple(inner.get("properties", ()))
        if content and content not in told and path != "engine.parameters":
            told.add(content)
            yield from _fields(inner, path + ending, told)


def _type(schema: Schema) -> str:
    if schema.get("enum"):
        return " ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema.get("type") == "integer" and {"minimum", "maximum"} <= set(schema):
        return f"{schema['minimum']} to {schema['maximum']}"
    kind = str(schema["type"])
    return {"object": "map", "array": "list"}.get(kind, kind)


def _written(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"[{', '.join(map(str, default))}]" if isinstance(default, list) else str(default)


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(renew(file.read_text(encoding="utf-8")), encoding="utf-8")
