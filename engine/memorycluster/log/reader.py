"""Reading a log by the chain rule, from whichever member still holds what was written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
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
        began, avoid = position.sequence, tuple(rotten)
        async with aclosing(_checked(log, position, avoid)) as reads:
            try:
                async for read in reads:
                    if read is not None:
                        position = read.position
                    yield read
            except _Rotten as found:
                logger.warning("member %s of the log: %s", found.member, found.error)
                log.findings.add(found.member, position.sequence + 1, str(found.error))
                if position.sequence > began:
                    rotten = {}  # by others, of which all that we have read since was right
                rotten[found.member] = found.error
            except LogCorrupt:
                if not avoid or position.sequence == began:
                    raise
                rotten = {}  # the others lack this one; those that we avoided may have it
        if rotten.keys() >= await _members(log):
            raise LogCorrupt(f"{next(iter(rotten.values()))}, on every member")


class _Rotten(Exception):
    """A member served a record that can't follow."""

    def __init__(self, member: str, error: LogCorrupt) -> None:
        super().__init__(member, error)
        self.member = member
        self.error = error


async def _checked(
    log: Log, position: chain.Position, avoid: Collection[str]
) -> AsyncGenerator[chain.Read | None, None]:
    async with aclosing(log.tail(position.sequence, avoid=avoid)) as entries:
        async for entry in entries:
            if entry is None:
                yield None
                continue
            try:
                read = chain.read(position, entry.sequence, entry.data)
            except LogCorrupt as error:
                raise _Rotten(entry.member, error) from error
            position = read.position
            yield chain.Read(position, read.record, read.voided, entry.time)


async def _members(log: Log) -> set[str]:
    while True:
        try:
            return {member.name for member in (await log.health()).members}
        except LogUnavailable:
            await asyncio.sleep(RETRY)
