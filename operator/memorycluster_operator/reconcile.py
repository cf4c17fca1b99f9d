"""The loop of one cluster, observe, plan, apply, and the loops of all of them.

Each cluster has a task of its own, which sleeps until it is woken: by the watches, by an agent, by the log
service, by the time that its plan named, or after a while. So one cluster's trouble holds up no other one.
Those that are being made take turns.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import fields
from datetime import UTC, datetime
from math import inf

from pydantic import ValidationError

from memorycluster_operator import metrics
from memorycluster_operator.actions import TO_CONFIRM, Action, Event, Plan
from memorycluster_operator.apply import Applier, Outcome, describe, explain
from memorycluster_operator.cache import Cache, ClusterKey
from memorycluster_operator.kube import API_ERRORS
from memorycluster_operator.observe import Observer
from memorycluster_operator.plan import make_plan
from memorycluster_operator.plan.changes import differs
from memorycluster_operator.plan.forgetting import abandon
from memorycluster_operator.plan.step import PATIENCE, WITHOUT_NEWS
from memorycluster_operator.refusal import Refusal, admit, postpone, refuse
from memorycluster_operator.snapshot import Snapshot
from memorycluster_operator.turns import Turn, Turns, needs_turn

logger = logging.getLogger(__name__)

SETTLE = 0.05
"""Seconds between news and the pass that takes them in: they seldom come alone."""

TICK = 300.0
"""Seconds between passes when there is no news."""

PASS_WITHIN = 150.0
"""Seconds for one pass; then it is given up, and begun again."""

AFTER_TROUBLE = 2.0
"""Seconds between two passes at least, news or not, when the last ones failed or did not help."""

BACK_OFF = (0.5, 60.0)
"""Seconds until the next pass after one that failed, or that did what the last one did: at first, at most."""

CONFIRMED_FOR = 5.0
"""Seconds for which it counts that what is to be done is still right; then it is asked anew."""

PATIENT_FOR = 5
"""How often in a row the API server may refuse an action before the status says so."""

QUEUED_AFTER = 10.0
"""Seconds after which a cluster that waits for its turn says so."""

STOP_WITHIN = 5.0
"""Seconds for the loops to end; what is under way then is guarded, also against a successor."""


class Reconciler:
    """The loop of one cluster."""

    def __init__(self, key: ClusterKey, observer: Observer, applier: Applier, turns: Turns) -> None:
        self.key = key
        self._observer = observer
        self._applier = applier
        self._turns = turns
        self._news = asyncio.Event()
        self._since = 0.0
        self._failures: tuple[str, ...] = ()
        self._done: list[Action] = []
        self._refused: Counter[tuple[object, ...]] = Counter()
        """How often in a row an action was refused, by its essence."""
        self._look_anew = False
        """What agents and log said last is too old for what is waited for."""
        self._delay = 0.0
        """Seconds until the next pass without news; 0: there is no trouble."""
        self._again = 0.0
        """Monotonic time of the next pass when there are no news."""
        self.began: float | None = None
        """Monotonic time at which the pass that is under way began."""

    def wake(self) -> None:
        """There are news."""
        if not self._news.is_set():
            self._since = time.monotonic()
            self._news.set()

    async def run(self) -> None:
        """Look after the cluster until it is gone."""
        self.wake()
        while True:
            await self._sleep()
            with self._turn() as turn:
                if turn is not None:
                    await self._wait_for(turn)
                since, self._since = self._since, 0.0
                self._news.clear()
                self.began = time.monotonic()
                try:
                    if not await self._guarded_pass():
                        return
                finally:
                    self.began = None
            if since:
                metrics.REACTION_SECONDS.observe(time.monotonic() - since)

    def _turn(self) -> AbstractContextManager[Turn | None]:
        """Return what to wait for before a pass, and to end after it; None: nothing."""
        obj = self._observer.raw(self.key)
        if obj is None or not needs_turn(obj):
            return nullcontext()
        return self._turns.ask(self.key, obj["metadata"]["creationTimestamp"])

    async def _wait_for(self, turn: Turn) -> None:
        """Return once the turn has come; if that takes long, the status says so."""
        until = datetime.now(UTC) + PATIENCE
        while not await turn.comes(QUEUED_AFTER):
            obj = self._observer.raw(self.key)
            if obj is not None and needs_turn(obj):
                with suppress(*API_ERRORS):
                    await self._say(postpone(obj, until, datetime.now(UTC)))

    async def _sleep(self) -> None:
        if self._delay:
            await asyncio.sleep(min(self._delay, AFTER_TROUBLE) * random.uniform(0.8, 1.2))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self._again - time.monotonic(), 0)):
                await self._news.wait()
        await asyncio.sleep(SETTLE)

    async def _guarded_pass(self) -> bool:
        """Make a pass; return whether the cluster is still there."""
        self._again = time.monotonic() + TICK * random.uniform(0.8, 1.2)
        try:
            with metrics.timed(metrics.PASS_SECONDS):
                async with asyncio.timeout(PASS_WITHIN):
                    there = await self._pass()
        except Exception as error:
            metrics.PASSES.labels("error").inc()
            if isinstance(error, API_ERRORS):
                logger.warning("%s: %s", self.key, explain(error))
            else:
                logger.exception("%s: a pass failed", self.key)
                await self._admit(error)
            self._back_off()
            return True
        metrics.PASSES.labels("ok").inc()
        return there

    async def _pass(self) -> bool:
        try:
            snapshot = await self._observer.observe(self.key, fresh=self._look_anew, failures=self._failures)
        except ValidationError as error:
            return await self._refuse(error)
        if snapshot is None:
            return await self._abandon()
        plan = make_plan(snapshot)
        plain = [action for action in plan.actions if not isinstance(action, TO_CONFIRM)]
        asked: Sequence[Action] = [action for action in plan.actions if isinstance(action, TO_CONFIRM)]
        done, failures, progress = await self._carry_out(plain)
        await self._tell(snapshot, plan)
        confirmed = True
        while asked:
            still = await self._confirmed(asked)
            confirmed &= len(still) == len(asked)
            more, failed, moved = await self._carry_out(still, within=CONFIRMED_FOR)
            done, failures, progress = done + more, failures + failed, progress or moved
            asked = still[len(more) :]
        self._refused = Counter({e: n for e, n in self._refused.items() if e in map(_essence, done)})
        self._failures = tuple(failures)
        self._look_anew = any(wait.reason in WITHOUT_NEWS for wait in plan.waits)
        self._next(plan, done, progress=progress, confirmed=confirmed)
        return True

    async def _abandon(self) -> bool:
        """Let go the MemorySnapshots of a cluster that is gone; return whether there were any.

        Where the store is, and how to reach it, only the MemoryCluster said: their data stays.
        """
        actions = abandon(self.key.name, self._observer.forgetting(self.key))
        for action in actions:
            outcome, _ = await self._applier.apply(self.key, action)
            if outcome is Outcome.DONE:
                event = Event("Warning", "SnapshotDataKept", action.reason)
                await self._applier.tell(action.key, self.key.namespace, action.uid, event)
        if actions:
            self._back_off()
        return bool(actions)

    async def _confirmed(self, actions: Sequence[Action]) -> Sequence[Action]:
        """Return those of ``actions`` that a plan on what agents and log say right now has too."""
        snapshot = await self._observer.observe(self.key, fresh=True, failures=self._failures)
        if snapshot is None:
            return []
        wanted = {_essence(action) for action in actions}
        again = [a for a in make_plan(snapshot).actions if isinstance(a, TO_CONFIRM)]
        confirmed = [action for action in again if _essence(action) in wanted]
        for action in actions:
            if _essence(action) not in {_essence(each) for each in confirmed}:
                logger.info("%s: not any more: %s", self.key, describe(action))
        return confirmed

    async def _carry_out(
        self, actions: Iterable[Action], *, within: float = inf
    ) -> tuple[list[Action], list[str], bool]:
        """Return the actions, what failed, and whether anything was done. None is begun after ``within``."""
        tried: list[Action] = []
        failures, progress = [], False
        began = time.monotonic()
        for action in actions:
            if tried and time.monotonic() - began > within:
                break
            outcome, message = await self._applier.apply(self.key, action)
            tried.append(action)
            progress |= outcome is Outcome.DONE
            essence = _essence(action)
            self._refused[essence] = self._refused[essence] + 1 if outcome is Outcome.REFUSED else 0
            if outcome is Outcome.FAILED or self._refused[essence] >= PATIENT_FOR:
                failures.append(message)
        return tried, failures, progress

    async def _tell(self, snapshot: Snapshot, plan: Plan) -> None:
        """Write the status, if it says anything new, and post what has changed."""
        cluster = snapshot.cluster
        if cluster.going or not differs(cluster.status, plan.status):
            written = not cluster.going
        else:
            written = await self._applier.write_status(cluster, plan.status)
            if not written:
                self.wake()
        if written:
            for event in plan.events:
                await self._applier.post(cluster, event)

    async def _refuse(self, error: ValidationError) -> bool:
        """Say in the status that the spec can't be used."""
        obj = self._observer.raw(self.key)
        if obj is None:
            return False
        await self._say(refuse(obj, error, datetime.now(UTC)))
        self._delay = 0.0
        return True

    async def _admit(self, error: Exception) -> None:
        """Say in the status that no plan can be made, so that nobody believes what it said before."""
        obj = self._observer.raw(self.key)
        if obj is None or "deletionTimestamp" in obj["metadata"]:
            return
        with suppress(*API_ERRORS):
            await self._say(admit(obj, error, datetime.now(UTC)))

    async def _say(self, refusal: Refusal) -> None:
        cluster, status = refusal.cluster, refusal.status
        if status != cluster.status and await self._applier.write_status(cluster, status):
            for event in refusal.events:
                await self._applier.post(cluster, event)

    def _next(self, plan: Plan, done: list[Action], *, progress: bool, confirmed: bool) -> None:
        """Set when the next pass is."""
        if plan.again is not None:
            wait = max((plan.again - datetime.now(UTC)).total_seconds(), 0) + SETTLE
            self._again = min(self._again, time.monotonic() + wait)
        repeated = bool(done) and [_essence(a) for a in done] == [_essence(a) for a in self._done]
        self._done = done
        if self._failures or repeated:
            # What is done again and again does not help: somebody undoes it, or it can't be.
            self._back_off()
            return
        self._delay = 0.0
        if progress:
            self._again = 0.0
        elif done or not confirmed:
            self._again = min(self._again, time.monotonic() + 1)

    def _back_off(self) -> None:
        first, most = BACK_OFF
        self._delay = min(max(self._delay * 2, first), most)
        self._again = time.monotonic() + self._delay * random.uniform(0.8, 1.2)


