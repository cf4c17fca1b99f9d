"""Pods are replaced one at a time, and no primary before it has given leadership away."""

from __future__ import annotations

import asyncio

from tests.operator.conftest import Operator, change, eventually, manifest, pods, ready, status
from tests.operator.kubelet import Kubelet

from memorycluster_operator.kube import Kube


class Watched:
    """What was ever missing at the same time, seen by looking all the time."""

    def __init__(self, kube: Kube, namespace: str, replicas: int) -> None:
        self.kube, self.namespace, self.replicas = kube, namespace, replicas
        self.fewest = {"engine": replicas, "log": 3}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watched:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            for component in self.fewest:
                found = await pods(self.kube, self.namespace, component)
                sound = sum("deletionTimestamp" not in pod["metadata"] for pod in found.values())
                self.fewest[component] = min(self.fewest[component], sound)
            await asyncio.sleep(0.02)


async def test_a_roll_takes_one_at_a_time_and_the_primary_last(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    before = await pods(kube, namespace, "engine")
    primary = (await status(kube, namespace))["shards"][0]["primary"]
    shard = kubelet.shards[f"{namespace}/orders-0"]
    async with Watched(kube, namespace, 3) as watched:
        await change(kube, namespace, {"engine": {"image": "engine:next"}, "log": {"image": "nats:next"}})
        await eventually(lambda: ready(kube, namespace), within=120)
    assert watched.fewest == {"engine": 2, "log": 2}
    after = await pods(kube, namespace, "engine")
    assert not {p["metadata"]["uid"] for p in before.values()} & {
        p["metadata"]["uid"] for p in after.values()
    }
    assert [old for old, _ in shard.failovers][:1] == [primary]
    rolled = sorted(after.values(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    assert rolled[-1]["metadata"]["name"] == primary
    assert shard.epoch == 2, "leadership moved more often than it had to"


async def test_nothing_is_rolled_while_a_replica_is_behind(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    primary = (await status(kube, namespace))["shards"][0]["primary"]
    replicas = sorted({"orders-0-0", "orders-0-1", "orders-0-2"} - {primary})
    shard = kubelet.shards[f"{namespace}/orders-0"]
    shard.behind.add(replicas[0])
    before = await pods(kube, namespace, "engine")

    async def degraded() -> bool:
        return bool((await status(kube, namespace))["phase"] == "Degraded")

    await eventually(degraded)
    await change(kube, namespace, {"engine": {"image": "engine:next"}})

    async def tried() -> bool:
        """It works neither way, so the new template may be tried on it."""
        now = (await pods(kube, namespace, "engine")).get(replicas[0])
        return now is not None and now["metadata"]["uid"] != before[replicas[0]]["metadata"]["uid"]

    await eventually(tried)

    async def waits() -> bool:
        return replicas[0] in (await status(kube, namespace)).get("blocked", {}).get("message", "")

    await eventually(waits)
    await asyncio.sleep(1)
    now = await pods(kube, namespace, "engine")
    sound = {name for name in before if name != replicas[0]}
    assert {n: now[n]["metadata"]["uid"] for n in sound} == {n: before[n]["metadata"]["uid"] for n in sound}
    shard.behind.clear()
    await eventually(lambda: ready(kube, namespace), within=120)
    now = await pods(kube, namespace, "engine")
    assert not {now[n]["metadata"]["uid"] for n in now} & {before[n]["metadata"]["uid"] for n in before}


async def test_scaling_down_moves_the_primary_first(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    shard = kubelet.shards[f"{namespace}/orders-0"]
    shard.elect("orders-0-2")

    async def known() -> bool:
        return bool((await status(kube, namespace))["shards"][0]["primary"] == "orders-0-2")

    await eventually(known)
    await change(kube, namespace, {"replicasPerShard": 1})
    await eventually(lambda: ready(kube, namespace))
    assert [old for old, _ in shard.failovers] == ["orders-0-2"]
    assert set(await pods(kube, namespace, "engine")) == {"orders-0-0", "orders-0-1"}


async def test_a_failover_is_told_at_once(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    """By the agents' long polls: labels and status follow, and so does the event."""
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    shard = kubelet.shards[f"{namespace}/orders-0"]
    successor = next(name for name in shard.agents if name != shard.leader)
    shard.elect(successor)

    async def labelled() -> bool:
        found = await pods(kube, namespace, "engine")
        primaries = [
            name
            for name, pod in found.items()
            if pod["metadata"]["labels"].get("memorycluster.io/role") == "primary"
        ]
        return primaries == [successor]

    await eventually(labelled, within=10)

    async def told() -> bool:
        events, _ = await kube.list("Event", namespace)
        return any(successor in each.get("note", "") for each in events)

    await eventually(told)


async def test_parameters_are_set_live(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    before = await pods(kube, namespace, "engine")
    revisions = {agent.revision for agent in kubelet.shards[f"{namespace}/orders-0"].agents.values()}
    await change(kube, namespace, {"engine": {"parameters": {"maxmemory-policy": "allkeys-lru"}}})
    await eventually(lambda: ready(kube, namespace))
    now = {agent.revision for agent in kubelet.shards[f"{namespace}/orders-0"].agents.values()}
    assert len(now) == 1
    assert now != revisions
    after = await pods(kube, namespace, "engine")
    assert {n: p["metadata"]["uid"] for n, p in after.items()} == {
        n: p["metadata"]["uid"] for n, p in before.items()
    }


async def test_a_killed_pod_and_a_lost_member_come_back(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    primary = (await status(kube, namespace))["shards"][0]["primary"]
    await kubelet.kill(namespace, primary)
    await kubelet.kill(namespace, "orders-log-1")

    async def noticed() -> bool:
        said = await status(kube, namespace)
        return bool(said["phase"] != "Ready" or said["shards"][0]["primary"] not in (None, primary))

    await eventually(noticed)
    await eventually(lambda: ready(kube, namespace))
    assert (await status(kube, namespace))["shards"][0]["primary"] not in (None, primary)
