"""Stand-ins for what these tests do not run: agents. They speak the agents' HTTP API, without an engine.

Who leads a shard is decided in one place, as the log decides it for real agents.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

API_PORT = 8080


@dataclass
class FakeShard:
    """Who leads: what the log decides."""

    agents: dict[str, FakeAgent] = field(default_factory=dict)
    leader: str = ""
    epoch: int = 0
    behind: set[str] = field(default_factory=set)
    """Nodes that do not catch up, also after their pods were replaced."""
    failovers: list[tuple[str, str]] = field(default_factory=list)
    """From whom to whom leadership was given on request."""

    def elect(self, successor: str = "") -> None:
        candidates = [name for name, agent in self.agents.items() if not agent.frozen and agent.caught_up]
        if successor not in candidates:
            successor = candidates[0] if candidates else ""
        self.leader, self.epoch = successor, self.epoch + 1


class FakeAgent:
    """One node's agent, which finds its engine in order unless it is told otherwise."""

    def __init__(self, shard: FakeShard, node: str, zone: str, token: str, revision: str) -> None:
        self.shard, self.node, self.zone, self.token = shard, node, zone, token
        self.revision = revision
        self.frozen = False
        self.message = ""
        self._runner: web.AppRunner | None = None

    @property
    def caught_up(self) -> bool:
        return self.node not in self.shard.behind

    async def start(self, address: str) -> None:
        app = web.Application()
        app.router.add_get("/v1/status", self._status)
        app.router.add_post("/v1/failover", self._failover)
        app.router.add_put("/v1/parameters", self._parameters)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, API_PORT, reuse_address=True).start()
        self.shard.agents[self.node] = self
        if not self.shard.leader:
            self.shard.elect()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self.shard.agents.pop(self.node, None)
        if self.shard.leader == self.node:
            self.shard.elect()

    def status(self) -> dict[str, Any]:
        leads = self.shard.leader == self.node
        role = "frozen" if self.frozen else "leader" if leads else "follower"
        said: dict[str, Any] = {
            "node": self.node,
            "zone": self.zone,
            "role": role,
            "phase": "leading" if leads else "following",
            "epoch": self.shard.epoch,
            "leader": self.shard.leader,
            "committed": 1000,
            "applied": 1000 if self.caught_up else 0,
            "lag": 0 if self.caught_up else 1000,
            "serving": leads and not self.frozen,
            "ready": not self.frozen and (leads or self.caught_up),
            "frozen": self.frozen,
            "message": self.message,
            "engineVersion": "9.1.2",
            "parameters": {"revision": self.revision, "applied": True, "restart": [], "errors": {}},
        }
        said["etag"] = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
        return {**said, "lease": 4.2 if leads else None}

    async def _status(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        until = asyncio.get_running_loop().time() + float(request.query.get("wait", "0"))
        while (
            self.status()["etag"] == request.query.get("after") and asyncio.get_running_loop().time() < until
        ):
            await asyncio.sleep(0.02)
        return web.json_response(self.status())

    async def _failover(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        successor = (await request.json())["successor"]
        if self.shard.leader != self.node:
            return web.json_response({"error": f"{self.node} does not lead"}, status=409)
        self.shard.failovers.append((self.node, successor))
        self.shard.elect(successor)
        return web.json_response({"leader": self.shard.leader, "epoch": self.shard.epoch})

    async def _parameters(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        self.revision = (await request.json())["revision"]
        return web.json_response(self.status()["parameters"])

    def _refused(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "send the token of this cluster"}, status=401)
        return None
