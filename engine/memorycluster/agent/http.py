"""The agent's HTTP API, on a unix socket: what it knows, and planned failover."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from memorycluster.agent import clock
from memorycluster.agent.agent import Agent
from memorycluster.agent.machine import Phase
from memorycluster.log.interface import LogError, LogHealth
from memorycluster.log.record import Record

FAILOVER_PATIENCE = 15.0
"""Seconds that a planned failover may take before its caller is told that it is still under way."""

AGENT = web.AppKey("agent", Agent)


def application(agent: Agent) -> web.Application:
    """Return the API of ``agent``."""
    app = web.Application()
    app[AGENT] = agent
    app.add_routes(
        [
            web.get("/v1/status", _status),
            web.post("/v1/failover", _failover),
            web.get("/healthz", _healthz),
            web.get("/readyz", _readyz),
        ]
    )
    return app


async def serve(agent: Agent, socket: Path) -> None:
    """Serve the API of ``agent`` at the unix socket ``socket`` until cancelled."""
    runner = web.AppRunner(application(agent), access_log=None)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(socket)).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def status(agent: Agent) -> dict[str, Any]:
    """Return what the agent knows, as plain JSON data."""
    machine, now = agent.machine, clock.now()
    engine = machine.engine
    serving = machine.serving(now)
    return {
        "node": agent.config.node,
        "zone": agent.config.zone,
        "shard": agent.config.shard,
        "role": _role(agent),
        "phase": machine.phase.value,
        "epoch": machine.position.epoch,
        "leader": machine.position.leader,
        "committed": machine.position.unit_end,
        "applied": engine.offset if engine else None,
        "end": machine.position.open_end,
        "lag": max(machine.position.unit_end - engine.offset, 0) if engine else None,
        "lease": round(clock.seconds(machine.deadline - now.boot), 3) if serving else None,
        "serving": serving,
        "ready": ready(agent),
        "message": machine.reason or machine.space_refused or agent.log.trouble,
        "log": log_status(agent.health) if agent.health else None,
    }


def ready(agent: Agent) -> bool:
    """Whether the engine serves as leader, or has caught up as a follower."""
    machine = agent.machine
    return machine.serving(clock.now()) or (
        machine.phase in (Phase.FOLLOWING, Phase.CLAIMING)
        and machine.engine is not None
        and machine.engine.linked
        and machine.caught_up
    )


def log_status(health: LogHealth) -> dict[str, Any]:
    """Return the log's health as plain JSON data."""
    return {
        "firstSequence": health.first_sequence,
        "lastSequence": health.last_sequence,
        "bytes": health.bytes,
        "maxBytes": health.max_bytes,
        "members": [
            {"name": m.name, "zone": m.zone, "leader": m.leader, "current": m.current, "lag": m.lag}
            for m in health.members
        ],
    }


def _role(agent: Agent) -> str:
    match agent.machine.phase:
        case Phase.FROZEN:
            return "frozen"
        case Phase.LEADING | Phase.DRAINING:
            return "leader"
        case _ if agent.machine.engine is None:
            return "starting"
        case _:
            return "follower"


async def _status(request: web.Request) -> web.Response:
    return web.json_response(status(request.app[AGENT]))


async def _healthz(request: web.Request) -> web.Response:
    frozen = request.app[AGENT].machine.phase is Phase.FROZEN
    return web.Response(status=503 if frozen else 200, text="frozen\n" if frozen else "ok\n")


async def _readyz(request: web.Request) -> web.Response:
    is_ready = ready(request.app[AGENT])
    return web.Response(status=200 if is_ready else 503, text="ready\n" if is_ready else "not ready\n")


async def _failover(request: web.Request) -> web.Response:
    agent = request.app[AGENT]
    body = await request.json() if request.can_read_body else {}
    successor = body.get("successor") or ""
    if successor == agent.config.node:
        return web.json_response({"error": f"{successor} leads already"}, status=409)
    epoch = agent.machine.epoch
    try:
        async with asyncio.timeout(FAILOVER_PATIENCE):
            if not await agent.give_away(successor):
                return web.json_response(
                    {"error": f"{agent.config.node} does not lead ({agent.machine.phase.value})"}, status=409
                )
            leader, epoch = await _next_leader(agent, epoch)
    except TimeoutError:
        return web.json_response(
            {"error": f"nobody leads yet, {FAILOVER_PATIENCE:.0f} s after the request; see the status"},
            status=504,
        )
    return web.json_response({"leader": leader, "epoch": epoch})


async def _next_leader(agent: Agent, epoch: int) -> tuple[str, int]:
    """Return who has claimed an epoch beyond ``epoch``, and which, once somebody has."""
    while True:
        try:
            end = await agent.log.end()
            data = await agent.log.get(end)
            newest = Record.decode(data) if data else None
            while newest is not None and newest.epoch > epoch and newest.kind.name != "CLAIM":
                data = await agent.log.get(newest.sequence - 1)
                newest = Record.decode(data) if data else None
            if newest is not None and newest.epoch > epoch:
                return newest.payload.decode(), newest.epoch
        except LogError:
            pass
        await asyncio.sleep(0.01)
