"""What a log says of snapshots: whether it has what one was made of, or begins with one; and its end."""

from __future__ import annotations

from memorycluster.log.interface import Log, LogCorrupt, LogTrimmed
from memorycluster.log.record import InvalidRecord, Record
from memorycluster.snapshot.manifest import Manifest
from memorycluster.snapshot.policy import FIRST, End


async def record_at(log: Log, sequence: int) -> Record | None:
    """Return a record of a log; None: it is not there yet.

    :raises LogCorrupt: it can't be read. :raises LogTrimmed, LogUnavailable, LogMissing:
    """
    data = await log.get(sequence)
    try:
        return None if data is None else Record.decode(data)
    except InvalidRecord as error:
        raise LogCorrupt(f"log record {sequence}: {error}") from error


async def contradiction(log: Log, manifest: Manifest) -> str:
    """Return how the record that ``manifest`` ends with differs from the log's own.

    (The log may have lost its end, and have grown another one since.) Empty: it does not, or it is not there
    (any more, or yet). Raises as ``record_at`` does.
    """
    try:
        record = await record_at(log, manifest.sequence)
    except LogTrimmed:
        return ""
    return "" if record is None else manifest.contradiction(record)


async def begins_with_snapshot(log: Log) -> bool:
    """Say whether data precedes the log's first record: the cluster was restored. Raises as ``record_at``."""
    record = await record_at(log, FIRST)
    return record is not None and bool(record.payload)


async def log_end(log: Log) -> End:
    """Return where a log ends. Raises as ``record_at`` does."""
    end = await log.end()
    record = await record_at(log, end)
    return End(end, record.end if record else 0)
