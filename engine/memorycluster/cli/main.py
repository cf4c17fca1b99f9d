"""``memorycluster``: the commands."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from memorycluster.api.manifest import API_VERSION, KIND, ManifestError, load_manifest
from memorycluster.api.status import MemoryClusterStatus, Role
from memorycluster.cli import kubernetes, recovery
from memorycluster.cli import snapshots as cli_snapshots
from memorycluster.cli.find import data_home, find_cluster
from memorycluster.cli.show import ConsoleReporter, console, show_status
from memorycluster.local.agents import fail_over
from memorycluster.local.errors import UserError
from memorycluster.local.layout import Layout
from memorycluster.local.observe import load_status, observe
from memorycluster.local.plan import plan_topology
from memorycluster.local.report import PipeReporter
from memorycluster.local.run import run as run_cluster
from memorycluster.local.state import State, running_pid
from memorycluster.log.interface import LogError
from memorycluster.snapshot.store import StoreError
from memorycluster.valkey.build import BuildError
from memorycluster.valkey.build import build as build_engine

FAILED, MISUSED = 1, 2
"""Exit statuses: it went wrong; it can't be done as it was asked for."""

SUCCESSOR_WITHIN = 30.0
"""Seconds for which `failover` waits for a replica that could take over."""

STOP_PATIENCE = 90.0
"""Seconds for a cluster to stop in order."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A durable, Valkey-compatible in-memory database.",
)

Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Its namespace. Left out: that of kubectl's context."),
]
Kubeconfig = Annotated[str | None, typer.Option(metavar="FILE", help="Left out: what kubectl would use.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        envvar="MEMORYCLUSTER_DATA_DIR",
        help="The cluster's data directory. Left out: the one that runs, or the only one there is.",
    ),
]


class Output(StrEnum):
    """How to print a status."""

    TABLE = "table"
    JSON = "json"


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The manifest of a MemoryCluster (YAML).")],
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            envvar="MEMORYCLUSTER_DATA_DIR",
            help="Where the data is. Left out: <name> in the user's data directory.",
        ),
    ] = None,
    base_port: Annotated[
        int | None,
        typer.Option(
            min=1024,
            max=65500,
            metavar="PORT",
            help="First port: the nodes' endpoints from there on, then the rest. "
            "Left out: as before, or the first free ones from 7000 on.",
        ),
    ] = None,
    zones: Annotated[
        int | None,
        typer.Option(
            metavar="1|3",
            help="Use only so many of the manifest's zones. With 1: one log server, less to run.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it serves, and leave it running.")
    ] = False,
    restore_source: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Data directory of the running cluster that spec.restoreFrom.time is about. "
            "Left out: beside the new one, by its name.",
        ),
    ] = None,
    report_to: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run a cluster on this machine, until Ctrl-C.

    Builds the engine first, once. Started again, it finds its data.

    A changed manifest takes effect at the next start.
    """
    manifest = load_manifest(file)
    if zones not in (None, 1, 3):
        raise UserError(f"--zones {zones}: use 1 or 3")
    root = (data_dir or data_home() / manifest.metadata.name).absolute()
    if detach:
        _run_detached(file.absolute(), root, base_port, zones, restore_source)
        return

    reporter: PipeReporter | ConsoleReporter
    if report_to is not None:
        reporter = PipeReporter(report_to)
    else:
        reporter = ConsoleReporter(console(), data_dir=root, ending="Ctrl-C")
    try:
        asyncio.run(
            run_cluster(
                manifest,
                root,
                zones=zones,
                base_port=base_port,
                reporter=reporter,
                restore_source=restore_source,
            )
        )
    except Exception as error:
        if not isinstance(reporter, PipeReporter):
            raise
        expected = isinstance(error, UserError)
        if not expected:
            traceback.print_exc()
        text = str(error) if expected else f"{type(error).__name__}: {error}; see {Layout(root).output}"
        reporter.failed(text, MISUSED if expected else FAILED)
        raise typer.Exit(MISUSED if expected else FAILED) from error
    finally:
        reporter.close()
    console().print(f"{manifest.metadata.name} stopped; its data is in {root}", markup=False, soft_wrap=True)


