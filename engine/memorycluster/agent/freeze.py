"""The note of a freeze: by it, an agent's successor knows that the engine's memory may be the only copy.

The log has lost what was acknowledged, or has gone on with other data. Its frozen agent remembers that; its
successor would only see a log that looks well, perhaps has grown beyond what was lost, and would end the
engine, or feed it another history. So a freeze is noted beside the engine's socket, with what was known then,
and who reads the note begins frozen (``Machine.refreeze``) and can still prove what it was (recovery.py).

It is a note about one process's memory, and holds for as long as that process lives: by boot, pid namespace,
pid and start time. Once the engine has exited there is nothing to keep.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

from memorycluster.agent.promotion import place
from memorycluster.durable import write_durably
from memorycluster.log.chain import Position

logger = logging.getLogger(__name__)


def note_of(engine_socket: Path) -> Path:
    """Return where the note is: beside the engine's socket, so in the same pod."""
    return engine_socket.with_name(engine_socket.name + ".frozen")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, whatever becomes of its pid."""

    boot: str
    """Of the machine, by the kernel's boot id."""
    pid_namespace: int
    pid: int
    started: int
    """In clock ticks since that boot."""

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Return process ``pid`` of this pid namespace. Raises OSError."""
        return cls(*place(), pid, _started(pid))

    @property
    def lives(self) -> bool:
        """Whether the process has its memory still; true if that can't be told."""
        try:
            return Owner.of(self.pid) == self
        except (FileNotFoundError, ProcessLookupError):
            return False
        except OSError as error:
            logger.warning("can't tell whether process %d lives: %s", self.pid, error)
            return True


UNKNOWN = Owner("", 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Freeze:
    """That an agent froze, why, and what it knew."""

    engine: Owner
    """Whose memory is kept."""
    reason: str
    epoch: int
    """In which the agent led, having claimed it; 0: it did not."""
    position: Position
    """Up to which it knew the log: what the log must hold."""

    @classmethod
    def load(cls, path: Path, generation: UUID | None = None) -> Freeze | None:
        """Return the note at ``path`` if it is about this log and a process that lives; else None.

        One that can't be read may be about just that, so it holds. It proves nothing of what was known.

        :param generation: of the log; None: of whichever.
        """
        try:
            fields = json.loads(path.read_text())
            position = fields["position"]
            note = cls(
                engine=Owner(**fields["engine"]),
                reason=str(fields["reason"]),
                epoch=int(fields["epoch"]),
                position=Position(**(position | {"generation": UUID(position["generation"])})),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = (
                f"a note of a freeze can't be read, {path} ({error!r}): look at it; only if this "
                "engine's memory is not needed, remove it and end the pod"
            )
            return cls(UNKNOWN, reason, 0, Position(generation or UUID(int=0)))
        ours = generation in (None, note.position.generation)
        return note if ours and note.engine.lives else None

    def save(self, path: Path) -> None:
        """Write the note, durably. If that fails, the agent must not end."""
        try:
            write_durably(path, json.dumps(asdict(self), default=str))
        except OSError as error:
            logger.error("can't note that this node is frozen; do not end its agent: %s", error)

    @staticmethod
    def forget(path: Path) -> None:
        """Remove the note, if there is one."""
        path.unlink(missing_ok=True)


def _started(pid: int) -> int:
    """Return when process ``pid`` started. Raises ProcessLookupError if it has lost its memory."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        raise ProcessLookupError(f"process {pid} has exited")
    return int(fields[19])
