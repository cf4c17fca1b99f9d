"""What an agent is told at its start."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from memorycluster.api.snapshots import SnapshotStore
from memorycluster.snapshot.store import LogAccess


class AgentConfig(BaseModel):
    """The agent's configuration file, in YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: str
    shard: int = Field(ge=0, lt=1024)
    node: str
    node_id: str = Field(pattern="^[0-9a-f]{40}$")
    """The node's id in Valkey's cluster."""
    zone: str
    generation: UUID
    """The log's, as it was made: a log of another generation is refused."""
    stream: str
    """The log's name in the log service."""
    log_servers: list[str] = Field(min_length=1)
    log_user: str
    log_password: SecretStr
    engine_socket: Path
    api_socket: Path
    api_address: str = ""
    """IP address at which the API is served too, to those who know ``api_token``; empty: at none."""
    api_port: int = Field(default=0, ge=0, lt=65536)
    api_token: SecretStr = SecretStr("")
    follow_port: int = Field(gt=0, lt=65536)
    """Loopback port at which the agent poses as the engine's primary."""
    user: str
    password: SecretStr
    """The engine's user for the agent; the engine authenticates with the same pair at ``follow_port``."""
    lease: float = Field(default=5.0, ge=0.5, le=60)
    """Seconds."""
    slots: list[tuple[int, int]]
    """First and last of each range of hash slots that this shard owns."""
    snapshots: SnapshotStore | None = None
    """Where the shard's snapshots are; None: there are none."""
    spool: Path | None = None
    """Directory for a copy of a snapshot, as large as that; None: the system's own for temporary files."""
    parameters: dict[str, str] | None = None
    """Valkey's own parameters, which the agent sets; None: they are the engine's own affair."""
    parameters_revision: str = ""
    """Names them in the status."""

    @model_validator(mode="after")
    def _guarded(self) -> AgentConfig:
        if self.api_address and not (self.api_port and self.api_token.get_secret_value()):
            raise ValueError("api_address needs api_port and api_token")
        return self

    @property
    def access(self) -> LogAccess:
        """To the log service, which may have the snapshots, too."""
        return LogAccess(tuple(self.log_servers), self.log_user, self.log_password.get_secret_value())

    @property
    def promotion(self) -> Path:
        """Where the agent notes which engine it promotes: beside the engine's socket, so in the same pod."""
        return self.engine_socket.with_name(self.engine_socket.name + ".promoted")

    @classmethod
    def load(cls, path: Path) -> AgentConfig:
        """Return the configuration in the file at ``path``."""
        text = path.read_text()
        try:
            fields = json.loads(text)  # As it is written by us; YAML takes its time to load.
        except ValueError:
            import yaml

            fields = yaml.safe_load(text)
        return cls.model_validate(fields)

    def config_epoch(self, epoch: int) -> int:
        """Return the config epoch in Valkey's cluster of this shard's leader in ``epoch``.

        Never the same for two shards, and grows with the log's epoch, so that gossip follows the log.
        """
        return epoch * 1024 + self.shard
