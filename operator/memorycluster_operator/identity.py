"""What must never be guessed: which cluster this is, and which logs are its own.

Kept on each volume claim of the log, as an annotation, and in the MemoryCluster's status.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self
from uuid import UUID

from pydantic import ConfigDict, ValidationError

from memorycluster.api import status
from memorycluster.api.status import ShardIdentity

ANNOTATION = "memorycluster.io/identity"
"""On a volume claim of the log: an Identity, as JSON."""


class Identity(status.Identity):
    """A cluster, for as long as its data live: also beyond the MemoryCluster object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def draw(cls, uid: UUID, generations: Iterable[UUID], *, log_store: bool | None = None) -> Self:
        """Return the identity of a new cluster, of whose logs none has been made."""
        shards = [ShardIdentity(generation=each) for each in generations]
        return cls(uid=uid, shards=shards, log_store=log_store)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the identity in an annotation. Raises ValueError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"not an identity: {text[:200]!r}") from error

    def dump(self) -> str:
        """Return the text for an annotation; the same for the same identity."""
        return self.model_dump_json(exclude_none=True)

    @property
    def made(self) -> bool:
        """Some log was made: there may be data."""
        return any(shard.created for shard in self.shards)

    def same_as(self, other: Identity) -> bool:
        """Whether both mean the same logs, whatever each knows of their having been made."""
        return self.uid == other.uid and self.generations == other.generations

    @property
    def generations(self) -> list[UUID]:
        """Of the logs, by shard."""
        return [shard.generation for shard in self.shards]

    def with_created(self, shards: Iterable[int]) -> Self:
        """Return this, knowing that the logs of ``shards`` were made too."""
        known = frozenset(shards)
        marked = [
            ShardIdentity(generation=shard.generation, created=shard.created or index in known)
            for index, shard in enumerate(self.shards)
        ]
        return self.model_copy(update={"shards": marked})

    @property
    def created(self) -> frozenset[int]:
        """The shards whose logs were made."""
        return frozenset(index for index, shard in enumerate(self.shards) if shard.created)
