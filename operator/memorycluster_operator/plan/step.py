"""What each part of a plan contributes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from memorycluster_operator.actions import Action, DeletePod, EvictPod, FailOver, Shrink, Wait
from memorycluster_operator.snapshot import Snapshot

PATIENCE = timedelta(minutes=10)
"""For how long it is normal to wait for something, if nothing else is said."""


WITHOUT_NEWS = ("NoSuccessor",)
"""Reasons of waits that may end with no news of it: a lag is none, as it changes all the time."""

LOOK_AGAIN = timedelta(seconds=5)
"""When to look anew for those."""


@dataclass(frozen=True, slots=True)
class Step:
    """Actions, and what is being waited for."""

    actions: tuple[Action, ...] = ()
    waits: tuple[Wait, ...] = ()

    def __add__(self, other: Step) -> Step:
        return Step(self.actions + other.actions, self.waits + other.waits)

    @property
    def disrupts(self) -> bool:
        """Whether it takes something away that works, if only for a moment."""
        return any(isinstance(action, EvictPod | DeletePod | FailOver | Shrink) for action in self.actions)


NOTHING = Step()


def do(*actions: Action) -> Step:
    """Return a step with ``actions``."""
    return Step(actions=actions)


def wait(snapshot: Snapshot, reason: str, message: str, patience: timedelta = PATIENCE) -> Step:
    """Return a step that waits. Its deadline stays for as long as the status waits for the same of the
    same."""
    blocked = snapshot.cluster.status.get("blocked") or {}
    until = snapshot.now + patience
    same = blocked.get("reason") == reason and _about(blocked.get("message", "")) == _about(message)
    if same and blocked.get("until"):
        until = datetime.fromisoformat(blocked["until"])
    return Step(waits=(Wait(reason, message, until.replace(microsecond=0)),))


def _about(message: str) -> frozenset[str]:
    """Return the pods and shards that a message names: how it says what is wrong with them may change."""
    return frozenset(re.findall(r"[a-z][-a-z0-9]*-[0-9]+\b|shard [0-9]+", message))
