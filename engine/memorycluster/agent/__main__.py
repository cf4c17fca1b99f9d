"""``python -m memorycluster.agent --config FILE``: run one agent."""

from __future__ import annotations

import argparse
import asyncio
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
from memorycluster.log.nats import NatsLog

STOP_PATIENCE = 10.0
"""Seconds that a stopping leader takes at most to give its leadership away."""


async def _run(config: AgentConfig) -> None:
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
    serving = asyncio.create_task(_serve_api(agent, config.api_socket))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, serving):
            if task.done():
                task.result()
        async with asyncio.timeout(STOP_PATIENCE):
            await agent.give_away("")
    except TimeoutError:
        logging.warning("stopping without having given leadership away: its lease must lapse")
    finally:
        running.cancel()
        serving.cancel()
        await asyncio.wait([running, serving])
        await log.close()


async def _serve_api(agent: Agent, socket: Path) -> None:
    """Serve the HTTP API until cancelled."""

    def load() -> ModuleType:
        from memorycluster.agent import http

        return http

    # The library takes as long to load as all the rest: no failover is to wait for it.
    http = await asyncio.to_thread(load)
    await http.serve(agent, socket)


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
    sys.exit(main())
