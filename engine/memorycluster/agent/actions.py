"""What the machine asks the agent to do. Each is answered, if at all, by an event of the machine."""

from __future__ import annotations

from dataclasses import dataclass

from memorycluster.log.chain import Position
from memorycluster.log.record import Flags, Kind


@dataclass(frozen=True, slots=True)
class Append:
    """Append a record at ``sequence``; answered by ``append_done`` or ``append_refused``.

    For DATA the payload is the replication stream from ``start`` to ``end``.
    """

    kind: Kind
    sequence: int
    epoch: int
    start: int
    end: int
    flags: Flags = Flags.NONE
    text: str = ""
    """Payload of a CLAIM (the claimant) or a RELEASE (the successor)."""
    crc: int | None = None
    """Running CRC, where it is not that of the agent's own position followed by the payload."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Tell the engine that the log is durable up to ``offset``: replies that wait for it leave."""

    offset: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Let the engine serve as leader of ``epoch`` until ``deadline`` (µs of CLOCK_BOOTTIME)."""

    epoch: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take the lease of ``epoch`` from the engine, for good; answered by ``engine_revoked``."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the engine the primary of ``epoch`` at ``offset`` and attach to its stream.

    Answered by ``engine_promoted`` or ``engine_failed``.
    """

    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class Writes:
    """Let the engine accept writes, or refuse them with ``reason``."""

    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reads:
    """Let a follower's engine answer reads, or refuse them with ``reason``."""

    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AskEngine:
    """Make a round trip through the engine's main thread now; answered by ``engine_answered``."""


@dataclass(frozen=True, slots=True)
class EndEngine:
    """End the engine's process, whatever it takes; answered by ``engine_exited``.

    With ``flush`` it first gets the time to send the replies that have been released.
    """

    reason: str
    flush: bool = False


@dataclass(frozen=True, slots=True)
class ReadLast:
    """Read the log's last record; answered by ``log_last``."""


@dataclass(frozen=True, slots=True)
class ReadNext:
    """Read what follows ``sequence`` in the log; answered by ``log_next``."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """Keep the engine's memory as it is: feed it nothing more, and note it for a successor."""

    reason: str
    epoch: int
    """In which this agent led; 0: it did not."""
    position: Position
    """Up to which it knows the log."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A human should look: say so in the log, the status and the metrics."""

    reason: str


Action = (
    Append
    | Commit
    | Lease
    | Revoke
    | Promote
    | Writes
    | Reads
    | AskEngine
    | EndEngine
    | ReadLast
    | ReadNext
    | Freeze
    | Alarm
)
