"""After the log has lost what was acknowledged: what a node still holds of it, and putting that back.

A node that knows more than the log has keeps its engine's memory and waits (``Phase.FROZEN``). The engine
that led still has the newest bytes of the replication stream in its backlog. If they reach back to where the
log ends, and chain to it, the very bytes that are missing are appended to it again, under a new epoch, which
is released at once. Nothing is guessed: whatever is not proved by a CRC is refused, and nothing is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from memorycluster.agent.engine import EngineError
from memorycluster.agent.machine import Machine, Phase
from memorycluster.log.chain import Position, Read
from memorycluster.log.interface import Log, LogConflict
from memorycluster.log.reader import follow
from memorycluster.log.record import MAX_PAYLOAD, Flags, Kind, Record, extend_crc

logger = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What can be done about a node."""

    NOTHING = "nothing"
    """It is not frozen."""
    RESUME = "resume"
    """The log holds all that it knows: it may follow again."""
    APPEND = "append"
    """It can put back what the log lacks."""
    REFUSE = "refuse"
    """It holds what the log lacks, or that can't be told; a human must decide."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a node knows to have been committed."""

    epoch: int
    """In which its engine led; 0: it followed."""
    offset: int
    crc: int | None
    """Running CRC at ``offset``; None: not known to this life of the agent."""
    engine: bool
    """The engine that holds it is there."""
    silent: bool
    """That engine answers no data command."""

    @classmethod
    def to(cls, machine: Machine) -> Known:
        """Return what ``machine`` and its engine know."""
        at, engine = machine.position, machine.engine
        if engine is None:
            return cls(0, at.unit_end, at.unit_crc, engine=False, silent=True)
        if engine.leads:
            # Of its own epoch the machine knows no less than what it told the engine.
            own = machine.epoch == engine.epoch
            return cls(
                engine.epoch,
                at.unit_end if own else engine.committed,
                at.unit_crc if own else None,
                engine=True,
                silent=engine.silent,
            )
        more = engine.offset > at.unit_end
        return cls(
            0, engine.offset if more else at.unit_end, None if more else at.unit_crc, engine=True, silent=True
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What can be done about a node, and why."""

    verdict: Verdict
    reason: str
    known: Known
    log_end: Position
    missing: bytes = b""
    """What the log lacks: the stream from its last unit's end up to what is known."""


class Refused(Exception):
    """It could not be done; nothing was lost by trying."""


Begin = Callable[[int], Awaitable[Position]]
"""Returns from where to read the log to learn what it holds at an offset (``Bootstrap.position``)."""

Fetch = Callable[[int, int], Awaitable[bytes]]
"""Returns the stream between two offsets, from the engine's backlog. Raises EngineError, OSError."""


async def examine(log: Log, machine: Machine, begin: Begin, fetch: Fetch) -> Plan:
    """Read ``log`` to its end, and return what can be done about the node of ``machine``.

    :raises LogError: the log can't be read to its end.
    """
    known = Known.to(machine)
    if machine.phase is not Phase.FROZEN and not machine.corrupt:
        return Plan(Verdict.NOTHING, "it is not frozen", known, machine.position)
    end, crc = await _read(log, await begin(known.offset), known.offset)
    plan = judge(known, end, crc)
    if plan.verdict is not Verdict.APPEND:
        return plan
    try:
        missing = await fetch(end.unit_end, known.offset)
    except (EngineError, OSError, TimeoutError) as error:
        reason = f"its engine does not give the bytes that the log lacks: {error or 'no answer'}"
        return Plan(Verdict.REFUSE, reason, known, end)
    if extend_crc(end.unit_crc, missing) != known.crc:
        reason = "the log has gone on with other data, or is not the one that this engine was fed from"
        return Plan(Verdict.REFUSE, reason, known, end)
    return Plan(Verdict.APPEND, plan.reason, known, end, missing)


def judge(known: Known, end: Position, crc: int | None) -> Plan:
    """Return what can be done, given where the log ends, and its CRC at what is known if it gets there.

    To append is only proposed: the bytes that are missing have yet to be got, and to be proved.
    """

    def refuse(reason: str) -> Plan:
        return Plan(Verdict.REFUSE, reason, known, end)

    if known.crc is None:
        return refuse(
            "its agent was started again since, and can't prove that the log is of the same history"
        )
    if crc is not None:
        if crc == known.crc:
            return Plan(Verdict.RESUME, "the log holds all that this node knows", known, end)
        return refuse(f"the log holds other data up to offset {known.offset} than this node knows of")
    if not known.engine:
        return refuse("its engine is gone, and with it what the log lacks")
    if not known.epoch:
        return refuse("its engine followed: it holds what the log lacks, but can't be asked for the bytes")
    if not known.silent:
        return refuse("its engine has not acknowledged that it must not serve")
    return Plan(Verdict.APPEND, f"it can put back {known.offset - end.unit_end} bytes", known, end)


async def _read(log: Log, position: Position, offset: int) -> tuple[Position, int | None]:
    """Read the log to its end; return where that is, and the running CRC at ``offset`` if it gets there."""
    crc = position.unit_crc if offset == position.unit_end else None
    async with contextlib.aclosing(follow(log, position)) as reads:
        async for read in reads:
            if read is None:
                break
            if position.open_end <= offset <= read.record.end and read.record.kind is Kind.DATA:
                crc = extend_crc(position.open_crc, read.record.stream[: offset - position.open_end])
            elif _voids(read, offset):
                crc = None
            position = read.position
    return position, crc if offset <= position.unit_end else None


def _voids(read: Read, offset: int) -> bool:
    return read.voided > 0 and read.position.open_end < offset


async def put_back(log: Log, plan: Plan, *, node: str, nonce: int, lease: float) -> None:
    """Append what the log lacks, by the rule of claims: nobody may lead any more, and the log must end there.

    :param lease: seconds.
    :raises Refused: the log has gone on. :raises LogError:
    """
    end, known = plan.log_end, plan.known
    # The epoch that this engine led in is silent. For any other one there is no such proof but time.
    if not end.released and end.epoch not in (0, known.epoch):
        await asyncio.sleep(1.2 * lease)
        if await log.end() != end.sequence:
            raise Refused(f"{end.leader} leads in epoch {end.epoch}, and the log goes on")
    for record in records(plan, node=node, nonce=nonce):
        try:
            await log.append(record.encode(), sequence=record.sequence)
        except LogConflict as error:
            raise Refused(f"the log has gone on meanwhile: {error}") from error
    logger.warning("recovery: put back %d bytes, up to offset %d", len(plan.missing), known.offset)


def records(plan: Plan, *, node: str, nonce: int) -> Iterator[Record]:
    """Yield the records of a claim, of the missing bytes as one unit, and of a release."""
    end, missing = plan.log_end, plan.missing
    generation: UUID = end.generation
    epoch = max(end.epoch, plan.known.epoch) + 1
    sequence, at, crc = end.sequence + 1, end.unit_end, end.unit_crc
    yield Record(Kind.CLAIM, generation, epoch, sequence, nonce, at, crc, node.encode())
    for begin in range(0, len(missing), MAX_PAYLOAD):
        payload = missing[begin : begin + MAX_PAYLOAD]
        more = begin + len(payload) < len(missing)
        sequence, crc = sequence + 1, extend_crc(crc, payload)
        flags = Flags.CONTINUES if more else Flags.NONE
        yield Record(Kind.DATA, generation, epoch, sequence, nonce, at, crc, payload, flags)
        at += len(payload)
    yield Record(Kind.RELEASE, generation, epoch, sequence + 1, nonce, at, crc)
