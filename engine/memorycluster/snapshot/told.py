"""What a making is told, by an operator that may be newer: engine images are pinned for each cluster."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator


class Told(BaseModel):
    """Base: unknown fields are ignored, but for those that are said to matter.

    Refused for a field that does without, no snapshot would be made, and the log fill up. What a user wrote
    of the store and of retention is as strict as in a manifest: ignored, it would be another store, or more
    would be deleted than the user wants.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    must_know: list[str] = []
    """Fields that are not to be ignored: without one of them, something would be lost that is to be kept."""

    @field_validator("must_know")
    @classmethod
    def _known(cls, fields: list[str]) -> list[str]:
        if unknown := sorted(set(fields) - set(cls.model_fields)):
            raise ValueError(
                f"this engine image is too old for what it is told ({', '.join(unknown)}): use a newer one"
            )
        return fields
