"""``python -m memorycluster.agent.ask SOCKET [--act]``: asking an agent what it holds that the log has lost.

Whoever may run something beside the agent may ask, as its socket is there. Printed is the word ``recovery``,
and one JSON object: its ``answer`` (null: it doesn't answer), or the ``error`` for which it could not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

CONNECT_WITHIN = 2.0
"""Seconds."""


class Unable(Exception):
    """The agent can't read its log, or could not do what it was asked for. Says why."""


async def recovery(socket: Path, *, act: bool) -> dict[str, Any] | None:
    """Return what can be done about the node of the agent behind ``socket``; ``act``: have it done.

    None: the agent doesn't answer. It reads its log first, which takes as long as it takes.

    :raises Unable:
    """
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_WITHIN)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.request("POST" if act else "GET", "http://agent/v1/recovery") as response,
        ):
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    if not isinstance(answer, dict) or response.status != 200:
        raise Unable(str(answer.get("error") if isinstance(answer, dict) else answer))
    return answer


def main() -> int:
    """Ask, print what is answered, and return the exit status."""
    parser = argparse.ArgumentParser(prog="memorycluster.agent.ask", description=__doc__)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--act", action="store_true", help="have it put back what the log has lost")
    arguments = parser.parse_args()
    said: dict[str, Any]
    try:
        said = {"answer": asyncio.run(recovery(arguments.socket, act=arguments.act))}
    except Unable as error:
        said = {"error": str(error)}
    print("recovery", json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
