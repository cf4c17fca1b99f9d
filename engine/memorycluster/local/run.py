"""``memorycluster run``: everything is checked before anything is written, then built and started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

from memorycluster.api.manifest import Manifest
from memorycluster.local.errors import UserError
from memorycluster.local.layout import Layout
from memorycluster.local.plan import plan_state, ports_in_use
from memorycluster.local.ports import in_use, used_port
from memorycluster.local.report import Reporter
from memorycluster.local.state import DataDirectory
from memorycluster.local.supervisor import Supervisor
from memorycluster.log.server import ServerUnfit, find_server
from memorycluster.process import MissingProgram, find_setpriv
from memorycluster.valkey.build import BuildError, build

LEFTOVERS_WITHIN = 5.0
"""Seconds for the processes of a killed supervisor to be gone: the kernel ends them right after it."""


async def run(
    manifest: Manifest,
    root: Path,
    *,
    zones: int | None,
    base_port: int | None,
    reporter: Reporter,
    restore_source: Path | None = None,
) -> None:
    """Run ``manifest`` in the data directory ``root`` until SIGINT or SIGTERM.

    :param restore_source: data directory of the cluster whose log a restore to a moment is to read.

    :raises UserError: it can't be run as it is.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    with DataDirectory(Layout(root)) as directory, _warnings_noted(reporter):
        reporter.locked(directory.layout)
        old = directory.load()
        state = plan_state(manifest, old, root=root, zones=zones, base_port=base_port)
        ports = ports_in_use(state)
        await _ports_free(ports, LEFTOVERS_WITHIN if old else 0)
        engine = await _build(stop, reporter)
        if engine is None:
            return
        try:
            log_program = await find_server()
            find_setpriv()
        except (ServerUnfit, MissingProgram) as error:
            raise UserError(str(error)) from error
        await _ports_free(ports, 0)
        directory.save(state)
        supervisor = Supervisor(
            manifest,
            directory,
            state,
            engine=engine,
            log_program=log_program,
            reporter=reporter,
            restore_source=restore_source,
        )
        running = asyncio.create_task(supervisor.run(stop))
        await asyncio.wait([running, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        for number in (signal.SIGINT, signal.SIGTERM):  # told twice, or more: no longer in order, but at once
            loop.add_signal_handler(number, supervisor.kill)
        await running


@contextlib.contextmanager
def _warnings_noted(reporter: Reporter) -> Iterator[None]:
    """Have the warnings of the parts that run in this process noted."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: reporter.note(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("memorycluster")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


async def _build(stop: asyncio.Event, reporter: Reporter) -> Path | None:
    """Return the directory of the engine's programs, or None if told to stop before it is built."""
    building = asyncio.create_task(build(reporter.progress))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([building, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not building.done():
        building.cancel()
        await asyncio.wait([building])
        return None
    try:
        return building.result()
    except BuildError as error:
        raise UserError(str(error)) from error


async def _ports_free(ports: dict[str, int], patience: float) -> None:
    deadline = asyncio.get_running_loop().time() + patience
    while used := used_port(ports):
        if asyncio.get_running_loop().time() >= deadline:
            raise in_use(*used)
        await asyncio.sleep(0.1)
