"""The container ``agent``: keeps the agent running, and the cluster bus's addresses right."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from memorycluster.agent.freeze import Freeze, note_of
from memorycluster.pod.container import Told, prepare, say, stop_signal
from memorycluster.pod.node import Files, agent_texts
from memorycluster.pod.peers import Peers, Resolve
from memorycluster.process import Process

STOP_PATIENCE = 12.0
"""Seconds for the agent to give leadership away and end: it takes 10 s at most (agent.__main__), and some."""

FROZEN_PATIENCE = 86400.0
"""Seconds for a frozen agent: it ends once it is not frozen. Kubernetes ends it with the pod's grace."""


async def run(config_dir: Path, run_dir: Path, resolve: Resolve) -> None:
    """Run the agent until SIGTERM.

    :raises OSError, ValueError: it can't be started as it is.
    """
    stop = stop_signal()
    files = Files(run_dir)
    told = Told(config_dir)
    command = [sys.executable, "-P", "-m", "memorycluster.agent", "--config", str(files.agent_conf)]
    agent = Process("agent", prepare(told, files, agent_texts, command), None, say)
    await agent.start()
    peers = asyncio.create_task(Peers(told, files.engine_socket, resolve).run())
    await stop.wait()
    if Freeze.load(note_of(files.engine_socket)):
        say("stopping: NOT YET: the node is frozen; `memorycluster recover` while there is time")
        await agent.stop(FROZEN_PATIENCE)
    else:
        say("stopping: the agent gives leadership away, if it has it")
        await agent.stop(STOP_PATIENCE)
    peers.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await peers
