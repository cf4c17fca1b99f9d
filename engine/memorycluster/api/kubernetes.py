"""Pieces of Kubernetes' own types in a manifest. Checked lightly: the API server has the last word."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from pydantic import Field, model_validator

from memorycluster.api.model import CIDR, MEANING, Amount, Items, Model, ObjectName, Range, Text, mistake
from memorycluster.api.units import parse_amount

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class Resources(Model):
    """What a container asks for, and what it may use at most."""

    requests: Annotated[Mapping[str, Amount], Field(max_length=16)] = {}
    """What the scheduler reserves, like cpu: 500m, memory: 2Gi."""
    limits: Annotated[Mapping[str, Amount], Field(max_length=16)] = {}
    """What the container may use at most, like memory: 2Gi."""

    @model_validator(mode="after")
    def _bounded(self) -> Resources:
        for name, request in self.requests.items():
            limit = self.limits.get(name)
            if limit is not None and parse_amount(request) > parse_amount(limit):
                raise mistake(f"requests.{name}", f"{request} is more than the limit of {limit}")
        return self


class Toleration(Model):
    """A taint that does not keep pods off a node."""

    key: Text | None = None
    """The taint's key; none: every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists ignores the value."""
    value: Text | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; none: every effect."""
    toleration_seconds: int | None = None
    """For how long NoExecute is tolerated; none: for ever."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError("Exists takes no value; remove it, or use Equal")
        if self.operator == "Equal" and not self.key:
            raise ValueError("Equal needs a key; name it, or use Exists")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds goes with effect: NoExecute only")
        return self


class LabelExpression(Model):
    """What the values of one label must be."""

    key: Text
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label relates to the values."""
    values: Annotated[Items[Text], Field(max_length=64)] = ()
    """For In and NotIn."""

    @model_validator(mode="after")
    def _makes_sense(self) -> LabelExpression:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            raise ValueError("In and NotIn need values, Exists and DoesNotExist take none")
        return self


class LabelSelector(Model):
    """All of this must hold; an empty selector takes everything."""

    match_labels: Annotated[Mapping[str, Text], Field(max_length=64)] = {}
    """Labels and the values that they must have."""
    match_expressions: Annotated[Items[LabelExpression], Field(max_length=16)] = ()
    """Further requirements."""


def _network(path: str, text: str) -> IPv4Network | IPv6Network:
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise mistake(path, f"{text!r} is not {MEANING[CIDR]}") from None
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped:
        raise mistake(path, f"{text!r} is IPv4 written as IPv6; write it like 10.0.0.0/8")
    return found


class IPBlock(Model):
    """A range of addresses."""

    cidr: Range
    """Like 10.0.0.0/8."""
    except_: Annotated[Items[Range], Field(alias="except", max_length=16)] = ()
    """Ranges within it that are left out."""

    @model_validator(mode="after")
    def _are_ranges(self) -> IPBlock:
        whole = _network("cidr", self.cidr)
        for index, text in enumerate(self.except_):
            part = _network(f"except[{index}]", text)
            if part.version != whole.version or not part.subnet_of(whole) or part == whole:  # type: ignore[arg-type]
                raise mistake(f"except[{index}]", f"{text} is no part of {self.cidr}")
        return self


class Peer(Model):
    """Who may connect: pods by their labels and those of their namespace, or a range of addresses."""

    pod_selector: LabelSelector | None = None
    """Pods by label; without namespaceSelector those of the cluster's own namespace."""
    namespace_selector: LabelSelector | None = None
    """Namespaces by label; without podSelector all their pods."""
    ip_block: IPBlock | None = None
    """A range of addresses outside of the Kubernetes cluster."""

    @model_validator(mode="after")
    def _names_somebody(self) -> Peer:
        selects = self.pod_selector is not None or self.namespace_selector is not None
        if selects == (self.ip_block is not None):
            raise ValueError("name podSelector, namespaceSelector or both, or ipBlock alone")
        return self


class SecretName(Model):
    """A Secret of the cluster's namespace."""

    name: ObjectName
    """Its name."""
