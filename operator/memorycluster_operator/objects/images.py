"""Which images a cluster runs.

``spec.engine.image`` and ``spec.log.image``, where they are set. Else a default: the one that the operator
was made for *when the cluster first needed it*, remembered on the StatefulSets. A newer operator with another
default changes nothing by that, so that its upgrade rolls no pods; a new ``spec.engine.version`` takes the
default of the operator of that day. Who wants a newer default without a new version names it in the spec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from memorycluster.api.spec import Spec
from memorycluster_operator.objects import names
from memorycluster_operator.objects.inputs import Images
from memorycluster_operator.snapshot import Key, Manifest, Settings

LOG_VERSION = "log"
"""Stands where an engine's version would: the log has none in the spec."""


def choose_images(cluster: str, spec: Spec, settings: Settings, live: Mapping[Key, Manifest]) -> Images:
    """Return the images to use, with what each StatefulSet is to remember."""
    shards = (names.shard_set(cluster, shard) for shard in range(spec.shards))
    engine_default = _default(spec.engine.version, settings.engine_image, (live.get(key) for key in shards))
    log_default = _default(LOG_VERSION, settings.log_image, [live.get(names.log_set(cluster))])
    return Images(
        engine=spec.engine.image or engine_default,
        log=spec.log.image or log_default,
        engine_default=None if spec.engine.image else f"{spec.engine.version} {engine_default}",
        log_default=None if spec.log.image else f"{LOG_VERSION} {log_default}",
    )


def _default(version: str, newest: str, sets: Iterable[Manifest | None]) -> str:
    """Return the image that a live StatefulSet remembers for ``version``, else the newest."""
    for each in sets:
        annotations = each["metadata"].get("annotations") or {} if each else {}
        found, _, image = annotations.get(names.DEFAULT_IMAGE_ANNOTATION, "").partition(" ")
        if found == version and image:
            return str(image)
    return newest
