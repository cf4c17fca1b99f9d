"""Whether a live object is as it should be.

What we want is a part of what is there: the API server fills in defaults, and others may add what is theirs.
So it must be found in the live object, lists of named things by name, quantities by what they mean. What we
no longer want would go unnoticed that way; a hash of what was last applied, on the object itself, tells of
it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from memorycluster_operator import quantity
from memorycluster_operator.objects.names import APPLIED_ANNOTATION
from memorycluster_operator.objects.template import digest
from memorycluster_operator.snapshot import Manifest

_WHOLE = {"selector", "podSelector", "namespaceSelector", "labelSelector", "matchLabels", "nodeSelector"}
"""Maps that are replaced as a whole, so that nothing else may be in them."""

_QUANTITIES = {"requests", "limits"}

_NAMES = (
    (re.compile(r".*\.(containers|env|volumes|imagePullSecrets)"), "name"),
    (re.compile(r".*\.containers\[\w+\]\.ports"), "containerPort"),
    (re.compile(r"spec\.ports"), "port"),
    (re.compile(r".*\.volumeMounts"), "mountPath"),
    (re.compile(r"metadata\.ownerReferences"), "uid"),
)
"""Lists of which the API server merges the items, and the field that names an item. All others are a
whole."""


def marked(manifest: Manifest) -> Manifest:
    """Return ``manifest`` with the hash of itself, as it is to be applied.

    Claim templates are left out: they can't be changed, and come from the live object once there is one.
    """
    metadata, spec = manifest["metadata"], manifest.get("spec") or {}
    counted = {**manifest, "spec": {key: spec[key] for key in spec if key != "volumeClaimTemplates"}}
    annotations = {**(metadata.get("annotations") or {}), APPLIED_ANNOTATION: digest(counted)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def difference(wanted: Manifest, live: Manifest) -> str | None:
    """Return what of ``wanted`` (``marked``) is otherwise in ``live``, like ``spec.replicas``; None: nothing.

    The annotation of the hash comes last: it tells that something is no longer wanted.
    """
    metadata = dict(wanted["metadata"])
    annotations = metadata.pop("annotations")
    parts = {"metadata": metadata, **{each: wanted[each] for each in wanted if each not in _HEAD}}
    return _difference(parts, live, "") or _difference(
        {"annotations": annotations}, live["metadata"], "metadata"
    )


_HEAD = ("apiVersion", "kind", "metadata")


def _difference(wanted: Any, live: Any, path: str) -> str | None:
    field = path.rpartition(".")[2]
    if isinstance(wanted, Mapping):
        there = {} if live is None else live
        if not isinstance(there, Mapping) or (field in _WHOLE and set(there) - set(wanted)):
            return path
        quantities = field in _QUANTITIES
        for key, value in wanted.items():
            below = f"{path}.{key}" if path else key
            same = quantities and quantity.same(value, there.get(key))
            if not same and (found := _difference(value, there.get(key), below)):
                return found
        return None
    if isinstance(wanted, list | tuple):
        return _list_difference(wanted, [] if live is None else live, path)
    return None if wanted == live else path


def _list_difference(wanted: Sequence[Any], live: Any, path: str) -> str | None:
    if not isinstance(live, list | tuple):
        return path
    if name := next((name for pattern, name in _NAMES if pattern.fullmatch(path)), None):
        live_items = {item[name]: item for item in live if name in item}
        pairs = [(item, live_items.get(item[name]), f"{path}[{item[name]}]") for item in wanted]
    elif len(wanted) != len(live):
        return path
    else:
        pairs = [(item, live[index], f"{path}[{index}]") for index, item in enumerate(wanted)]
    return next((found for pair in pairs if (found := _difference(*pair))), None)
