"""The container ``engine``: keeps valkey-server running, and outlives the agent's giving away of leadership.

An engine ends for good reasons: a demotion is a restart. So it is started again at once, here, where
Kubernetes would wait longer each time. When the pod is stopped, its agent ends the engine, if that leads,
once leadership is given away; before that nothing here ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from memorycluster.agent.freeze import Freeze, note_of
from memorycluster.pod.container import Told, prepare, say, stop_signal
from memorycluster.pod.node import Files, engine_texts
from memorycluster.process import Process

AGENT_DEADLINE = 15.0
"""Seconds for the agent to end the engine after SIGTERM: what an agent takes to give leadership away
(agent.STOP_PATIENCE, 12 s), and some for SIGTERM to reach it."""

AGENT_GONE = 2.0
"""Seconds without an agent after which nobody will end the engine: an agent that died is back sooner."""

ENGINE_PATIENCE = 4.0
"""Seconds for the engine to end by itself: it waits up to 2 s (shutdown-timeout) for its agent."""


async def run(config_dir: Path, run_dir: Path, program: str) -> None:
    """Run the engine until SIGTERM.

    :raises OSError, ValueError: it can't be started as it is.
    """
    stop = stop_signal()
    files = Files(run_dir)
    engine = Process(
        "engine", prepare(Told(config_dir), files, engine_texts, [program, str(files.engine_conf)]), None, say
    )
    await engine.start()
    await stop.wait()
    await engine.retire()
    if engine.pid:
        note = note_of(files.engine_socket)
        await _thawed(engine, note)
        say("stopping: waiting for the agent to end the engine")
        await _ended_by_agent(engine, files.agent_socket)
        await _thawed(engine, note)  # It may have frozen meanwhile.
    await engine.stop(ENGINE_PATIENCE)


async def _thawed(engine: Process, note: Path) -> None:
    """Wait while the engine's memory may be the only copy: a human may still save it."""
    while engine.pid and Freeze.load(note):
        await asyncio.sleep(0.2)


async def _ended_by_agent(engine: Process, agent_socket: Path) -> None:
    """Wait for as long as an agent may end the engine."""
    ended = asyncio.create_task(engine.ended())
    left = asyncio.create_task(_agent_gone(agent_socket))
    try:
        await asyncio.wait([ended, left], timeout=AGENT_DEADLINE, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        left.cancel()


async def _agent_gone(agent_socket: Path) -> None:
    """Return once no agent has been there for a while."""
    loop = asyncio.get_running_loop()
    seen = loop.time()
    while loop.time() - seen < AGENT_GONE:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(agent_socket)
            writer.close()
            seen = loop.time()
        await asyncio.sleep(0.05)
