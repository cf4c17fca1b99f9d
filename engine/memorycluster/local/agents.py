"""Talking to the agents of this machine, over their unix sockets. (See also ``agent.ask``.)"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from memorycluster.local.errors import UserError

STATUS_TIMEOUT = 2.0
"""Seconds. An agent that takes longer counts as one that doesn't answer."""
FAILOVER_TIMEOUT = 60.0
BASE = "http://agent"


async def agent_status(socket: Path) -> dict[str, Any] | None:
    """Return what the agent behind ``socket`` says of itself, or None if it doesn't answer."""
    timeout = aiohttp.ClientTimeout(total=STATUS_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.get(f"{BASE}/v1/status") as response,
        ):
            answer = await response.json()
            return answer if isinstance(answer, dict) else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


async def fail_over(socket: Path, successor: str | None) -> dict[str, Any]:
    """Have the leader behind ``socket`` give leadership to ``successor`` (None: any); return who leads now.

    :raises UserError: it refuses, or doesn't answer.
    """
    timeout = aiohttp.ClientTimeout(total=FAILOVER_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.post(f"{BASE}/v1/failover", json={"successor": successor}) as response,
        ):
            answer = await response.json()
            if response.status == 200 and isinstance(answer, dict):
                return answer
            reason = answer.get("error") if isinstance(answer, dict) else None
            raise UserError(f"the failover was refused: {reason or response.reason}")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise UserError(f"the leader's agent does not answer ({error or type(error).__name__})") from error


async def agent_statuses(sockets: list[Path]) -> list[dict[str, Any] | None]:
    """Return what each of the agents says, asked at the same time."""
    return list(await asyncio.gather(*map(agent_status, sockets)))
