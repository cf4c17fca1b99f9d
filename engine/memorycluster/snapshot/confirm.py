"""Whether a log still has what a snapshot was made of: it may have lost its end, and have grown another."""

from __future__ import annotations

from memorycluster.log.interface import Log, LogCorrupt, LogTrimmed
from memorycluster.log.record import InvalidRecord, Record
from memorycluster.snapshot.manifest import Manifest


async def contradiction(log: Log, manifest: Manifest) -> str:
    """Return how the record that ``manifest`` ends with differs from the log's own.

    Empty: it does not, or it is not there (any more, or yet).

    :raises LogCorrupt: the record can't be read. :raises LogUnavailable, LogMissing:
    """
    try:
        data = await log.get(manifest.sequence)
    except LogTrimmed:
        return ""
    if data is None:
        return ""
    try:
        return manifest.contradiction(Record.decode(data))
    except InvalidRecord as error:
        raise LogCorrupt(f"log record {manifest.sequence}: {error}") from error
