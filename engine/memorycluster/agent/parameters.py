"""The parameters that an engine is to have: set live, one by one, so that each refusal has its name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memorycluster.agent.engine import Control, EngineError, decode_map
from memorycluster.valkey.parameters import LIVE, READ_AT_START

WITHIN_LIMITS = "maxclients"
"""The engine lowers it by itself, at its start, to what its process may open: that is its default then."""


@dataclass(slots=True)
class Parameters:
    """What is wanted, and what has become of it."""

    revision: str
    """Names the set ``wanted``."""
    wanted: Mapping[str, str]
    """The values of those that are not left at the engine's own."""
    applied: bool = False
    """The connected engine has them all."""
    restart: list[str] = field(default_factory=list)
    """Those that the engine will only have after its next start."""
    errors: dict[str, str] = field(default_factory=dict)
    """Why, by name, those that the engine does not take are not taken."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def want(self, revision: str, wanted: Mapping[str, str]) -> None:
        """Replace what is wanted; ``apply`` then does it."""
        self.revision, self.wanted = revision, dict(wanted)
        self.forget()

    def forget(self) -> None:
        """Nothing is known of an engine: there is none, or it has not been told yet."""
        self.applied, self.restart, self.errors = False, [], {}

    async def apply(self, control: Control) -> None:
        """Make the engine behind ``control`` have what is wanted, as far as it takes it while it runs."""
        async with self._lock:
            wanted = self.wanted
            try:
                restart, errors = await _apply(control, wanted)
            except EngineError:
                return  # The connection has gone: the next engine is told anew.
            if wanted is self.wanted and not control.closed.done():
                self.restart, self.errors = restart, errors
                self.applied = not restart and not errors

    def status(self) -> dict[str, Any]:
        """Return what has become of them, as plain JSON data."""
        return {
            "revision": self.revision,
            "applied": self.applied,
            "restart": self.restart,
            "errors": self.errors,
        }


async def _apply(control: Control, wanted: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return which of ``wanted`` take a restart, and which are refused, with the reason."""
    found = decode_map(await control.command("CONFIG", "GET", *LIVE, *READ_AT_START))
    restart = [name for name, own in READ_AT_START.items() if found[name] != wanted.get(name, own)]
    errors = {
        name: "this engine does not know it"
        for name in wanted
        if name not in LIVE and name not in READ_AT_START
    }
    changes = {
        name: wanted.get(name, own) for name, own in LIVE.items() if name in wanted or found[name] != own
    }
    answers = await asyncio.gather(
        *(control.send("CONFIG", "SET", name, value) for name, value in changes.items()),
        return_exceptions=True,
    )
    if control.closed.done():
        raise EngineError("the connection has gone")
    for name, answer in zip(changes, answers, strict=True):
        if isinstance(answer, BaseException) and not (name == WITHIN_LIMITS and name not in wanted):
            errors[name] = str(answer).rpartition(" - ")[2]
    return restart, errors
