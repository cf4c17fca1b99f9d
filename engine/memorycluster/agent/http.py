"""The agent's HTTP API: what it knows, planned failover, the engine's parameters.

On a unix socket for whoever may open that, and, where the configuration says so, on TCP: there ``/livez`` and
``/readyz`` are for everybody, all else for those who send the token (``Authorization: Bearer``).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, ValidationError

from memorycluster.agent import clock
from memorycluster.agent.agent import Agent
from memorycluster.agent.machine import Phase
from memorycluster.agent.recovery import Refused
from memorycluster.log.interface import LogError, LogHealth
from memorycluster.log.record import Record

logger = logging.getLogger(__name__)

FAILOVER_PATIENCE = 15.0
"""Seconds that a planned failover may take before its caller is told that it is still under way."""

LONGEST_WAIT = 300.0
"""Seconds for which a status is held back at most while nothing that matters changes."""

LOOK_AGAIN = 0.05
"""Seconds between two looks at whether it has."""

MATTERS = (
    "role",
    "phase",
    "epoch",
    "leader",
    "serving",
    "ready",
    "frozen",
    "message",
    "rotten",
    "zone",
    "engineVersion",
    "parameters",
)
"""What of a status its reader is woken for; offsets, leases and sizes change all the time."""

OPEN = ("/livez", "/readyz")
"""What needs no token: Kubernetes' probes have none."""

AGENT = web.AppKey("agent", Agent)


class FailoverBody(BaseModel):
    """The body of ``POST /v1/failover``; it may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    successor: str | None = None
    """Name of the node that is to lead; none: whoever is first."""


class ParametersBody(BaseModel):
    """The body of ``PUT /v1/parameters``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    revision: str
    """Names this set of parameters."""
    parameters: dict[str, str]
    """All that are not left at the engine's own."""


def application(agent: Agent, token: str = "") -> web.Application:
    """Return the API of ``agent``, for those who know ``token``; empty: for everybody."""
    app = web.Application(middlewares=[_guard(token)] if token else [])
    app[AGENT] = agent
    app.add_routes(
        [
            web.get("/v1/status", _status),
            web.post("/v1/failover", _failover),
            web.get("/v1/recovery", _recovery),
            web.post("/v1/recovery", _recovery),
            web.put("/v1/parameters", _parameters),
            web.get("/livez", _livez),
            web.get("/readyz", _readyz),
        ]
    )
    return app


def _guard(token: str) -> Any:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if request.path not in OPEN and not hmac.compare_digest(given, expected):
            return web.json_response(
                {"error": "send the token of this cluster: Authorization: Bearer ..."}, status=401
            )
        return await handler(request)

    return guard


async def serve(agent: Agent) -> None:
    """Serve the API of ``agent`` where its configuration says, until cancelled."""
    config = agent.config
    runners = [_runner(application(agent))]
    if config.api_address:
        runners.append(_runner(application(agent, config.api_token.get_secret_value())))
    try:
        for runner in runners:
            await runner.setup()
        await web.UnixSite(runners[0], str(config.api_socket)).start()
        if config.api_address:
            await _listen(runners[1], config.api_address, config.api_port)
        await asyncio.Event().wait()
    finally:
        for runner in runners:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, address: str, port: int) -> None:
    """Listen there as soon as that can be: no agent is to end for want of a port."""
    while True:
        try:
            return await web.TCPSite(runner, address, port).start()
        except OSError as error:
            logger.error("the API can't be served at %s port %d: %s", address, port, error)
            await asyncio.sleep(1)


def _runner(app: web.Application) -> web.AppRunner:
    # Who waits for news does not keep an agent from ending.
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)


def status(agent: Agent) -> dict[str, Any]:
    """Return what the agent knows, as plain JSON data."""
    said = _said(agent)
    return said | {"etag": _etag(said)}


def _etag(said: dict[str, Any]) -> str:
    """Return what differs when something that matters does."""
    text = json.dumps([said[name] for name in MATTERS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _said(agent: Agent) -> dict[str, Any]:
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
        "frozen": machine.phase is Phase.FROZEN,
        "engineVersion": _version(engine.version) if engine else None,
        "parameters": agent.parameters.status() if agent.parameters else None,
        "reading": agent.follower.reading,
        "message": machine.reason or machine.space_refused or agent.trouble,
        "rotten": [
            {"log": agent.config.stream, "member": at.member, "record": at.sequence, "reason": at.reason}
            for at in agent.log.findings.recent()
        ],
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


def _version(number: int) -> str:
    """Return the engine's version as people write it."""
    return ".".join(str(number >> shift & 0xFF) for shift in (16, 8, 0))


async def _status(request: web.Request) -> web.Response:
    """Answer with the status: at once, or once its etag is not ``after``, or after ``wait`` seconds."""
    agent = request.app[AGENT]
    try:
        wait = min(float(request.query.get("wait", "0")), LONGEST_WAIT)
    except ValueError:
        return web.json_response({"error": "wait: expected seconds"}, status=400)
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    while (said := status(agent))["etag"] == request.query.get("after") and loop.time() < until:
        await asyncio.sleep(LOOK_AGAIN)
    return web.json_response(said)


async def _parameters(request: web.Request) -> web.Response:
    """Set the engine's parameters; answer with what has become of them, as in the status."""
    agent = request.app[AGENT]
    if agent.parameters is None:
        return web.json_response(
            {"error": "the parameters are in the engine's own configuration"}, status=409
        )
    try:
        body = ParametersBody.model_validate_json(await request.read())
    except ValidationError as error:
        return _invalid(error)
    await agent.set_parameters(body.revision, body.parameters)
    return web.json_response(agent.parameters.status())


def _invalid(error: ValidationError) -> web.Response:
    wrong = error.errors()[0]
    where = ".".join(map(str, wrong["loc"])) or "body"
    return web.json_response({"error": f"{where}: {wrong['msg']}"}, status=400)


async def _livez(_: web.Request) -> web.Response:
    """Answer. A frozen engine holds the only copy of what was acknowledged: no probe may end it."""
    return web.Response(text="ok\n")


async def _readyz(request: web.Request) -> web.Response:
    is_ready = ready(request.app[AGENT])
    return web.Response(status=200 if is_ready else 503, text="ready\n" if is_ready else "not ready\n")


async def _failover(request: web.Request) -> web.Response:
    agent = request.app[AGENT]
    try:
        body = FailoverBody.model_validate_json(await request.read() or b"{}")
    except ValidationError as error:
        return _invalid(error)
    successor = body.successor or ""
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


async def _recovery(request: web.Request) -> web.Response:
    """Say what can be done about a frozen node; POST: do it."""
    agent = request.app[AGENT]
    try:
        plan = await (agent.recover() if request.method == "POST" else agent.examine())
    except (LogError, Refused) as error:
        return web.json_response({"error": str(error)}, status=409)
    return web.json_response(
        {
            "node": agent.config.node,
            "verdict": plan.verdict.value,
            "reason": plan.reason,
            "epoch": max(plan.known.epoch, agent.machine.position.epoch),
            "holds": plan.known.offset,
            "logEnd": plan.log_end.unit_end,
            "logEpoch": plan.log_end.epoch,
        }
    )


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