def _run_detached(
    file: Path, root: Path, base_port: int | None, zones: int | None, restore_source: Path | None
) -> None:
    """Start a run in the background, show what it does, and return once it is ready."""
    reading, writing = os.pipe()
    command = [sys.executable, "-P", "-m", "memorycluster", "run", str(file), "--data-dir", str(root)]
    command += ["--report-to", str(writing)]
    source = restore_source.absolute() if restore_source else None
    for option, value in (("--base-port", base_port), ("--zones", zones), ("--restore-source", source)):
        command += [option, str(value)] if value is not None else []
    supervisor = subprocess.Popen(
        command,
        pass_fds=(writing,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    os.close(writing)
    reporter = ConsoleReporter(console(), data_dir=root, ending=f"memorycluster stop --data-dir {root}")
    try:
        with os.fdopen(reading) as events:
            for line in events:
                event = json.loads(line)
                match event["kind"]:
                    case "progress":
                        reporter.progress(event["text"])
                    case "note":
                        reporter.note(event["text"])
                    case "ready":
                        status = MemoryClusterStatus.model_validate(event["status"])
                        reporter.ready(status, Path(event["programs"]))
                        return
                    case "failed":
                        supervisor.wait()
                        reporter.close()
                        _complain(event["text"])
                        raise typer.Exit(event["exit_status"])
        reporter.close()
        _complain(f"the supervisor ended (exit status {supervisor.wait()}); see {Layout(root).output}")
        raise typer.Exit(FAILED)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise
    finally:
        reporter.close()


@app.command()
def stop(
    data_dir: DataDir = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if it throws away acknowledged data that the log lacks.")
    ] = False,
) -> None:
    """Stop a cluster in order; its data stays."""
    layout, state = find_cluster(data_dir)
    pid = running_pid(layout)
    if pid is None:
        console().print(f"{state.cluster} is not running", markup=False)
        return
    for shard in () if force else asyncio.run(_observe(layout, state)).shards:
        if frozen := [node.name for node in shard.nodes if node.role is Role.FROZEN]:
            raise UserError(
                f"{', '.join(frozen)} holds, in memory alone, acknowledged data that the log of shard "
                f"{shard.index} lacks: `memorycluster recover {shard.index}` first, or stop --force"
            )
    try:
        supervisor = psutil.Process(pid)
        supervisor.terminate()
        supervisor.wait(STOP_PATIENCE)
    except psutil.TimeoutExpired as error:
        _complain(f"{state.cluster} (pid {pid}) does not stop; see {layout.output}")
        raise typer.Exit(FAILED) from error
    except psutil.NoSuchProcess:
        pass  # it has just ended
    console().print(f"{state.cluster} stopped; its data is in {layout.root}", markup=False, soft_wrap=True)


@app.command()
def status(
    data_dir: DataDir = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, or json: the resource, with its status.")
    ] = (Output.TABLE),
) -> None:
    """Show what a cluster is doing."""
    layout, state = find_cluster(data_dir)
    seen = asyncio.run(_observe(layout, state))
    if output is Output.JSON:
        # Not through a console: its width must not touch JSON.
        shown = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": state.cluster, "uid": str(state.uid)},
            "status": seen.model_dump(mode="json", by_alias=True),
        }
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    else:
        out = console()
        pid = running_pid(layout)
        running = f"runs (pid {pid})" if pid else "is not running"
        out.print(f"[bold]{state.cluster}[/bold] {running}, data in {layout.root}", soft_wrap=True)
        show_status(out, seen)


