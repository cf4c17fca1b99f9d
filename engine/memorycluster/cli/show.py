"""How things look: the status table, progress, notes."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from memorycluster.api.status import LogMemberStatus, LogStatus, MemoryClusterStatus, NodeStatus, Phase, Role
from memorycluster.api.units import format_bytes
from memorycluster.local.layout import Layout

PLAIN_WIDTH = 200
"""Columns of what is not a terminal: enough that no table is cut."""
REPEAT_PROGRESS = 10.0
"""Seconds between two plain lines that differ only in their numbers."""

_COUNT = re.compile(r"(.*?)\s*(\d+)/(\d+)$")
_PERCENT = re.compile(r"\((\d+)%\)$")
_PHASES = {Phase.READY: "green", Phase.DEGRADED: "yellow", Phase.PENDING: "yellow", Phase.UNAVAILABLE: "red"}
_ROLES = {Role.PRIMARY: "bold green", Role.REPLICA: "", Role.STARTING: "yellow", Role.FROZEN: "bold red"}


def console(*, error: bool = False) -> Console:
    """Return a console on stdout (or stderr) that cuts nothing where nobody looks."""
    file = sys.stderr if error else sys.stdout
    return Console(file=file, width=None if file.isatty() else PLAIN_WIDTH, highlight=False)


class _CountedBar(BarColumn):
    """A bar for what is counted, and nothing for what only takes its time."""

    def render(self, task: Task) -> ProgressBar:
        """Return the bar, of no width if there is nothing to count."""
        bar = super().render(task)
        bar.width = bar.width if task.total is not None else 0
        return bar


class ConsoleReporter:
    """Shows what a run does: a moving line on a terminal, plain lines elsewhere."""

    def __init__(self, out: Console, *, data_dir: Path | None = None, ending: str = "") -> None:
        """``ending`` is what to do to stop the cluster."""
        self._out = out
        self._data_dir = data_dir
        self._ending = ending
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = ""
        self._said_at = 0.0

    def progress(self, text: str) -> None:
        """Say what is being done now."""
        counted, percent = _COUNT.match(text), _PERCENT.search(text)
        if not self._out.is_terminal:
            stem = re.sub(r"\d+", "", text)
            if stem != self._said or time.monotonic() - self._said_at > REPEAT_PROGRESS:
                self._said, self._said_at = stem, time.monotonic()
                self._out.print(f"{text} ...", markup=False)
            return
        if self._bar is None:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                _CountedBar(30),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=self._out, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        assert self._task is not None
        total, completed = (int(counted[3]), int(counted[2])) if counted else (None, 0)
        if percent:
            total, completed = 100, int(percent[1])
        self._bar.update(self._task, description=escape(text), total=total, completed=completed)

    def note(self, text: str) -> None:
        """Say something worth a line."""
        now = time.strftime("%H:%M:%S")
        (self._bar.console if self._bar else self._out).print(f"[dim]{now}[/dim] {escape(text)}")

    def locked(self, layout: Layout) -> None:
        """Show nothing."""

    def ready(self, status: MemoryClusterStatus, programs: Path) -> None:
        """Show the cluster, and how to connect."""
        self.close()
        show_status(self._out, status)
        port = status.endpoints[0].rpartition(":")[2]
        command = f"{shlex.quote(str(programs / 'valkey-cli'))} -c -p {port}"
        self._out.print()
        for name, text in (
            ("Connect", command),
            ("", "or any Valkey or Redis OSS cluster client, at any of the endpoints"),
            ("Data", str(self._data_dir)),
            ("Stop", self._ending),
        ):
            self._out.print(f"[bold]{name:8}[/bold] {escape(text)}", soft_wrap=True)

    def close(self) -> None:
        """End the moving line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def show_status(out: Console, status: MemoryClusterStatus) -> None:
    """Print ``status`` as a table of nodes, with a line for each log and each complaint."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("SHARD", "SLOTS", "NODE", "ROLE", "ZONE", "ENDPOINT"):
        table.add_column(name, no_wrap=True)
    for name in ("EPOCH", "COMMITTED", "APPLIED", "LAG", "LEASE"):
        table.add_column(name, justify="right", no_wrap=True)
    for shard in status.shards:
        for index, node in enumerate(shard.nodes):
            first = index == 0
            table.add_row(
                str(shard.index) if first else "", ",".join(shard.slots) if first else "", *_cells(node)
            )
    out.print(f"[bold {_PHASES[status.phase]}]{status.phase}[/]  {escape(status.message)}", soft_wrap=True)
    out.print()
    out.print(table)
    out.print()
    for shard in status.shards:
        line = _log_line(shard.log) if shard.log else "not known yet"
        out.print(f"[bold]Log[/bold] of shard {shard.index}: {escape(line)}", soft_wrap=True)
    for shard in status.shards:
        for node in shard.nodes:
            if node.message:
                out.print(f"[yellow]{escape(node.name)}[/yellow]: {escape(node.message)}", soft_wrap=True)
        if any(node.role is Role.FROZEN for node in shard.nodes):
            out.print(f"What to do about it: memorycluster recover {shard.index}", markup=False)


def _cells(node: NodeStatus) -> tuple[str, ...]:
    known = node.role is not Role.UNKNOWN
    style = _ROLES.get(node.role, "red")
    role = f"[{style}]{node.role}[/]" if style else str(node.role)
    return (
        node.name,
        role if node.ready or not known else f"{role} (not ready)",
        node.zone,
        node.endpoint,
        str(node.epoch) if known else "-",
        str(node.committed_offset) if known else "-",
        "-" if node.applied_offset is None else str(node.applied_offset),
        "-" if node.lag is None else str(node.lag),
        f"{node.lease:.1f} s" if node.lease is not None else "",
    )


def _log_line(log: LogStatus) -> str:
    records = log.last_sequence - log.first_sequence + 1 if log.last_sequence else 0
    size = f"{records} records, {format_bytes(log.bytes)} of {format_bytes(log.max_bytes)}"
    members = ", ".join(f"{member.name} {_member_state(member)}" for member in log.members)
    return f"{size}; {members}" if members else size


def _member_state(member: LogMemberStatus) -> str:
    if member.rotten:
        return "rotten"
    if member.leader:
        return "leads"
    return "current" if member.current else f"{member.lag} behind"
