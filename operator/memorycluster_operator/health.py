"""Probes and metrics, over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


async def serve(
    host: str | None, port: int, *, dead: Callable[[], str], ready: Callable[[], str]
) -> web.AppRunner:
    """Serve ``/livez``, ``/readyz`` and ``/metrics``; end it with the runner's ``cleanup``.

    :param dead: why this process had better be started again; empty: it makes progress, or stands by.
    :param ready: why it does not work; empty: it does, or stands by.
    """

    def probe(problem: Callable[[], str]) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            why = problem()
            return web.Response(status=503 if why else 200, text=f"{why or 'ok'}\n")

        return answer

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/livez", probe(dead))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