@app.command()
def failover(
    shard: Annotated[int, typer.Argument(metavar="SHARD", min=0, help="The shard's number, from 0.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="NODE", help="Who is to be primary. Left out: any replica.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Have another node of a shard become its primary, without losing anything."""
    layout, state = find_cluster(data_dir)
    if shard >= len(state.shards):
        raise UserError(f"SHARD: there is no shard {shard}; the last one is {len(state.shards) - 1}")
    seen = asyncio.run(_observe(layout, state)).shards[shard]
    names = [node.name for node in seen.nodes]
    if to is not None and to not in names:
        raise UserError(f"--to: there is no node {to} in shard {shard}; there are {', '.join(names)}")
    if seen.primary is None:
        _complain(f"shard {shard} has no primary that could give way; see `memorycluster status`")
        raise typer.Exit(FAILED)
    if len(names) == 1:
        raise UserError(f"shard {shard} has no replica; raise spec.replicasPerShard")
    if to == seen.primary:
        console().print(f"shard {shard}: {to} is primary already", markup=False)
        return
    if not _wait_for_successor(layout, state, shard, to):
        waiting = f"{to} is not" if to else f"no replica of shard {shard} is"
        _complain(f"{waiting} ready to take over; see `memorycluster status`")
        raise typer.Exit(FAILED)
    socket = layout.node(plan_topology(state).node(seen.primary)).agent_socket
    started = time.monotonic()
    now = asyncio.run(fail_over(socket, to))
    took = time.monotonic() - started
    console().print(
        f"shard {shard}: {now['leader']} is primary (epoch {now['epoch']}), after {took * 1000:.0f} ms",
        markup=False,
    )


@app.command()
def recover(
    shard: Annotated[int, typer.Argument(metavar="SHARD", min=0, help="The shard's number, from 0.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Left out: only show what would be done.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="NODE", help="A node that is lost for good; may be repeated."),
    ] = None,
    data_dir: DataDir = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="On Kubernetes: the MemoryCluster's name."),
    ] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Put back what a shard's log has lost, from what a frozen node holds. See docs/recovery.md."""
    again = f"memorycluster recover {shard}"
    if cluster is not None:
        found, where = asyncio.run(kubernetes.nodes(cluster, namespace, kubeconfig, shard))
        again += f" --cluster {cluster} -n {where}"
    else:
        found = recovery.nodes(*find_cluster(data_dir), shard)
    if refusal := recovery.recover(console(), found, shard, again=again, yes=yes, without=without or ()):
        _complain(refusal)
        raise typer.Exit(FAILED)


def _wait_for_successor(layout: Layout, state: State, shard: int, to: str | None) -> bool:
    """Wait until ``to``, or any replica, could take over: the primary's engine ends when it gives way."""
    deadline = time.monotonic() + SUCCESSOR_WITHIN
    while time.monotonic() < deadline:
        seen = asyncio.run(_observe(layout, state)).shards[shard]
        if any(node.ready and node.name != seen.primary and to in (None, node.name) for node in seen.nodes):
            return True
        time.sleep(0.2)
    return False


@app.command()
def snapshot(
    shard: Annotated[
        int | None,
        typer.Argument(metavar="[SHARD]", min=0, help="The shard's number. Left out: all."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Take a snapshot now, beside the cluster, which goes on undisturbed."""
    layout, state = find_cluster(data_dir)
    if shard is not None and shard >= len(state.shards):
        raise UserError(f"SHARD: there is no shard {shard}; the last one is {len(state.shards) - 1}")
    if running_pid(layout) is None:
        raise UserError(f"{state.cluster} is not running; start it, as its log has to be read")
    shards = range(len(state.shards)) if shard is None else [shard]
    programs = asyncio.run(build_engine(lambda _: None))
    if not asyncio.run(cli_snapshots.take(layout, state, shards, programs, console())):
        raise typer.Exit(FAILED)


@app.command()
def snapshots(
    data_dir: DataDir = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, or json: their manifests.")
    ] = Output.TABLE,
) -> None:
    """List the snapshots of a cluster."""
    layout, state = find_cluster(data_dir)
    try:
        found, broken = asyncio.run(cli_snapshots.find(layout, state))
    except StoreError as error:
        raise UserError(str(error)) from error
    if output is Output.JSON:
        cli_snapshots.show_json(found)
    else:
        cli_snapshots.show(console(), found)
        with suppress(LogError):
            if since := asyncio.run(cli_snapshots.moments(layout, state, found)):
                console().print(f"any moment since {since} can be restored (spec.restoreFrom.time)")
    for line in broken:
        _complain(line)


@app.command()
def plan(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The MemoryCluster's name.")],
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="table, or json.")] = Output.TABLE,
) -> None:
    """Show what the operator would do next about a MemoryCluster on Kubernetes, and why.

    Agents and logs can't be asked from outside: of them, it takes what the status says.
    """
    found, where = asyncio.run(kubernetes.plan(name, namespace, kubeconfig))
    if output is Output.JSON:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        kubernetes.show_plan(console(), name, where, found)


@app.command()
def build() -> None:
    """Build the engine, if that has not been done, and print where its programs are."""
    reporter = ConsoleReporter(console(error=True))
    try:
        programs = asyncio.run(build_engine(reporter.progress))
    except BuildError as error:
        raise UserError(str(error)) from error
    finally:
        reporter.close()
    sys.stdout.write(f"{programs}\n")


async def _observe(layout: Layout, state: State) -> MemoryClusterStatus:
    before = load_status(layout)
    generation = before.observed_generation if before else 1
    return await observe(plan_topology(state), layout, generation=generation, before=before)


def _complain(text: str) -> None:
    out = Console(stderr=True, highlight=False)
    for line in text.splitlines():
        out.print("[bold red]error:[/bold red] ", end="")
        out.print(line, markup=False, soft_wrap=True)


def main() -> int:
    """Run the command line; return its exit status."""
    try:
        app()
    except (UserError, ManifestError) as error:
        _complain(str(error))
        return MISUSED
    except Exception as error:
        traceback.print_exc()
        _complain(f"unexpected: {error or type(error).__name__}; the logs are in the data directory")
        return FAILED
    return 0
