"""How a run tells what it does: to a console, or through a pipe to the command that waits for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Protocol

from memorycluster.api.status import MemoryClusterStatus
from memorycluster.local.layout import Layout


class Reporter(Protocol):
    """Who listens to a run."""

    def locked(self, layout: Layout) -> None:
        """Learn that the data directory is ours from here on."""

    def progress(self, text: str) -> None:
        """Say what is being done now; replaces what was said before."""

    def note(self, text: str) -> None:
        """Say something worth a line."""

    def ready(self, status: MemoryClusterStatus, programs: Path) -> None:
        """Say that every shard serves. ``programs`` is the directory with valkey-cli."""


class PipeReporter:
    """Writes JSON lines to a pipe until the cluster is ready; notes go to the log (stdout) as well."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        os.set_inheritable(descriptor, False)

    def locked(self, layout: Layout) -> None:
        """Send stdout and stderr to the supervisor's log."""
        log = os.open(layout.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)

    def progress(self, text: str) -> None:
        """Say what is being done now."""
        self._write(kind="progress", text=text)

    def note(self, text: str) -> None:
        """Say something worth a line."""
        self._log(text)
        self._write(kind="note", text=text)

    def ready(self, status: MemoryClusterStatus, programs: Path) -> None:
        """Say that every shard serves, and close the pipe."""
        self._write(
            kind="ready", status=status.model_dump(mode="json", by_alias=True), programs=str(programs)
        )
        self.close()

    def failed(self, text: str, exit_status: int) -> None:
        """Say that the run ends, and why, and close the pipe."""
        self._log(text)
        self._write(kind="failed", text=text, exit_status=exit_status)
        self.close()

    def close(self) -> None:
        """Close the pipe."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def _log(text: str) -> None:
        print(time.strftime("%Y-%m-%dT%H:%M:%S"), text, flush=True)

    def _write(self, **event: object) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(event).encode() + b"\n")
        except OSError:  # nobody waits any longer
            self.close()
