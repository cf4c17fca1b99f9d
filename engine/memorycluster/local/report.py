"""How a run tells what it does: to a console, or through a pipe to the command that waits for it."""

from __future__ import annotations

import json
import os
from typing import Protocol

from memorycluster.api.status import MemoryClusterStatus


class Reporter(Protocol):
    """Who listens to a run."""

    def progress(self, text: str) -> None:
        """Say what is being done now; replaces what was said before."""

    def note(self, text: str) -> None:
        """Say something worth a line."""

    def ready(self, status: MemoryClusterStatus) -> None:
        """Say that every shard serves."""

    def failed(self, text: str, exit_status: int) -> None:
        """Say that the run ends, and why."""


class PipeReporter:
    """Writes JSON lines to a pipe until nobody reads it any longer; notes go to the log (stdout) as well."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        os.set_inheritable(descriptor, False)

    def progress(self, text: str) -> None:
        """Say what is being done now."""
        self._write(kind="progress", text=text)

    def note(self, text: str) -> None:
        """Say something worth a line."""
        print(text, flush=True)
        self._write(kind="note", text=text)

    def ready(self, status: MemoryClusterStatus) -> None:
        """Say that every shard serves, and close the pipe."""
        self._write(kind="ready", status=status.model_dump(mode="json", by_alias=True))
        self._close()

    def failed(self, text: str, exit_status: int) -> None:
        """Say that the run ends, and why, and close the pipe."""
        print(text, flush=True)
        self._write(kind="failed", text=text, exit_status=exit_status)
        self._close()

    def _write(self, **event: object) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(event).encode() + b"\n")
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
