"""How far a making is, told over HTTP to who knows its cluster's token: ``GET /v1/progress``.

On Kubernetes it needs no rights for that, and who asks none but to reach its pod.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from aiohttp import web
from pydantic import Field

from memorycluster.snapshot.maker import Progress
from memorycluster.snapshot.told import Told


class TellConfig(Told):
    """Where it is told, and to whom."""

    port: int = Field(ge=0, lt=65536)
    """On all addresses."""
    token_file: Path


@asynccontextmanager
async def telling(config: TellConfig | None, now: Callable[[], Progress | None]) -> AsyncIterator[None]:
    """Tell what ``now`` returns, if that is wanted. Raises OSError: the port is in use."""
    if config is None:
        yield
        return

    async def progress(request: web.Request) -> web.Response:
        token = (await asyncio.to_thread(config.token_file.read_text)).strip()
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not token or not hmac.compare_digest(given, f"Bearer {token}".encode()):
            return web.json_response(
                {"error": "send the token of this cluster: Authorization: Bearer ..."}, status=401
            )
        said = now()
        return web.json_response(asdict(said) if said else {})

    app = web.Application()
    app.router.add_get("/v1/progress", progress)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, None, config.port).start()
        yield
    finally:
        await runner.cleanup()