class Reconcilers:
    """The loops of all clusters."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._turns = Turns()
        self._tasks: dict[ClusterKey, asyncio.Task[None]] = {}
        self._loops: dict[ClusterKey, Reconciler] = {}
        self._make: Callable[[ClusterKey], Reconciler] | None = None

    def start(self, observer: Observer, applier: Applier) -> None:
        """Begin to look after clusters: those that are known, and those that ``wake`` is called for."""
        self._make = lambda key: Reconciler(key, observer, applier, self._turns)
        for key in (*self._cache.clusters(), *self._cache.abandoned()):
            self.wake(key)

    def wake(self, key: ClusterKey) -> None:
        """There are news of a cluster."""
        if self._make is None:
            return
        if key in self._loops:
            self._loops[key].wake()
        elif self._cache.cluster(key) is not None or self._cache.forgetting(key):
            self._loops[key] = loop = self._make(key)
            self._tasks[key] = task = asyncio.create_task(loop.run(), name=f"cluster {key}")
            task.add_done_callback(lambda _: self._ended(key))
            metrics.CLUSTERS.set(len(self._loops))

    def wake_all(self) -> None:
        """There are news that may matter to any cluster."""
        for key in list(self._loops):
            self.wake(key)

    async def stop(self) -> None:
        """End all loops; what is under way is given up."""
        self._make = None
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_WITHIN)

    @property
    def stuck(self) -> str:
        """Which cluster's pass does not end, although it has been given up; empty if none."""
        now = time.monotonic()
        stuck = [
            str(k) for k, loop in self._loops.items() if loop.began and now - loop.began > PASS_WITHIN * 2
        ]
        return ", ".join(stuck)

    def _ended(self, key: ClusterKey) -> None:
        self._loops.pop(key, None)
        self._tasks.pop(key, None)
        metrics.CLUSTERS.set(len(self._loops))
        self.wake(key)  # it may have been made anew meanwhile


def _essence(action: Action) -> tuple[object, ...]:
    """Return what an action does, and to whom: neither why, nor to which version."""
    values = {each.name: getattr(action, each.name) for each in fields(action)}
    return type(action), *(repr(v) for k, v in values.items() if k not in ("reason", "resource_version"))
