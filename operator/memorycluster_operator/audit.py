"""Compares what the watches have told with what there is, now and then: a watch can be silent and look alive.

One list of names per kind, whatever the number of clusters. What is gone is removed from the cache: Kopf does
not tell of what vanished while a watch was interrupted for long. What the watches have missed twice in a row
shows that they are dead: then this process is of no use, and says so to its liveness probe.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from memorycluster_operator.cache import Cache, ClusterKey, cluster_of
from memorycluster_operator.kube import API_ERRORS, Kube
from memorycluster_operator.lease import brief
from memorycluster_operator.objects.names import CLUSTER_LABEL
from memorycluster_operator.watches import UNLABELLED

logger = logging.getLogger(__name__)

EVERY = 300.0
"""Seconds between audits."""
AGAIN = 20.0
"""Seconds until one that found something missing is repeated."""


class Audit:
    """The comparison of one cache with the API server."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        wake: Callable[[ClusterKey], None],
        *,
        kinds: tuple[str, ...],
        namespaces: tuple[str, ...],
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._wake = wake
        self._kinds = kinds
        self._namespaces = namespaces or ("",)
        self._soon = asyncio.Event()
        self.missed: set[str] = set()
        """What the watches had not told at the last audit, as ``uid resourceVersion``."""
        self.blind = ""
        """Why the watches are dead; empty if they are not."""

    def soon(self) -> None:
        """Ask for an audit in a moment: a watch has begun anew."""
        self._soon.set()

    async def run(self) -> None:
        """Audit for ever."""
        while True:
            try:
                async with asyncio.timeout((AGAIN if self.missed else EVERY) * random.uniform(0.9, 1.1)):
                    await self._soon.wait()
                await asyncio.sleep(3)  # for the watches of other kinds to begin anew too
            except TimeoutError:
                pass
            self._soon.clear()
            try:
                await self.once()
            except API_ERRORS as error:
                logger.warning("can't audit what the watches told: %s", brief(error))

    async def once(self) -> None:
        """Compare now."""
        missed: set[str] = set()
        for kind in self._kinds:
            missed |= await self._kind(kind)
        if still := missed & self.missed:
            self.blind = f"the watches have not told of {len(still)} changes for {AGAIN:.0f} s"
            logger.error("%s", self.blind)
        else:
            self.blind = ""
        self.missed = missed

    async def _kind(self, kind: str) -> set[str]:
        missed: set[str] = set()
        for namespace in self._namespaces if kind != "Node" else ("",):
            began = time.monotonic()
            known = {obj["metadata"]["uid"]: obj for obj in self._cache.all_of(kind)}
            labels = "" if kind in UNLABELLED else CLUSTER_LABEL
            listed, version = await self._kube.list(kind, namespace, labels=labels, metadata_only=True)
            there = {each["metadata"]["uid"]: each for each in listed}
            for uid, obj in known.items():
                metadata = obj["metadata"]
                inside = not namespace or metadata.get("namespace") == namespace
                if inside and uid not in there and int(metadata["resourceVersion"]) <= int(version):
                    logger.info("%s %s is gone, which no watch has told", kind, metadata["name"])
                    if self._cache.remove(obj, version) and (cluster := cluster_of(obj)):
                        self._wake(cluster)
            now = {obj["metadata"]["uid"]: obj for obj in self._cache.all_of(kind)}
            for uid, each in there.items():
                mine = now.get(uid)
                theirs = each["metadata"]["resourceVersion"]
                if kind == "Node" and mine is not None:
                    continue  # heartbeats: of a Node only what matters is kept
                if mine is None or int(mine["metadata"]["resourceVersion"]) < int(theirs):
                    missed.add(f"{uid} {theirs}")
            logger.debug("audited %d of %s in %.3f s", len(listed), kind, time.monotonic() - began)
        return missed
