"""The faults. Each hits a running cluster, lasts, and is healed; what then must hold is the same for all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from tests.faults.cluster import Cluster, Member
from tests.faults.history import now

ELECTION = 10.0
"""Seconds that the log takes, at most but for rare cases, to elect a leader after its own was lost."""


@dataclass(slots=True)
class Strike:
    """A fault that has been done: to whom and when, and whether writes can be acknowledged while it lasts."""

    members: list[Member]
    at: int
    blocks: bool = False
    """No write may be acknowledged that is sent between `at` and the healing."""


Blow = Callable[[Cluster, random.Random, float], AbstractAsyncContextManager[Strike]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: entered it strikes, left it is healed."""

    name: str
    strike: Blow
    hold: float = 1.0
    """Seconds to go on before it is healed, beside what `leases` says."""
    leases: float = 0.0
    """Leases to go on before it is healed."""

    def lasts(self, cluster: Cluster) -> float:
        return self.hold + self.leases * cluster.lease


FAULTS: dict[str, Fault] = {}


def fault(name: str, *, hold: float = 1.0, leases: float = 0.0) -> Callable[[_Body], _Body]:
    def add(body: _Body) -> _Body:
        FAULTS[name] = Fault(name, asynccontextmanager(body), hold, leases)
        return body

    return add


_Body = Callable[[Cluster, random.Random, float], AsyncIterator[Strike]]


def killed(cluster: Cluster, *members: Member) -> Strike:
    at = now()
    cluster.kill(*members)
    return Strike(list(members), at)


@asynccontextmanager
async def paused(cluster: Cluster, *members: Member, blocks: bool = False) -> AsyncIterator[Strike]:
    cluster.pause(*members)
    try:
        await asyncio.sleep(0.05)  # all threads have stopped
        yield Strike(list(members), now(), blocks)
    finally:
        cluster.resume(members)


def some_shard(cluster: Cluster, chance: random.Random) -> int:
    return chance.choice([node.shard for node in cluster.nodes])


@fault("primary engine killed")
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    yield killed(cluster, (await cluster.leader(some_shard(cluster, chance))).engine)


@fault("primary engine paused", leases=1.5)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    async with paused(cluster, (await cluster.leader(some_shard(cluster, chance))).engine) as strike:
        yield strike


@fault("primary's agent killed")
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    yield killed(cluster, (await cluster.leader(some_shard(cluster, chance))).agent)


@fault("primary's agent paused", leases=1.5)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    async with paused(cluster, (await cluster.leader(some_shard(cluster, chance))).agent) as strike:
        yield strike


@fault("primary engine and agent killed", leases=1.2)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    leader = await cluster.leader(some_shard(cluster, chance))
    yield killed(cluster, leader.engine, leader.agent)


@fault("primary engine and agent paused beyond the lease", leases=2)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    leader = await cluster.leader(some_shard(cluster, chance))
    async with paused(cluster, leader.engine, leader.agent) as strike:
        yield strike


@fault("primary engine and agent paused for less than the lease", hold=0, leases=0.5)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    leader = await cluster.leader(some_shard(cluster, chance))
    async with paused(cluster, leader.engine, leader.agent) as strike:
        yield strike


@fault("replica killed")
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    replica = chance.choice(await cluster.followers(some_shard(cluster, chance)))
    yield killed(
        cluster, *chance.choice([[replica.engine], [replica.agent], [replica.engine, replica.agent]])
    )


@fault("replica paused", leases=1)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    replica = chance.choice(await cluster.followers(some_shard(cluster, chance)))
    members = chance.choice([[replica.engine], [replica.agent], [replica.engine, replica.agent]])
    async with paused(cluster, *members) as strike:
        yield strike


@fault("log server killed")
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    leader = await cluster.log_leader(some_shard(cluster, chance))
    yield killed(cluster, chance.choice([member for member in cluster.log_servers if member != leader]))


@fault("log server paused", hold=3)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    leader = await cluster.log_leader(some_shard(cluster, chance))
    others = [member for member in cluster.log_servers if member != leader]
    async with paused(cluster, chance.choice(others)) as strike:
        yield strike


@fault("log's leader killed", hold=ELECTION)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    yield killed(cluster, await cluster.log_leader(some_shard(cluster, chance)))


@fault("log's leader paused", hold=ELECTION)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    async with paused(cluster, await cluster.log_leader(some_shard(cluster, chance))) as strike:
        yield strike


@fault("log's leader and primary killed", hold=ELECTION)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    shard = some_shard(cluster, chance)
    leader = await cluster.leader(shard)
    yield killed(cluster, await cluster.log_leader(shard), leader.engine, leader.agent)


@fault("all engines killed", hold=2)
async def _(cluster: Cluster, _: random.Random, __: float) -> AsyncIterator[Strike]:
    yield killed(cluster, *(node.engine for node in cluster.nodes))


@fault("all agents killed", hold=2)
async def _(cluster: Cluster, _: random.Random, __: float) -> AsyncIterator[Strike]:
    yield killed(cluster, *(node.agent for node in cluster.nodes))


@fault("everything killed", hold=ELECTION)
async def _(cluster: Cluster, _: random.Random, __: float) -> AsyncIterator[Strike]:
    yield killed(cluster, *cluster.members())


@fault("supervisor killed, and with it everything; then run again", hold=2)
async def _(cluster: Cluster, _: random.Random, __: float) -> AsyncIterator[Strike]:
    at = now()
    await cluster.end()
    await cluster.start()
    yield Strike(cluster.members(), at)


@fault("log without quorum", hold=0)
async def _(cluster: Cluster, chance: random.Random, outage: float) -> AsyncIterator[Strike]:
    async with paused(cluster, *chance.sample(cluster.log_servers, 2), blocks=True) as strike:
        await asyncio.sleep(outage)
        yield strike


@fault("primary killed while the log stands still", hold=0.3)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    """What the engine did and the log lacks is lost, and nobody may have been told of it."""
    leader = await cluster.leader(some_shard(cluster, chance))
    async with paused(cluster, *chance.sample(cluster.log_servers, 2), blocks=True) as strike:
        await asyncio.sleep(min(1.0, cluster.lease * chance.uniform(0.3, 0.7)))
        cluster.kill(leader.engine, leader.agent)
        yield strike


@fault("all engines and agents killed while the log stands still", hold=0.3)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    async with paused(cluster, *chance.sample(cluster.log_servers, 2), blocks=True) as strike:
        await asyncio.sleep(min(1.0, cluster.lease * chance.uniform(0.3, 0.7)))
        cluster.kill(*(member for node in cluster.nodes for member in (node.engine, node.agent)))
        yield strike


@fault("primary's agent killed while the log stands still", hold=0.3)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    """Its successor finds an engine that holds what nobody may learn of any more."""
    leader = await cluster.leader(some_shard(cluster, chance))
    async with paused(cluster, *chance.sample(cluster.log_servers, 2), blocks=True) as strike:
        await asyncio.sleep(min(1.0, cluster.lease * chance.uniform(0.3, 0.7)))
        cluster.kill(leader.agent)
        yield strike


@fault("planned failover", hold=1)
async def _(cluster: Cluster, chance: random.Random, _: float) -> AsyncIterator[Strike]:
    at = now()
    await cluster.fail_over(some_shard(cluster, chance))
    yield Strike([], at)
