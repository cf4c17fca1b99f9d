"""What the fields of a manifest are made of: the base model, names, durations, quantities."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from memorycluster.api import units
from memorycluster.api.units import (
    DURATION,
    MAX_LENGTH,
    QUANTITY,
    format_duration,
    format_quantity,
    parse_duration,
    parse_quantity,
)

LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
LABEL_VALUE = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
IMAGE = r"^[!-~]+$"
CIDR = r"^[0-9a-fA-F:.]+/(0|[1-9][0-9]{0,2})$"
AMOUNT = r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$"
RESERVED = r"-(config|engine|internal|log|nodes|primary|replicas|[0-9]+)$"
"""``<cluster>`` with such an ending is the name of an object of the cluster."""

MEANING = units.MEANING | {
    LABEL: "a name: use lower-case letters, digits and '-', a letter first",
    SUBDOMAIN: "the name of an object: use lower-case letters, digits, '-' and '.'",
    LABEL_VALUE: "a zone: use letters, digits, '-', '_' and '.'",
    IMAGE: "an image: write it like registry.example.com/engine:9.1.2",
    CIDR: "a range of addresses: write it like 10.0.0.0/8",
    AMOUNT: "a quantity: write it like 500m, 2 or 4Gi",
}
"""What a text that matches a pattern is, and how to write it."""

T = TypeVar("T")


class Model(BaseModel):
    """Base: camelCase in YAML, unknown fields refused, no silent conversions."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    def as_written(self) -> dict[str, Any]:
        """Return what was written of this, and no more, as Kubernetes objects say it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def mistake(path: str, reason: str) -> PydanticCustomError:
    """Return the error for what a validator found wrong at ``path`` below what it validates."""
    return PydanticCustomError("mistake", "{path}: {reason}", {"path": path, "reason": reason})


def _seconds(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError("expected a duration like 5s")
    return parse_duration(value)


def _bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a quantity of bytes like 4Gi")
    return parse_quantity(str(value))


def _amount(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(AMOUNT, str(value)):
        raise ValueError(f"{value!r} is not {MEANING[AMOUNT]}")
    return str(value)


def _cluster_name(name: str) -> str:
    if match := re.search(RESERVED, name):
        raise ValueError(f"names of a cluster's own objects end in {match[0]}; choose another name")
    return name


Name = Annotated[str, Field(pattern=LABEL, max_length=40)]
"""A name of ours: of it others are made, which have to be labels of DNS."""
ClusterName = Annotated[Name, AfterValidator(_cluster_name)]
ObjectName = Annotated[str, Field(pattern=SUBDOMAIN, max_length=253)]
"""The name of an object of Kubernetes."""
Zone = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]
Image = Annotated[str, Field(pattern=IMAGE, max_length=512)]
Range = Annotated[str, Field(pattern=CIDR, max_length=64)]
Text = Annotated[str, Field(max_length=512)]
Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": DURATION, "maxLength": MAX_LENGTH}),
]
"""Seconds, written like ``5s``."""
Quantity = Annotated[
    int,
    BeforeValidator(_bytes),
    PlainSerializer(format_quantity, when_used="json"),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "maxLength": MAX_LENGTH}),
]
"""Bytes, written like ``4Gi``."""
Amount = Annotated[
    str,
    BeforeValidator(_amount),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": AMOUNT, "maxLength": MAX_LENGTH}),
]
"""Of CPU, memory and the like, in Kubernetes' own notation."""
Items = Annotated[
    tuple[T, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
]
