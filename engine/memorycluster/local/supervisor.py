"""Runs a cluster on this machine: log servers, then engines and agents, kept running until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from memorycluster.agent.config import AgentConfig
from memorycluster.api.manifest import Manifest
from memorycluster.api.snapshots import SnapshotStore
from memorycluster.api.status import MemoryClusterStatus
from memorycluster.api.topology import Node, Shard
from memorycluster.api.units import format_bytes
from memorycluster.durable import write_durably
from memorycluster.local.errors import UserError
from memorycluster.local.layout import Layout
from memorycluster.local.logs import shard_log
from memorycluster.local.observe import load_status, observe
from memorycluster.local.plan import (
    LOG_SERVER_PREFIX,
    follow_port,
    log_port_numbers,
    plan_topology,
    stream_name,
)
from memorycluster.local.ports import HOST
from memorycluster.local.report import Reporter
from memorycluster.local.restore import reshard, restore
from memorycluster.local.snapshots import ShardSnapshots, store_of
from memorycluster.local.state import DataDirectory, State
from memorycluster.log.healing import Healer
from memorycluster.log.interface import LogError, LogUnavailable
from memorycluster.log.server import Server, ServerUnfit, server_conf
from memorycluster.log.service import LogService
from memorycluster.process import Process, bound_output
from memorycluster.snapshot.bootstrap import Bootstrap
from memorycluster.snapshot.catalogue import open_catalogue
from memorycluster.snapshot.store import StoreError
from memorycluster.valkey.config import nodes_conf, valkey_conf

LOG_SERVER_RESTART = 0.5
"""Seconds before a log server is started again."""
AGENT_PATIENCE = 12.0
"""Seconds for an agent to give leadership away and end."""
ENGINE_PATIENCE = 3.0
LOG_SERVER_PATIENCE = 10.0
LOG_SERVERS_WITHIN = 20.0
"""Seconds for all log servers to answer; then a majority has to do."""
ELECTION = 15.0
"""Seconds that the log takes at most to elect its leader, if nothing is wrong."""
CHORE_AGAIN = 10.0
WATCH_EVERY = 1.0
START_WATCH_EVERY = 0.1
REDUNDANT_WITHIN = 5.0
"""Seconds that a start waits for replicas once every shard serves."""


class Supervisor:
    """The processes of one cluster."""

    def __init__(
        self,
        manifest: Manifest,
        directory: DataDirectory,
        state: State,
        *,
        engine: Path,
        log_program: Path,
        reporter: Reporter,
        restore_source: Path | None = None,
    ) -> None:
        """``engine`` is the directory of the engine's programs, ``log_program`` the log server's program.

        ``restore_source`` is the data directory of the cluster whose log a restore is to read.
        """
        self._restore_source = restore_source
        self._manifest = manifest
        self._directory = directory
        self._layout = directory.layout
        self._state = state
        self._secrets = directory.secrets()
        self._engine = engine
        self._log_program = log_program
        self._reporter = reporter
        self._topology = plan_topology(state)
        self._servers = [
            Server(LOG_SERVER_PREFIX + zone, zone, HOST, *log_port_numbers(state, zone))
            for zone in state.zones
        ]
        self._log_servers: dict[str, Process] = {}
        self._engines: list[Process] = []
        self._agents: list[Process] = []
        self._healer: Healer | None = None
        self._snapshots: list[ShardSnapshots] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, keep it running until ``stop`` is set, and end it in order.

        :raises UserError: it can't be started as it is.
        """
        try:
            if await _unless(stop, self._start()):
                chores = (self._watch, self._heal, self._keep_snapshots)
                await _unless(stop, _all(self._keep_at(chore) for chore in chores))
            self._reporter.progress("stopping")
        finally:
            await self._stop()

    def kill(self) -> None:
        """End everything at once."""
        for process in self._processes():
            process.kill()

    async def _start(self) -> None:
        self._make_directories()
        self._reporter.progress("starting the log")
        self._log_servers = {server.name: self._log_server(server) for server in self._servers}
        await _all(process.start() for process in self._log_servers.values())
        async with self._log_service() as service:
            await self._log_servers_answer(service)
            self._reporter.progress("waiting for the log to elect its leader (up to 9 s)")
            await reshard(
                self._topology,
                self._state,
                self._layout,
                source=self._restore_source,
                programs=self._engine,
                progress=self._reporter.progress,
            )
            await _all(self._settle_log(service, index) for index in range(len(self._state.shards)))
        await self._settle_store()
        self._reporter.progress("starting the engines and their agents")
        self._engines = [self._engine_process(node) for node in self._topology.nodes]
        self._agents = [self._agent_process(node) for node in self._topology.nodes]
        await _all(process.start() for process in (*self._engines, *self._agents))
        self._reporter.ready(await self._serving(), self._engine)

    async def _stop(self) -> None:
        for engine in self._engines:
            await engine.retire()  # agents end theirs when they give leadership away
        await _all(agent.stop(AGENT_PATIENCE) for agent in self._agents)
        await _all(engine.stop(ENGINE_PATIENCE) for engine in self._engines)
        await _all(server.stop(LOG_SERVER_PATIENCE) for server in self._log_servers.values())

    def _processes(self) -> list[Process]:
        return [*self._agents, *self._engines, *self._log_servers.values()]

    def _make_directories(self) -> None:
        directories = [self._layout.sockets]
        directories += [self._layout.log_server(zone).directory for zone in self._state.zones]
        directories += [self._layout.node(node).directory for node in self._topology.nodes]
        for directory in directories:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        need = len(self._servers) * len(self._state.shards) * self._manifest.spec.log.max_bytes
        free = shutil.disk_usage(self._layout.root).free
        if free < need:
            self._reporter.note(
                f"the disk of {self._layout.root} has {format_bytes(free)} free, "
                f"the log may grow to {format_bytes(need)}: lower spec.log.maxBytes or make room"
            )

    # The log

    def _log_server(self, server: Server) -> Process:
        files = self._layout.log_server(server.zone)
        conf = server_conf(
            server,
            self._servers,
            cluster=self._state.cluster,
            data_dir=files.store,
            user=self._secrets.log_user,
            password=self._secrets.log_password.get_secret_value(),
            # Room for one log more: the server looks for room before it sees that the log is already there.
            max_file_store=(len(self._state.shards) + 1) * self._manifest.spec.log.max_bytes,
        )

        def prepare() -> list[str]:
            _write_private(files.conf, conf)
            return [str(self._log_program), "-c", str(files.conf)]

        return Process(
            f"log server {server.name}",
            prepare,
            files.output,
            self._reporter.note,
            delay=LOG_SERVER_RESTART,
        )

    def _log_service(self) -> LogService:
        return LogService(
            self._servers,
            user=self._secrets.log_user,
            password=self._secrets.log_password.get_secret_value(),
        )

    async def _heal(self) -> None:
        """Watch and scrub the log's members, and have a rotten one copied anew."""
        async with self._log_service() as service:
            self._healer = Healer(service, self._log_servers, LogServers(self._layout, self._log_servers))
            await self._healer.run()

    async def _log_servers_answer(self, service: LogService) -> None:
        deadline = asyncio.get_running_loop().time() + LOG_SERVERS_WITHIN
        while True:
            try:
                return await service.assert_safe()
            except ServerUnfit as error:
                raise UserError(str(error)) from error
            except LogUnavailable as error:
                if asyncio.get_running_loop().time() > deadline:
                    return self._reporter.note(f"going on without all log servers: {error}")
                await asyncio.sleep(0.05)

    async def _settle_log(self, service: LogService, shard: int) -> None:
        """Make the shard's log, once; from then on it must be there."""
        wanted = self._state.shards[shard]
        stream = stream_name(self._state.cluster, shard)
        worrying = asyncio.get_running_loop().time() + ELECTION
        while True:
            try:
                if wanted.created:
                    await service.verify(stream, wanted.generation)
                    await self._grow_log(service, stream)
                else:
                    seed = await self._restore(shard)
                    await service.create(
                        stream, wanted.generation, max_bytes=self._manifest.spec.log.max_bytes, seed=seed
                    )
                    wanted.created = True
                    self._directory.save(self._state)
                return
            except LogUnavailable as error:
                if asyncio.get_running_loop().time() > worrying:
                    self._reporter.progress(f"waiting for the log of shard {shard}: {error}")
                await asyncio.sleep(0.1)
            except LogError as error:
                raise UserError(
                    f"the log of shard {shard} is not the one this cluster was made with: {error}; "
                    f"restore {self._layout.root / 'log'} from a copy (nothing was changed)"
                ) from error

    async def _restore(self, shard: int) -> bytes:
        """Restore the shard if the cluster is to be made from something; return what its log begins with."""
        if self._state.restore_from is None:
            return b""
        return await restore(
            self._topology.shards[shard],
            self._state,
            self._layout,
            source=self._restore_source,
            programs=self._engine,
            progress=self._reporter.progress,
        )

    async def _grow_log(self, service: LogService, stream: str) -> None:
        """Raise the log's limit to what the manifest says; remembered once it is so."""
        wanted = self._manifest.spec.log.max_bytes
        await service.grow(stream, wanted)
        if self._state.max_bytes != wanted:
            self._state.max_bytes = wanted
            self._directory.save(self._state)

    async def _settle_store(self) -> None:
        """Use the store that the manifest names, once it holds what the logs need; remembered then."""
        wanted = self._state.model_copy(update={"store": self._manifest.spec.snapshots.store})
        former, new = store_of(self._state, self._layout), store_of(wanted, self._layout)
        if new != former:
            for shard in self._topology.shards:
                if lacking := await self._lacking(shard, new):
                    raise UserError(
                        f"spec.snapshots.store: the log of shard {shard.index} leads on from a snapshot in "
                        f"the former store, {former.as_written()}; the new one does not have it ({lacking}): "
                        "keep the former store, or copy all snapshots to the new one first"
                    )
        if wanted.store != self._state.store:
            self._state.store = wanted.store
            self._directory.save(self._state)

    async def _lacking(self, shard: Shard, store: SnapshotStore) -> str:
        """Return why the log of ``shard`` can't be read on from what is in ``store``; empty: it can be."""
        async with shard_log(self._state, self._secrets, shard.index) as log:
            generation = self._state.shards[shard.index].generation
            try:
                catalogue = open_catalogue(store, self._state.cluster, shard.index)
                with tempfile.TemporaryDirectory(dir=self._layout.root, prefix="check-") as spool:
                    start = await Bootstrap(log, generation, lambda: catalogue, Path(spool)).start()
                start.close()
            except (LogError, StoreError, OSError) as error:
                return str(error)
        return ""

    async def _keep_snapshots(self) -> None:
        """Take snapshots when they are due, and trim the logs behind them."""
        self._snapshots = [
            ShardSnapshots(
                shard,
                self._manifest.spec.snapshots,
                self._layout,
                self._state,
                self._secrets,
                max_bytes=self._manifest.spec.log.max_bytes,
                log_servers=[server.url for server in self._servers],
                programs=self._engine,
                note=self._reporter.note,
            )
            for shard in self._topology.shards
        ]
        await _all(each.run() for each in self._snapshots)

    # The nodes

    def _engine_process(self, node: Node) -> Process:
        files = self._layout.node(node)

        conf = valkey_conf(
            node=node,
            directory=files.directory,
            engine_socket=files.engine_socket,
            follow_port=follow_port(self._state, node.name),
            agent_user=self._secrets.agent_user,
            agent_password=self._secrets.agent_password.get_secret_value(),
            io_threads=self._manifest.spec.engine.io_threads,
            lease=self._manifest.spec.failover.lease,
            parameters=self._manifest.spec.engine.parameters,
        )
        nodes = nodes_conf(node, self._topology)

        def prepare() -> list[str]:
            _write_private(files.engine_conf, conf)
            _write_private(files.nodes_conf, nodes)
            return [str(self._engine / "valkey-server"), str(files.engine_conf)]

        return Process(f"engine {node.name}", prepare, files.engine_output, self._reporter.note)

    def _agent_process(self, node: Node) -> Process:
        files = self._layout.node(node)
        conf = json.dumps(self._agent_config(node), indent=2)

        def prepare() -> list[str]:
            _write_private(files.agent_conf, conf)
            return [sys.executable, "-P", "-m", "memorycluster.agent", "--config", str(files.agent_conf)]

        return Process(f"agent {node.name}", prepare, files.agent_output, self._reporter.note)

    def _agent_config(self, node: Node) -> dict[str, Any]:
        files = self._layout.node(node)
        shard = self._topology.shards[node.shard]
        near_first = sorted(self._servers, key=lambda server: server.zone != node.zone)
        fields: dict[str, Any] = {
            "cluster": self._state.cluster,
            "shard": node.shard,
            "node": node.name,
            "node_id": node.id,
            "zone": node.zone,
            "generation": str(self._state.shards[node.shard].generation),
            "stream": stream_name(self._state.cluster, node.shard),
            "log_servers": [server.url for server in near_first],
            "log_user": self._secrets.log_user,
            "log_password": self._secrets.log_password.get_secret_value(),
            "engine_socket": str(files.engine_socket),
            "api_socket": str(files.agent_socket),
            "follow_port": follow_port(self._state, node.name),
            "user": self._secrets.agent_user,
            "password": self._secrets.agent_password.get_secret_value(),
            "lease": self._manifest.spec.failover.lease,
            "slots": [list(each) for each in shard.slots],
            "snapshots": store_of(self._state, self._layout).as_written(),
            "spool": str(files.directory),
        }
        AgentConfig.model_validate(fields)
        return fields

    # Watching

    async def _keep_at(self, chore: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do ``chore``, which never ends, and should it fail, do it again: the cluster runs without it."""
        while True:
            try:
                await chore()
            except Exception:
                self._reporter.note(traceback.format_exc().rstrip())
            await asyncio.sleep(CHORE_AGAIN)

    async def _observe(self, before: MemoryClusterStatus | None) -> MemoryClusterStatus:
        generation = self._manifest.metadata.generation
        status = await observe(
            self._topology,
            self._layout,
            generation=generation,
            before=before,
            log_trouble=self._healer.message if self._healer else "",
            snapshot_trouble="; ".join(each.trouble for each in self._snapshots if each.trouble),
        )
        if before is None or status.conditions != before.conditions or status.phase != before.phase:
            text = status.model_dump_json(by_alias=True, indent=2) + "\n"
            await asyncio.to_thread(write_durably, self._layout.status, text)
        return status

    async def _serving(self) -> MemoryClusterStatus:
        """Return the status once every shard serves, and every part does or has had its time."""
        self._layout.status.unlink(missing_ok=True)
        status = await self._observe(None)
        patience: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            conditions = {each.type: each for each in status.conditions}
            if conditions["Ready"].status == "True":
                patience = loop.time() + REDUNDANT_WITHIN if patience is None else patience
                if conditions["Redundant"].status == "True" or loop.time() > patience:
                    return status
                self._reporter.progress("waiting for the replicas")
            else:
                waiting = [str(shard.index) for shard in status.shards if shard.primary is None]
                self._reporter.progress(f"waiting for a primary of shard {', '.join(waiting)}")
            await asyncio.sleep(START_WATCH_EVERY)
            status = await self._observe(status)

    async def _watch(self) -> None:
        before = load_status(self._layout)
        while True:
            status = await self._observe(before)
            for line in changes(before, status):
                self._reporter.note(line)
            self._tell_healer(status)
            before = status
            for output in (self._layout.output, *(process.output for process in self._processes())):
                if output:
                    bound_output(output)
            await asyncio.sleep(WATCH_EVERY)

    def _tell_healer(self, status: MemoryClusterStatus) -> None:
        """Have the healer look at what readers found to be rotten."""
        for shard in status.shards:
            for member in shard.log.members if shard.log else ():
                if member.rotten and self._healer:
                    log = stream_name(self._state.cluster, shard.index)
                    self._healer.suspect(member.name, log, member.rotten.record)


class LogServers:
    """The log servers, for the healer."""

    def __init__(self, layout: Layout, processes: Mapping[str, Process]) -> None:
        self._layout = layout
        self._processes = processes

    async def stop(self, member: str) -> None:
        """Stop the server, so that it hands over what it leads."""
        await self._processes[member].stop(LOG_SERVER_PATIENCE)

    async def wipe(self, member: str) -> None:
        """Delete what the stopped server has stored."""
        store = self._layout.log_server(member.removeprefix(LOG_SERVER_PREFIX)).store
        aside = store.with_name("store.wiped")
        await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
        if store.exists():
            store.rename(aside)  # whole or not at all, should this be interrupted
        await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)

    async def start(self, member: str) -> None:
        """Start it again."""
        await self._processes[member].start()


def changes(before: MemoryClusterStatus | None, after: MemoryClusterStatus) -> list[str]:
    """Return what somebody who watches wants to be told."""
    lines = []
    led = {shard.index: shard.primary for shard in before.shards} if before else {}
    for shard in after.shards:
        if shard.index in led and shard.primary != led[shard.index]:
            who = (
                f"{shard.primary} is primary (epoch {shard.epoch})" if shard.primary else "no primary serves"
            )
            lines.append(f"shard {shard.index}: {who}")
    return lines


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work`` until it is done or ``stop`` is set; return whether it is done."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        return False
    working.result()
    return True


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of ``work`` at the same time; the first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
