"""``python -m memorycluster.agent --config FILE``: run one agent."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

import uvloop
from aiohttp import web
from pydantic import ValidationError

from memorycluster.agent.agent import Agent
from memorycluster.agent.config import AgentConfig
from memorycluster.agent.http import application
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
    runner = web.AppRunner(application(agent), access_log=None)
    await runner.setup()
    config.api_socket.unlink(missing_ok=True)
    await web.UnixSite(runner, str(config.api_socket)).start()
    config.api_socket.chmod(0o600)
    running = asyncio.create_task(agent.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        async with asyncio.timeout(STOP_PATIENCE):
            await agent.give_away("")
    except TimeoutError:
        logging.warning("stopping without having given leadership away: its lease must lapse")
    finally:
        running.cancel()
        await asyncio.wait([running])
        await runner.cleanup()
        await log.close()


def main() -> int:
    """Run the agent named by the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="memorycluster.agent", description="The agent of one engine.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file with the agent's configuration")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    try:
        config = AgentConfig.load(arguments.config)
    except (OSError, ValidationError, ValueError) as error:
        print(f"{arguments.config}: {error}", file=sys.stderr)
        return 2
    uvloop.run(_run(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
