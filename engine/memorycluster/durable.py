"""Files that are there after a power cut."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Replace the file ``path`` by one with ``text``, readable by its owner only, and wait for the disk."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Wait until what was made, renamed or removed in a directory is on the disk.

    :raises OSError: also where the file system can't do that.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        reason = f"a directory can't be synced ({error.strerror}): what is stored there might not last"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        os.close(descriptor)
