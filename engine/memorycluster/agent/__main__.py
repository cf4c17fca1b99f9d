"""``python -m memorycluster.agent --config FILE``: run one agent."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import uvloop
from pydantic import ValidationError

from memorycluster.agent.agent import Agent
from memorycluster.agent.config import AgentConfig
from memorycluster.agent.machine import Phase
from memorycluster.exit import exit_with
from memorycluster.log.nats import NatsLog

HASTE = 0.3
"""Seconds in which an agent that may have led has something better to do than to load the HTTP API."""

STOP_PATIENCE = 10.0
"""Seconds that a stopping leader takes at most to give its leadership away."""


async def _run(config: AgentConfig) -> None:
    gc.freeze()  # What has been loaded stays: looking through it for garbage takes longer than a write may.
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log = await NatsLog.connect(
        config.log_servers,
        config.stream,
        user=config.log_user,
        password=config.log_password.get_secret_value(),
    )
    agent = Agent(config, log)
    running = asyncio.create_task(agent.run())
    serving = asyncio.create_task(_serve_api(agent))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, serving):
            if task.done():
                task.result()
        try:
            async with asyncio.timeout(STOP_PATIENCE):
                await agent.give_away("")
        except TimeoutError:
            logging.warning("stopping without having given leadership away: its lease must lapse")
        if agent.machine.phase is Phase.FROZEN:
            # Whoever means it sends SIGKILL, as Kubernetes does at the end of a pod's grace.
            logging.error(
                "ALARM: frozen, so not stopping: its engine may hold the only copy of what was lost"
            )
            thawed = asyncio.create_task(agent.thawed())
            await asyncio.wait([running, serving, thawed], return_when=asyncio.FIRST_COMPLETED)
    finally:
        running.cancel()
        serving.cancel()
        await asyncio.wait([running, serving])
        await log.close()


async def _serve_api(agent: Agent) -> None:
    """Serve the HTTP API until cancelled."""

    def load() -> ModuleType:
        from memorycluster.agent import http

        return http

    # The library takes as long to load as all the rest: no failover is to wait for it.
    if agent.config.promotion.exists():
        await asyncio.sleep(HASTE)
    http = await asyncio.to_thread(load)
    gc.freeze()
    await http.serve(agent)


def main() -> int:
    """Run the agent named by the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="memorycluster.agent", description="The agent of one engine.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file with the agent's configuration")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    os.umask(0o077)  # The API is for our own user.
    try:
        config = AgentConfig.load(arguments.config)
    except (OSError, ValidationError, ValueError) as error:
        print(f"{arguments.config}: {error}", file=sys.stderr)
        return 2
    uvloop.run(_run(config))
    return 0


if __name__ == "__main__":
    exit_with(main)
