"""What both containers of a pod have in common: what they are told, and what they say."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from memorycluster.pod.config import CLUSTER_FILE, ClusterConfig
from memorycluster.pod.node import Files, Pod, read_zone

Texts = Callable[[ClusterConfig, Pod, Files], Mapping[Path, str]]


def say(text: str) -> None:
    """Print a line where ``kubectl logs`` finds it."""
    print(text, flush=True)


class Told:
    """What the pod is told, as it stands: Kubernetes replaces the files while the pod runs."""

    def __init__(self, directory: Path, environment: Mapping[str, str] = os.environ) -> None:
        """Read it. Raises OSError, and ValueError that names what is wrong."""
        self._directory = directory
        self._file = directory / CLUSTER_FILE
        self._pod = Pod.load(directory, environment)
        self._text = self._file.read_bytes()
        self._config = ClusterConfig.model_validate_json(self._text)

    @property
    def pod(self) -> Pod:
        """The pod. Its secrets are those of the container's start: both containers must go by the same."""
        return replace(self._pod, zone=read_zone(self._directory))

    @property
    def config(self) -> ClusterConfig:
        """The configuration as it stands: the same object until there is another one that can be used."""
        try:
            text = self._file.read_bytes()
            if text != self._text:
                self._text = text
                self._config = ClusterConfig.model_validate_json(text)
        except (OSError, ValueError) as error:
            say(f"{self._file} can't be used, going on with what it said before: {error}")
        return self._config


def prepare(told: Told, files: Files, texts: Texts, command: Sequence[str]) -> Callable[[], Sequence[str]]:
    """Return what is done before each start of a container's process: its files are written anew."""

    def write() -> Sequence[str]:
        for path, text in texts(told.config, told.pod, files).items():
            path.touch(mode=0o600)
            path.write_text(text)
        return command

    return write


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
