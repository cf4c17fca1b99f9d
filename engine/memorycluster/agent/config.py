"""What an agent is told at its start."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr


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
    follow_port: int = Field(gt=0, lt=65536)
    """Loopback port at which the agent poses as the engine's primary."""
    user: str
    password: SecretStr
    """The engine's user for the agent; the engine authenticates with the same pair at ``follow_port``."""
    lease: float = Field(default=5.0, ge=0.5, le=60)
    """Seconds."""
    slots: list[tuple[int, int]]
    """First and last of each range of hash slots that this shard owns."""

    @classmethod
    def load(cls, path: Path) -> AgentConfig:
        """Return the configuration in the file at ``path``."""
        return cls.model_validate(yaml.safe_load(path.read_text()))

    def config_epoch(self, epoch: int) -> int:
        """Return the config epoch in Valkey's cluster of this shard's leader in ``epoch``.

        Never the same for two shards, and grows with the log's epoch, so that gossip follows the log.
        """
        return epoch * 1024 + self.shard
