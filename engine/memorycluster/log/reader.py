"""Reading a log by the chain rule, from whichever member still holds what was written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from memorycluster.log import chain
from memorycluster.log.interface import Log, LogCorrupt, LogUnavailable

logger = logging.getLogger(__name__)

RETRY = 0.2
"""Seconds between questions for the log's members, when it does not answer."""


async def follow(log: Log, position: chain.Position) -> AsyncGenerator[chain.Read | None, None]:
    """Yield what each record after ``position`` does to a reader, and None at arrivals at the end.

    A record that can't follow is read again from the other members before that is believed.

    :raises LogCorrupt: on every member, the next record can't follow, or is missing. Serve nothing beyond.
    :raises LogTrimmed, LogMissing: as for ``tail``.
    """
    rotten: dict[str, LogCorrupt] = {}  # members whose next record can't follow
    while True:
        async with aclosing(log.tail(position.sequence, avoid=tuple(rotten))) as entries:
            async for entry in entries:
                if entry is None:
                    yield None
                    continue
                try:
                    read = chain.read(position, entry.sequence, entry.data)
                except LogCorrupt as error:
                    logger.warning("member %s of the log: %s", entry.member or "(the only one)", error)
                    rotten[entry.member] = error
                    break
                position = read.position
                rotten.clear()
                yield read
        members = await _members(log)
        if rotten.keys() >= members:
            raise LogCorrupt(f"{next(iter(rotten.values()))}, on every member")


async def _members(log: Log) -> set[str]:
    while True:
        try:
            return {member.name for member in (await log.health()).members}
        except LogUnavailable:
            await asyncio.sleep(RETRY)
