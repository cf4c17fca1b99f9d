"""One supervised process: started again whenever it ends, and dead as soon as its supervisor is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

SETTLED = 3.0
"""Seconds after which a process no longer counts as one that ended at its start."""
FREE_RESTARTS = 3
"""Restarts in a row without delay; from there on each waits twice as long as the one before."""
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0
MAX_OUTPUT = 8 << 20
"""Bytes of a process's output that are kept, twice: in the file and in the one before it."""


class MissingProgram(OSError):
    """A program that every process is started with is not installed."""


def find_setpriv() -> str:
    """Return the program by which a process is made to die with its parent. Raises MissingProgram."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise MissingProgram("setpriv is not installed; on Debian: apt-get install util-linux")
    return setpriv


def dying_with_parent(argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv``, killed by the kernel when the process that started it ends."""
    return [find_setpriv(), "--pdeathsig", "KILL", "--", *argv]


def yield_cpu(pid: int, nice: int) -> None:
    """Have the session of the process ``pid`` be so nice to others, or, with 0, as all are again.

    Where the kernel shares CPU time out by sessions first, being nice counts only within each. A kernel that
    has another way stays as it is.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def restart_delay(quick_ends: int, least: float) -> float:
    """Return the seconds to wait before a restart after ``quick_ends`` ends in a row soon after a start."""
    if quick_ends <= FREE_RESTARTS:
        return least
    return max(least, min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (quick_ends - FREE_RESTARTS - 1)))


def last_line(path: Path) -> str:
    """Return the last line in the file ``path`` that is not blank."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def bound_output(path: Path, limit: int = MAX_OUTPUT) -> None:
    """Move what is in the file ``path`` to ``path``.1 once it is larger than ``limit`` bytes.

    The process goes on writing to the same open file (it appends), so the file is copied and truncated.
    """
    try:
        if path.stat().st_size <= limit:
            return
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)
    except OSError:
        pass  # a full disk must not end the supervisor


class Process:
    """A process that is kept running until ``stop``."""

    def __init__(
        self,
        name: str,
        prepare: Callable[[], Sequence[str]],
        output: Path | None,
        note: Callable[[str], None],
        *,
        delay: float = 0.0,
    ) -> None:
        """``prepare`` is called before each start: it writes the configuration and returns the command.

        What the process prints is added to the file ``output``, or, without one, to our own output.
        ``delay`` is the seconds to wait before any restart.
        """
        self.name = name
        self.output = output
        self._prepare = prepare
        self._note = note
        self._delay = delay
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._wanted = False
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The pid, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it, and keep it running."""
        self._wanted = True
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def retire(self) -> None:
        """Let it run, but don't start it again."""
        self._wanted = False
        keeper, self._keeper = self._keeper, None
        if keeper:
            async with self._starting:
                keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def ended(self) -> None:
        """Wait until it does not run; one that is kept running is about to be started again then."""
        if self._process:
            await self._process.wait()

    async def stop(self, patience: float) -> None:
        """Ask it to end, by SIGTERM, and end it by SIGKILL after ``patience`` seconds."""
        await self.retire()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            self._note(f"{self.name} does not end within {patience:g} s: killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def kill(self) -> None:
        """Kill it at once, for good."""
        self._wanted = False
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _spawn(self) -> None:
        async with self._starting:
            await self._spawn_once()

    async def _spawn_once(self) -> None:
        command = dying_with_parent(self._prepare())
        with self._open_output() as output:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops the parts in order
            )

    @contextlib.contextmanager
    def _open_output(self) -> Iterator[int | None]:
        if self.output is None:
            yield None
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            yield output
        finally:
            os.close(output)

    async def _keep(self) -> None:
        quick_ends = 0
        started = time.monotonic()
        while True:
            assert self._process is not None
            status = await self._process.wait()
            if not self._wanted:
                return
            quick_ends = quick_ends + 1 if time.monotonic() - started < SETTLED else 0
            self._note(self._describe(status, quick_ends))
            await asyncio.sleep(restart_delay(quick_ends, self._delay))
            started = time.monotonic()
            try:
                await self._spawn()
            except (OSError, ValueError) as error:
                self._note(f"{self.name} can't be started: {error}")
                await asyncio.sleep(LONGEST_DELAY)

    def _describe(self, status: int, quick_ends: int) -> str:
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        if quick_ends <= FREE_RESTARTS:
            return f"{self.name} ended ({how}); started again"
        why = f"{last_line(self.output)} - see {self.output}" if self.output else "see what it printed"
        return f"{self.name} keeps ending ({how}): {why}"
