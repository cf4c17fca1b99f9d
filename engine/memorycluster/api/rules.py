"""What a MemoryCluster's schema can't say, as CEL for the API server.

That is what the models check, in the same words, and what may not change.

The API server estimates what each rule costs at worst, and refuses a definition that could cost too much: so
all that rules look at is bounded, and messages name no values (a number made a text has no bounded cost).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memorycluster.api.model import CIDR, LABEL, MEANING, RESERVED
from memorycluster.api.spec import MAX_NODES
from memorycluster.api.units import DURATION, QUANTITY

Rule = dict[str, Any]


def rule(cel: str, message: str, field: str = "") -> Rule:
    """Return a rule; ``field`` is the path of what is wrong, below what the rule is of."""
    made: Rule = {"rule": cel, "message": message}
    if field:
        made["fieldPath"] = field
    return made


def _fixed(cel: str, field: str = "") -> Rule:
    return rule(cel, "can't be changed yet: put it back, or make another MemoryCluster", field)


def _bytes(quantity: str) -> str:
    """Return CEL for the bytes of a quantity: a double, exact up to 8 PiB."""
    return f"quantity({quantity}).asApproximateFloat()"


_BYTES, _OLD_BYTES = _bytes("string(self)"), _bytes("string(oldSelf)")
_SIZED = "(has(self.log.storage.size) && isQuantity(string(self.log.storage.size)))"
_SIZE = _bytes("string(self.log.storage.size)")
_WAS_SIZED = "has(oldSelf.log.storage.size)"
_OLD_SIZE = _bytes("string(oldSelf.log.storage.size)")
_NEED = f"double(self.shards + 1) * {_bytes('string(self.log.maxBytes)')}"
_IN_LOG = "self.snapshots.store.log"
_SNAPSHOTS_SIZED = (
    f"(has(self.snapshots) && has(self.snapshots.store) && has({_IN_LOG}) && has({_IN_LOG}.maxBytes))"
)
_SNAPSHOTS = (
    f"({_SNAPSHOTS_SIZED} ? {_bytes(f'string({_IN_LOG}.maxBytes)')} : "
    f"double(self.shards) * {_bytes('string(self.log.maxBytes)')})"
)

_RESOURCES = [
    rule(
        "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
        "!isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) || "
        "!quantity(string(self.requests[name])).isGreaterThan(quantity(string(self.limits[name]))))",
        "more than the limit",
        ".requests",
    )
]
_EXPRESSION = [
    rule(
        "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
        "In and NotIn need values, Exists and DoesNotExist take none",
    )
]

_STORE_SIZE = [
    rule(
        f"!string(self).matches(r'{QUANTITY}') || "
        f"({_BYTES} >= {_bytes(repr('64Mi'))} && {_BYTES} <= {_bytes(repr('1Pi'))})",
        "out of range; use at least 64Mi and at most 1Pi",
    ),
]

_ONE_STORE = [
    rule(
        "[has(self.s3), has(self.azure), has(self.gcs), has(self.directory)].filter(each, each).size() <= 1",
        "name one store",
    ),
    rule(
        "!has(self.directory)",
        "a directory is of one machine: on Kubernetes name s3, azure, gcs or log",
        ".directory",
    ),
]
_ELSEWHERE = "has(self.store.s3) || has(self.store.azure) || has(self.store.gcs)"


def _names(who: str, store: str) -> str:
    """Return CEL for whether a cluster names a store: nothing on the way to it must be there."""
    return (
        f"(has({who}.spec.snapshots) && has({who}.spec.snapshots.store) && "
        f"has({who}.spec.snapshots.store.{store}))"
    )


def _same(store: str) -> str:
    now, old = f"self.spec.snapshots.store.{store}", f"oldSelf.spec.snapshots.store.{store}"
    named = _names("self", store)
    return f"{named} == {_names('oldSelf', store)} && (!{named} || {now} == {old})"


_HAD_STORE = " || ".join(_names("oldSelf", name) for name in ("s3", "azure", "gcs", "directory"))
_IN_LOG_BY_DEFAULT = (
    "(has(self.status) && has(self.status.identity) && has(self.status.identity.logStore) && "
    "self.status.identity.logStore)"
)
_HAS_LOG_STORE = f"({_names('self', 'log')} || {_IN_LOG_BY_DEFAULT})"
_HAD_LOG_STORE = _HAS_LOG_STORE.replace("self", "oldSelf")
_SPEC_SNAPSHOTS = _SNAPSHOTS.replace("self", "self.spec")
_SPEC_NEED = f"{_NEED.replace('self', 'self.spec')} + {_SPEC_SNAPSHOTS}"
_SPEC_SIZE = _bytes("string(self.spec.log.storage.size)")
_SAME_STORE = " && ".join(f"({_same(name)})" for name in ("s3", "azure", "gcs"))
_NO_SNAPSHOT = (
    "!has(oldSelf.status) || !has(oldSelf.status.shards) || oldSelf.status.shards.all(each, "
    "!has(each.snapshots) || !has(each.snapshots.kept) || "
    "each.snapshots.kept.all(kept, has(kept.inLog) && kept.inLog))"
)
"""None is in a bucket: those in the log service are found there whatever else is named."""

RULES: Mapping[str, list[Rule]] = {
    "": [
        rule(
            f"!({_HAD_STORE}) || ({_SAME_STORE}) || (!has(oldSelf.spec.restoreFrom) && ({_NO_SNAPSHOT}))",
            "engines start from what is in it: put it back, or restore into another MemoryCluster",
            ".spec.snapshots.store",
        ),
        rule(
            f"!{_HAD_LOG_STORE} || {_HAS_LOG_STORE}",
            "the log's members have been given the room for it: put it back; beside another store it is only "
            "read",
            ".spec.snapshots.store.log",
        ),
        rule(
            f"!{_HAD_LOG_STORE} || {_SPEC_SNAPSHOTS} >= {_SPEC_SNAPSHOTS.replace('self', 'oldSelf')}",
            "can only grow: by default it is log.maxBytes for each shard",
            ".spec.snapshots.store.log.maxBytes",
        ),
        rule(
            f"!{_HAS_LOG_STORE} || !{_SIZED.replace('self', 'self.spec')} || {_SPEC_SIZE} >= {_SPEC_NEED}",
            "too small for the logs and the snapshots that are kept beside them: add what "
            "snapshots.store.log.maxBytes says, by default log.maxBytes for each shard",
            ".spec.log.storage.size",
        ),
        rule("size(self.metadata.name) <= 40", "too long; use at most 40 characters", ".metadata.name"),
        rule(f"self.metadata.name.matches(r'{LABEL}')", f"not {MEANING[LABEL]}", ".metadata.name"),
        rule(
            f"!self.metadata.name.matches(r'{RESERVED}')",
            "names of a cluster's own objects end so; choose another name",
            ".metadata.name",
        ),
    ],
    "spec": [
        rule(
            "has(self.restoreFrom) == has(oldSelf.restoreFrom) && "
            "(!has(self.restoreFrom) || self.restoreFrom == oldSelf.restoreFrom)",
            "it says what the cluster began with: leave it as it is, or make another MemoryCluster",
            ".restoreFrom",
        ),
        rule(
            f"self.shards * (self.replicasPerShard + 1) <= {MAX_NODES}",
            f"more than {MAX_NODES} nodes: lower shards or replicasPerShard",
        ),
        rule(
            f"!{_SIZED} || {_SIZE} >= {_NEED}",
            "too small for what the logs may take: use at least log.maxBytes times one more than shards",
            ".log.storage.size",
        ),
        rule(
            f"!{_WAS_SIZED} || ({_SIZED} && {_SIZE} >= {_OLD_SIZE})",
            "can only grow",
            ".log.storage.size",
        ),
        rule(
            f"{_WAS_SIZED} || !{_SIZED} || {_SIZE} >= {_NEED} * 1.25",
            "can only grow: by default volumes are a quarter larger than what the logs may take",
            ".log.storage.size",
        ),
    ],
    "spec.restoreFrom": [
        rule("has(self.snapshot) != has(self.time)", "name either a snapshot or a time"),
        rule("!has(self.time) || has(self.cluster)", "name the cluster as well as the time"),
    ],
    "spec.restoreFrom.store": _ONE_STORE,
    "spec.shards": [_fixed("self == oldSelf")],
    "spec.zones": [
        rule("size(self) in [1, 3]", "name 1 or 3 (two zones can't lose one and keep a majority)"),
        rule(
            "self.all(zone, self.exists_one(each, each.lowerAscii() == zone.lowerAscii()))",
            "zones must differ from each other",
        ),
        _fixed("self == oldSelf"),
    ],
    "spec.log.storage": [
        _fixed(
            "has(self.storageClassName) == has(oldSelf.storageClassName) && "
            "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            ".storageClassName",
        )
    ],
    "spec.log.maxBytes": [
        rule(
            f"!string(self).matches(r'{QUANTITY}') || "
            f"({_BYTES} >= {_bytes(repr('64Mi'))} && {_BYTES} <= {_bytes(repr('1Pi'))})",
            "out of range; use at least 64Mi and at most 1Pi",
        ),
        rule(f"isQuantity(string(self)) && {_BYTES} >= {_OLD_BYTES}", "can only grow"),
    ],
    "spec.snapshots": [
        rule(
            f"!self.beforeDelete || (has(self.store) && ({_ELSEWHERE}))",
            "a last snapshot needs a store that does not go with the log's volumes: name s3, azure or gcs",
            ".beforeDelete",
        ),
    ],
    "spec.snapshots.beforeDeleteTimeout": [
        rule(
            f"!self.matches(r'{DURATION}') || "
            "(duration(self) >= duration('1m') && duration(self) <= duration('168h'))",
            "out of range; use at least 1m and at most 168h",
        ),
    ],
    "spec.snapshots.schedule": [
        rule(
            r"self.matches(r'^\s*\S+(\s+\S+){4}\s*$')",
            "not a schedule of five fields, like '0 3 * * *'",
        )
    ],
    "spec.snapshots.maxLogReplay": [
        rule(
            f"!string(self).matches(r'{QUANTITY}') || "
            f"({_BYTES} >= {_bytes(repr('1Mi'))} && {_BYTES} <= {_bytes(repr('1Pi'))})",
            "out of range; use at least 1Mi and at most 1Pi",
        ),
    ],
    "spec.snapshots.store": _ONE_STORE,
    "spec.snapshots.store.log.maxBytes": _STORE_SIZE,
    "spec.restoreFrom.store.log.maxBytes": _STORE_SIZE,
    "spec.snapshots.resources": _RESOURCES,
    "spec.failover.lease": [
        rule(
            f"!self.matches(r'{DURATION}') || "
            "(duration(self) >= duration('1s') && duration(self) <= duration('60s'))",
            "out of range; use at least 1s and at most 60s",
        ),
        _fixed(f"self.matches(r'{DURATION}') && duration(self) == duration(oldSelf)"),
    ],
    "spec.networkPolicy.from[]": [
        rule(
            "(has(self.podSelector) || has(self.namespaceSelector)) != has(self.ipBlock)",
            "name podSelector, namespaceSelector or both, or ipBlock alone",
        )
    ],
    "spec.networkPolicy.from[].ipBlock": [
        rule("isCIDR(self.cidr)", f"not {MEANING[CIDR]}", ".cidr"),
        rule(
            "!has(self.except) || self.except.all(part, isCIDR(part) && isCIDR(self.cidr) && "
            "cidr(self.cidr).containsCIDR(part) && "
            "cidr(part).prefixLength() > cidr(self.cidr).prefixLength())",
            "not ranges that are parts of cidr",
            ".except",
        ),
    ],
    "spec.networkPolicy.from[].podSelector.matchExpressions[]": _EXPRESSION,
    "spec.networkPolicy.from[].namespaceSelector.matchExpressions[]": _EXPRESSION,
    "spec.scheduling.tolerations[]": [
        rule(
            "self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "Exists takes no value; remove it, or use Equal",
        ),
        rule(
            "self.operator != 'Equal' || (has(self.key) && self.key != '')",
            "Equal needs a key; name it, or use Exists",
        ),
        rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds goes with effect: NoExecute only",
        ),
    ],
    "snapshot": [
        rule("size(self.metadata.name) <= 63", "too long; use at most 63 characters", ".metadata.name"),
    ],
    "snapshot.spec.cluster": [
        rule("self == oldSelf", "can't be changed: create another MemorySnapshot"),
        rule(f"!self.matches(r'{RESERVED}')", "not the name of a MemoryCluster"),
    ],
    "spec.engine.resources": _RESOURCES,
    "spec.engine.agentResources": _RESOURCES,
    "spec.log.resources": _RESOURCES,
}
"""Rules by the path of what they are of."""
