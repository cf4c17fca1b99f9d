"""The hash that tells whether a pod is to be replaced.

It covers what a user asked for, not how today's operator writes it into a pod: so an operator upgrade that
writes pods otherwise rolls none; they come to the new form when they are next replaced. If a change of ours
must roll every pod of every cluster, ``ENGINE_REVISION`` or ``LOG_REVISION`` is raised, knowingly: tests pin
the hashes.

Left out: engine parameters (agents set them, or say which need a restart), what only concerns pulling images,
and replicas.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from memorycluster.api.kubernetes import Resources
from memorycluster.api.model import Model
from memorycluster_operator.objects.inputs import Inputs
from memorycluster_operator.objects.store import store_of
from memorycluster_operator.quantity import canonical
from memorycluster_operator.snapshot import Component

ENGINE_REVISION = 1
LOG_REVISION = 1


def template_hash(inputs: Inputs, component: Component) -> str:
    """Return the template hash of the pods of a component: 16 hexadecimal digits."""
    spec = inputs.spec
    content: dict[str, object] = {"zones": list(spec.zones), "scheduling": _plain(spec.scheduling)}
    match component:
        case Component.ENGINE:
            content |= {
                "revision": ENGINE_REVISION,
                "image": inputs.images.engine,
                "resources": _amounts(spec.engine.resources),
                "agentResources": _amounts(spec.engine.agent_resources),
                "ioThreads": spec.engine.io_threads,
            }
            if store := store_of(spec):  # Read at an agent's start, and at its pod's.
                content["snapshots"] = {
                    "store": _plain(store),
                    "serviceAccountAnnotations": dict(spec.snapshots.service_account_annotations),
                }
        case Component.LOG:
            content |= {
                "revision": LOG_REVISION,
                "image": inputs.images.log,
                "resources": _amounts(spec.log.resources),
                "maxFileStore": spec.log_file_bytes,
            }
    return digest(content)


def _plain(model: Model) -> dict[str, Any]:
    """Return what differs from the defaults, whether it was written or the API server filled it in."""
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _amounts(resources: Resources) -> dict[str, dict[str, str]]:
    """Return resources with one text for each amount, however it was written."""
    return {
        kind: {name: canonical(amount) for name, amount in amounts.items()}
        for kind, amounts in _plain(resources).items()
    }


def digest(content: object) -> str:
    """Return a hash of JSON data, the same for equal data."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
