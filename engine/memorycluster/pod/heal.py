"""The first container of a log member whose copy is rotten: gives that up, so that it is copied anew.

It runs before the server, so this one is stopped and the others go on without it: whatever is acknowledged
from then on is on each of them. Only if they have everything, of every log, is this member's store deleted;
else the server starts with what it has. See ``log.healing``, of which this is what a supervisor does.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from memorycluster.durable import write_durably
from memorycluster.log.healing import SETTLE_WITHIN, Copy, Inspected, unsettled
from memorycluster.log.interface import LogUnavailable

STORE = "jetstream"
"""What a server makes in its data directory."""
ASIDE = "jetstream.rotten"
"""Where it is while it is deleted, with the order behind it."""
DONE = "healed"
"""The file that says which order was carried out."""


async def heal(
    data: Path,
    member: str,
    order: str,
    service: Inspected,
    others: Collection[str],
    logs: Mapping[str, int],
    *,
    until: str,
    within: float = SETTLE_WITHIN,
) -> str:
    """Delete the store in ``data``, once for each ``order``, if the other members have everything.

    :param member: whose store that is.
    :param service: the others alone.
    :param logs: what each of them must have: up to which record the log was known to go.
    :param until: when the order ends.
    :param within: seconds until they must have it.
    :return: why it was not deleted; empty if it is, or was before.
    """
    store, aside, done = data / STORE, data / f"{ASIDE}-{order}", data / DONE
    if done.is_file() and done.read_text(errors="replace") == order:
        _remove_asides(data)
        return ""
    _remove_asides(data, but=aside)  # what another order has left says nothing about this one
    if not aside.exists():
        if over := _over(until):
            return over
        if len(others) < 2:
            return "there are no two other members to copy it from"
        if refused := await _ask(service, member, others, logs, within) or _over(until):
            return refused
        if store.exists():
            store.rename(aside)  # whole or not at all, should this be interrupted
    shutil.rmtree(aside, ignore_errors=True)  # First: the volume may be full.
    write_durably(done, order)
    return ""


def _remove_asides(data: Path, but: Path | None = None) -> None:
    for aside in data.glob(f"{ASIDE}*"):
        if aside != but:
            shutil.rmtree(aside, ignore_errors=True)


def _over(until: str) -> str:
    """Return why the order is none any more; empty if it is one."""
    try:
        return "" if datetime.now(UTC) < datetime.fromisoformat(until) else f"the order ended at {until}"
    except (ValueError, TypeError):  # TypeError: it does not say in which time zone
        return f"the order does not say when it ends: {until!r}"


async def _ask(
    service: Inspected, member: str, others: Collection[str], logs: Mapping[str, int], within: float
) -> str:
    """Ask the others until they have everything; return why they do not if that does not come in time."""
    until = time.monotonic() + within
    while True:
        try:
            refused = _judge(await service.copies(), member, others, logs)
        except LogUnavailable as error:
            refused = str(error)
        if not refused or time.monotonic() > until:
            return refused
        await asyncio.sleep(0.2)


def _judge(copies: Sequence[Copy], member: str, others: Collection[str], logs: Mapping[str, int]) -> str:
    """Return why ``copies``, of one inspection, are not all that there is; empty if they are."""
    if missing := unsettled(others, copies):
        return missing
    for copy in copies:
        if member in copy.reaches:
            # Another pod of it, elsewhere, which goes on acknowledging with what it has.
            return f"{copy.member} still reaches a server {member}"
        if copy.lost:
            return f"{copy.member} has lost {copy.lost} messages of {copy.log}"
    for log in sorted({*logs, *(copy.log for copy in copies)}):
        first = {copy.member: copy.first for copy in copies if copy.log == log}
        if not set(others) <= first.keys():
            return f"the other members do not all have {log}"
        for copy in copies:
            if copy.log == log and copy.last < logs.get(log, 0):
                return f"{copy.member} has {log} up to record {copy.last}; it went up to {logs[log]}"
        if len(set(first.values())) > 1:
            # One may have lost its beginning; or they trim just now, then it is over soon.
            begins = ", ".join(f"{member} at {sequence}" for member, sequence in sorted(first.items()))
            return f"the other members do not begin {log} at the same record: {begins}"
    return ""
