"""The note of a promotion: by it, an agent's successor can prove that the engine which led has exited.

An agent promotes one engine in each epoch that it claims, and notes which before it does. If both die, the
successor finds the note. Once no process has that pid any more, no engine can answer in that epoch, and the
epoch may be released at once (``Machine.orphaned``). What could make the proof wrong, and why it does not:

- A pid means nothing on another boot, or in another pid namespace: the note names both. The number of a
  namespace may be used again, but only once nothing lives in the old one.
- A pid may be used again: then its new holder must exit, too. The engine's can't be free while it lives.
- A process that is being torn down may still send: the kernel says so by the pidfd when all of it is gone.
- Another epoch, or the same number claimed by others after the log had lost it: the note names the nonce of
  the records in its epoch, which must be that of the log's last record.
- The note was not written, or is torn, or lies in a copy of the directory: no proof, so followers wait.
  It need not be durable: it is of no use after the machine's restart.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

from memorycluster.agent.engine import Process

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Promotion:
    """Which engine an agent promoted."""

    boot: str
    """Of the machine, by the kernel's boot id."""
    pid_namespace: int
    pid: int
    generation: UUID
    epoch: int
    nonce: int
    """Of the records that the agent writes."""

    @classmethod
    def load(cls, path: Path) -> Promotion | None:
        """Return the note at ``path``, or None if there is none that can be read."""
        try:
            fields = json.loads(path.read_text())
            return cls(
                boot=str(fields["boot"]),
                pid_namespace=int(fields["pid_namespace"]),
                pid=int(fields["pid"]),
                generation=UUID(fields["generation"]),
                epoch=int(fields["epoch"]),
                nonce=int(fields["nonce"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s is of no use: %r", path, error)
            return None

    @classmethod
    def save(cls, path: Path, *, pid: int, generation: UUID, epoch: int, nonce: int) -> None:
        """Note that process ``pid`` is promoted. If that fails, nothing can be proved, and nothing breaks."""
        new = path.with_name(path.name + ".new")
        try:
            note = cls(*place(), pid, generation, epoch, nonce)
            new.write_text(json.dumps(asdict(note), default=str))
            new.replace(path)  # Whole or not at all.
        except OSError as error:
            logger.warning("can't note which engine is promoted: %s", error)

    async def exited(self) -> bool:
        """Wait until the engine has exited, for certain; return False if that can't be known here."""
        try:
            if (self.boot, self.pid_namespace) != place():
                return False
            process = Process(self.pid)
        except ProcessLookupError:
            return True
        except OSError as error:  # For example, the pid is a thread's.
            logger.info("can't tell whether engine %d has exited: %s", self.pid, error)
            return False
        try:
            return await process.wait()
        finally:
            process.close()


def place() -> tuple[str, int]:
    """Return where a pid means a process: the boot, and the pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return boot, Path("/proc/self/ns/pid").stat().st_ino
