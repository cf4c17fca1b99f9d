"""Which file is where in a data directory. Pure.

::

    cluster.json  secrets.json  lock     what must survive (state.py)
    status.json                          conditions, as last seen
    supervisor.log
    log/<zone>/{server.conf,store/,output.log}
    nodes/<node>/{valkey.conf,nodes.conf,engine.log,agent.yaml,agent.log}
    run/<shard>-<index>.{engine,agent}   unix sockets: their paths must be short
    snapshots/                           the store of snapshots, unless the manifest names another
    work/<shard>/                        of the snapshot that is being made
    holds/<shard>.<pid>                  locked by who reads a log from outside
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memorycluster.api.topology import Node

MAX_SOCKET_PATH = 107
"""Bytes, by Linux."""

LONGEST_SOCKET = "/run/499-5.engine"


@dataclass(frozen=True, slots=True)
class LogServerFiles:
    """Files of the log server in one zone."""

    directory: Path

    @property
    def conf(self) -> Path:
        """Its configuration, rewritten before each start."""
        return self.directory / "server.conf"

    @property
    def store(self) -> Path:
        """The data: its copy of every shard's log."""
        return self.directory / "store"

    @property
    def output(self) -> Path:
        """What it prints."""
        return self.directory / "output.log"


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Files of one node: its engine and its agent. None of them is needed to start again."""

    directory: Path
    engine_socket: Path
    agent_socket: Path

    @property
    def engine_conf(self) -> Path:
        """valkey.conf, rewritten before each start."""
        return self.directory / "valkey.conf"

    @property
    def nodes_conf(self) -> Path:
        """nodes.conf, rewritten before each start."""
        return self.directory / "nodes.conf"

    @property
    def engine_output(self) -> Path:
        """What the engine prints."""
        return self.directory / "engine.log"

    @property
    def agent_conf(self) -> Path:
        """The agent's configuration, rewritten before each start."""
        return self.directory / "agent.yaml"

    @property
    def agent_output(self) -> Path:
        """What the agent prints."""
        return self.directory / "agent.log"


@dataclass(frozen=True, slots=True)
class Layout:
    """A data directory."""

    root: Path

    @property
    def state(self) -> Path:
        """What must survive: see state.State."""
        return self.root / "cluster.json"

    @property
    def secrets(self) -> Path:
        """Passwords between the parts; readable by the owner only."""
        return self.root / "secrets.json"

    @property
    def lock(self) -> Path:
        """Locked by the supervisor for as long as it runs; holds its pid."""
        return self.root / "lock"

    @property
    def status(self) -> Path:
        """The status as last seen by the supervisor."""
        return self.root / "status.json"

    @property
    def output(self) -> Path:
        """What the supervisor prints when it runs in the background."""
        return self.root / "supervisor.log"

    @property
    def sockets(self) -> Path:
        """The directory of the unix sockets."""
        return self.root / "run"

    @property
    def snapshots(self) -> Path:
        """The store of snapshots, unless the manifest names another."""
        return self.root / "snapshots"

    @property
    def work(self) -> Path:
        """Where snapshots are made; nothing in it is needed afterwards."""
        return self.root / "work"

    @property
    def holds(self) -> Path:
        """Locked files of those who read a log from outside: see holds.py."""
        return self.root / "holds"

    @property
    def socket_paths_fit(self) -> bool:
        """Every socket's path is short enough."""
        return len(str(self.root).encode()) + len(LONGEST_SOCKET) <= MAX_SOCKET_PATH

    def log_server(self, zone: str) -> LogServerFiles:
        """Return the files of the log server in ``zone``."""
        return LogServerFiles(self.root / "log" / zone)

    def node(self, node: Node) -> NodeFiles:
        """Return the files of ``node``."""
        place = f"{node.shard}-{node.name.rpartition('-')[2]}"
        return NodeFiles(
            directory=self.root / "nodes" / node.name,
            engine_socket=self.sockets / f"{place}.engine",
            agent_socket=self.sockets / f"{place}.agent",
        )
