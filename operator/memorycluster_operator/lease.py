"""One operator at a time: a Lease that is renewed while it works, and given back when it ends.

It saves work, nothing more: every action carries its own guards, so two operators at once do no harm.

kubernetes.aio.leaderelection does not do: it gives nothing back at its end, a request that hangs outlasts
its lease, and an API server that does not answer ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import UTC, datetime
from typing import Any

from memorycluster_operator import metrics
from memorycluster_operator.kube import API_ERRORS, ConflictError, Kube, NotFoundError
from memorycluster_operator.settings import LeaseSettings

logger = logging.getLogger(__name__)

GIVE_BACK_WITHIN = 5.0
"""Seconds for giving the lease back when the process ends."""


class LeaseLost(Exception):
    """Somebody else has it, or could have it by now."""


class Lease:
    """The lease, as this process sees it."""

    def __init__(self, kube: Kube, settings: LeaseSettings, identity: str) -> None:
        self._kube = kube
        self._settings = settings
        self._identity = identity
        self._held: dict[str, Any] | None = None
        """The Lease as we have written it last."""
        self._renewed = 0.0
        """When that was: monotonic time, read before the request was sent."""

    async def acquire(self) -> None:
        """Return once this process holds the lease."""
        seen, since, told = "", 0.0, ""
        while True:
            try:
                async with asyncio.timeout(self._settings.retry * 2):
                    found = await self._read()
                    spec = found["spec"] if found else {}
                    # How long it has been unchanged by our own clock: clocks of two machines don't compare.
                    if found and found["metadata"]["resourceVersion"] != seen:
                        seen, since = found["metadata"]["resourceVersion"], time.monotonic()
                    holder = spec.get("holderIdentity") or ""
                    patience = float(spec.get("leaseDurationSeconds") or self._settings.duration)
                    if holder in ("", self._identity) or time.monotonic() - since > patience:
                        await self._take(found)
                        logger.info("holds the lease %s", self._settings.name)
                        metrics.LEADING.set(1)
                        return
                    if holder != told:
                        told = holder
                        logger.info("stands by: %s holds the lease %s", holder, self._settings.name)
            except ConflictError:
                pass  # somebody was faster
            except API_ERRORS as error:
                logger.warning("can't read the lease %s: %s", self._settings.name, brief(error))
            await asyncio.sleep(self._settings.retry * random.uniform(0.8, 1.2))

    async def keep(self) -> None:
        """Renew the lease until it is lost.

        :raises LeaseLost: then this process must not go on.
        """
        while self._held is not None:
            await asyncio.sleep(self._settings.retry * 2)
            await self._renew(self._held)

    async def give_back(self) -> None:
        """Let a successor take over at once, if the lease is held."""
        if self._held is None:
            return
        held, self._held = self._held, None
        metrics.LEADING.set(0)
        body = {**held, "spec": {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}
        try:
            async with asyncio.timeout(GIVE_BACK_WITHIN):
                await self._kube.replace(body)
                logger.info("has given back the lease %s", self._settings.name)
        except API_ERRORS as error:
            logger.warning("could not give back the lease %s: %s", self._settings.name, brief(error))

    async def _renew(self, held: dict[str, Any]) -> None:
        deadline = self._renewed + self._settings.deadline
        trouble = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, self._settings.retry * 2)):
                    await self._write(held)
                return
            except ConflictError:
                # Either our own last request came through after all, or it is somebody else's now.
                try:
                    async with asyncio.timeout(min(left, self._settings.retry * 2)):
                        found = await self._read()
                except API_ERRORS as error:
                    trouble = brief(error)
                else:
                    holder = found["spec"].get("holderIdentity") if found else None
                    if found is None or holder != self._identity:
                        self._held = None
                        raise LeaseLost(
                            f"{holder or 'nobody'} holds the lease {self._settings.name}"
                        ) from None
                    held = found
                    continue
            except NotFoundError:
                self._held = None
                raise LeaseLost(f"the lease {self._settings.name} was deleted") from None
            except API_ERRORS as error:
                trouble = brief(error)
            await asyncio.sleep(min(self._settings.retry / 2, max(deadline - time.monotonic(), 0)))
        raise LeaseLost(f"the lease {self._settings.name} could not be renewed in time: {trouble}")

    async def _read(self) -> dict[str, Any] | None:
        return await self._kube.get("Lease", self._settings.namespace, self._settings.name)

    async def _take(self, found: dict[str, Any] | None) -> None:
        now = _timestamp()
        before = found["spec"] if found else {}
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._settings.duration),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": (before.get("leaseTransitions") or 0) + (1 if found else 0),
        }
        sent = time.monotonic()
        if found:
            self._held = await self._kube.replace({**found, "spec": spec})
        else:
            self._held = await self._kube.create(
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self._settings.name, "namespace": self._settings.namespace},
                    "spec": spec,
                }
            )
        self._renewed = sent

    async def _write(self, held: dict[str, Any]) -> None:
        sent = time.monotonic()
        self._held = await self._kube.replace({**held, "spec": {**held["spec"], "renewTime": _timestamp()}})
        self._renewed = sent


def brief(error: BaseException) -> str:
    """Return one line that says what went wrong with a request."""
    status, reason = getattr(error, "status", None), getattr(error, "reason", "")
    if status:
        return f"HTTP {status} {reason}".strip()
    return str(error) or type(error).__name__


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
