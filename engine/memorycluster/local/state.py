"""What a local cluster must remember: durable, written as a whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from typing import Self
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from memorycluster.api.snapshots import RestoreFrom, SnapshotStore
from memorycluster.durable import write_durably
from memorycluster.local.errors import UserError
from memorycluster.local.layout import Layout

LOCK_ATTEMPTS = 100

FORMAT = 1
"""Version of the data directory's format."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ShardState(_Model):
    """One shard's log."""

    generation: UUID = Field(default_factory=uuid4)
    """Drawn and stored before the log is made, so that an interrupted creation is completed, not repeated."""
    created: bool = False
    """The log was made: from here on it must exist, with this generation."""


class State(_Model):
    """The identity of a cluster and of its logs."""

    format: int = FORMAT
    cluster: str
    uid: UUID = Field(default_factory=uuid4)
    zones: list[str]
    zones_used: int | None = None
    """With how many of the manifest's zones the cluster was made; None: with all."""
    shards: list[ShardState]
    nodes_per_shard: int
    """As of the last run."""
    max_bytes: int
    """Of each shard's log, as of the last run."""
    restore_from: RestoreFrom | None = None
    """What the cluster was made from: kept, so that an interrupted restore is completed, and as it began."""
    store: SnapshotStore = SnapshotStore()
    """Of the snapshots that the logs need; none is named: the one in the data directory."""
    base_port: int
    ports: dict[str, int]


class Secrets(_Model):
    """Credentials between the parts of one cluster."""

    log_user: str = "memorycluster"
    log_password: SecretStr = Field(default_factory=lambda: SecretStr(secrets.token_urlsafe(24)))
    agent_user: str = "txlog-agent"
    agent_password: SecretStr = Field(default_factory=lambda: SecretStr(secrets.token_urlsafe(24)))

    @field_serializer("log_password", "agent_password")
    def _reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class DataDirectory:
    """A data directory that this process has locked. Use as a context manager."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Make the directory if need be, and lock it.

        :raises UserError: it is in use, is something else, or its path is too long.
        """
        root = self.layout.root
        if not self.layout.socket_paths_fit:
            raise UserError(
                f"{root}: the path is too long for unix sockets in it; choose a shorter --data-dir"
            )
        try:
            if root.exists() and not self.layout.state.exists():
                _assert_empty(self.layout)
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"{root}: can't be used as data directory: {error.strerror}") from error
        for _ in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pid = running_pid(self.layout)
                if pid is not None:
                    self.__exit__()
                    stop = f"`memorycluster stop --data-dir {root}` stops it"
                    raise UserError(f"{root}: already running (pid {pid}); {stop}") from None
            time.sleep(0.01)  # somebody only looked whether it is locked
        else:
            self.__exit__()
            raise UserError(f"{self.layout.lock}: locked by another process")
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> State | None:
        """Return the state, or None in a new directory. Raises UserError."""
        return load_state(self.layout)

    def save(self, state: State) -> None:
        """Store ``state`` durably."""
        write_durably(self.layout.state, state.model_dump_json(indent=2) + "\n")

    def secrets(self) -> Secrets:
        """Return the secrets, drawn and stored at the first call."""
        if not self.layout.secrets.exists():
            drawn = Secrets()
            write_durably(self.layout.secrets, drawn.model_dump_json(indent=2) + "\n")
        return load_secrets(self.layout)


def load_secrets(layout: Layout) -> Secrets:
    """Return the secrets in a data directory. Raises UserError."""
    try:
        return Secrets.model_validate_json(layout.secrets.read_text())
    except (OSError, ValidationError) as error:
        raise UserError(f"{layout.secrets}: can't be read; remove it to have new ones drawn") from error


def load_state(layout: Layout) -> State | None:
    """Return the state in a data directory, or None if there is none.

    :raises UserError: it is damaged or of another format.
    """
    try:
        text = layout.state.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{layout.state}: can't be read: {error.strerror}") from error
    try:
        state = State.model_validate_json(text)
    except ValidationError as error:
        found = _format_of(text)
        if found not in (None, FORMAT):
            raise _other_format(layout, found) from error
        raise UserError(
            f"{layout.state}: damaged; restore it from a copy (it holds the logs' identities)"
        ) from error
    if state.format != FORMAT:
        raise _other_format(layout, state.format)
    return state


def running_pid(layout: Layout) -> int | None:
    """Return the pid of the supervisor that runs on this data directory, or None."""
    try:
        descriptor = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode().strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None


def _assert_empty(layout: Layout) -> None:
    foreign = sorted({each.name for each in layout.root.iterdir()} - {layout.lock.name, layout.output.name})
    foreign = [name for name in foreign if not name.startswith(f".{layout.state.name}.")]
    if foreign:
        raise UserError(
            f"{layout.root}: not empty (it holds {foreign[0]}), and not a MemoryCluster data directory; "
            "choose another --data-dir"
        )


def _format_of(text: str) -> object:
    try:
        return _AnyFormat.model_validate_json(text).format
    except ValidationError:
        return None


class _AnyFormat(BaseModel):
    format: int


def _other_format(layout: Layout, found: object) -> UserError:
    return UserError(
        f"{layout.root}: a data directory of format {found}; this memorycluster reads format {FORMAT}: "
        "use the version that wrote it, or another --data-dir"
    )
