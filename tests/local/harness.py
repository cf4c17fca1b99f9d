"""`memorycluster` as its user runs it: as a program, in a data directory, on real ports."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self, TypeVar

import psutil
import yaml

from memorycluster.local.ports import is_free

PROGRAM = [sys.executable, "-m", "memorycluster"]
PATIENCE = 120.0
"""Seconds for anything that has to happen; the engine has been built before."""

T = TypeVar("T")


def until(get: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """Return what `get` returns, once that is true."""
    deadline = time.monotonic() + patience
    while not (found := get()):
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        time.sleep(0.02)
    return found


def free_base_port(count: int = 60) -> int:
    """Return a port from which on `count` are free, among those that are ours."""
    while True:
        base = random.randrange(23000, 24000 - count)
        if all(map(is_free, range(base, base + count))):
            return base


@contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory whose path is short enough for unix sockets."""
    directory = Path(tempfile.mkdtemp(prefix="mc"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Cluster:
    """One manifest, one data directory, and the commands on them."""

    def __init__(self, directory: Path, *, name: str = "demo", zones: int | None = None, **spec: Any) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.name = name
        self.manifest = directory / f"{name}.yaml"
        self.base_port = free_base_port()
        self.zones = zones
        self.change(**spec)

    def change(self, **spec: Any) -> None:
        """Write the manifest."""
        head = {"apiVersion": "memorycluster.io/v1alpha1", "kind": "MemoryCluster"}
        self.manifest.write_text(yaml.safe_dump({**head, "metadata": {"name": self.name}, "spec": spec}))

    @property
    def run_arguments(self) -> list[str]:
        arguments = [
            "run",
            str(self.manifest),
            "--data-dir",
            str(self.data),
            "--base-port",
            str(self.base_port),
        ]
        return arguments + (["--zones", str(self.zones)] if self.zones else [])

    def command(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False, env=env
        )

    def succeed(self, *arguments: str) -> str:
        """Run a command that must succeed, and return its output."""
        done = self.command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr + self.log()
        assert done.stderr == ""
        return done.stdout

    def start(self) -> str:
        """Run it in the background, and return what is said meanwhile."""
        return self.succeed(*self.run_arguments, "--detach")

    def stop(self) -> str:
        return self.succeed("stop", "--data-dir", str(self.data))

    def resource(self) -> dict[str, Any]:
        """Return what `status -o json` says."""
        said: dict[str, Any] = json.loads(self.succeed("status", "--data-dir", str(self.data), "-o", "json"))
        return said

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.resource()["status"]
        return status

    def ready(self) -> dict[str, Any]:
        """Return the status, once nothing is missing."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [self.status()]
            return found[0]["phase"] == "Ready"

        until(look, f"Ready; it is {found}")
        return found[0]

    def processes(self, part: str = "") -> list[psutil.Process]:
        """Return all processes with the data directory, and `part`, on their command line."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            line = " ".join(words)
            if str(self.data) in line and part in line and process.pid != os.getpid():
                found.append(process)
        return found

    def supervisor(self) -> psutil.Process:
        return psutil.Process(int((self.data / "lock").read_text()))

    def log(self) -> str:
        """Return what the supervisor has said in the background."""
        path = self.data / "supervisor.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        with suppress(OSError, ValueError, psutil.Error):
            self.supervisor().kill()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


class Foreground:
    """`memorycluster run` as in a terminal without colours: its lines, and Ctrl-C."""

    def __init__(self, cluster: Cluster, env: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._queue: Queue[str | None] = Queue()
        self.process = subprocess.Popen(
            [*PROGRAM, *cluster.run_arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, words: str) -> str:
        """Return the next line with `words` in it."""
        while True:
            try:
                line = self._queue.get(timeout=PATIENCE)
            except Empty:
                raise AssertionError(f"{words!r} does not come after {self.lines}") from None
            assert line is not None, f"ended without {words!r}: {self.lines}"
            if words in line:
                return line

    def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._queue.put(line)
        self._queue.put(None)
