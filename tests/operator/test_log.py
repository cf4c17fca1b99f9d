"""The log of a cluster, with real servers: what happens to its copies is noticed, nothing is made twice."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any
from uuid import UUID

from tests.log.records import Writer
from tests.log.test_nats_rot import truncate
from tests.operator.conftest import Operator, Operators, change, eventually, manifest, pods, ready, status
from tests.operator.kubelet import Kubelet

from memorycluster.log.nats import NatsLog
from memorycluster.log.server import Server
from memorycluster.log.service import LogService, stream_config
from memorycluster_operator.kube import Kube

RECORDS, SIZE = 700, 16_000
"""Two blocks of 8 MiB on each member."""


async def servers(kube: Kube, namespace: str) -> tuple[list[Server], str]:
    """Return the members of the log, and their password."""
    found = await pods(kube, namespace, "log")
    secret = await kube.get("Secret", namespace, "orders-log")
    assert secret is not None
    members = [
        Server(name, "", pod["status"]["podIP"], 4222, 6222, 8222) for name, pod in sorted(found.items())
    ]
    return members, base64.b64decode(secret["data"]["log-password"]).decode()


async def condition(kube: Kube, namespace: str, type_: str) -> dict[str, Any]:
    """Return a condition of the MemoryCluster."""
    conditions = (await status(kube, namespace)).get("conditions", [])
    return next((each for each in conditions if each["type"] == type_), {})


async def test_a_rotten_member_is_healed(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    members, password = await servers(kube, namespace)
    identity = (await status(kube, namespace))["identity"]
    log = NatsLog([each.url for each in members], "orders-0", user="memorycluster", password=password)
    async with log, LogService(members, user="memorycluster", password=password) as service:
        writer = Writer(UUID(identity["shards"][0]["generation"]))
        await log.append(writer.accept(writer.claim()), sequence=2)
        for sequence in range(3, RECORDS + 3):
            await log.append(writer.accept(writer.data(os.urandom(SIZE))), sequence=sequence)
        health = await service.health("orders-0")
    rotten = next(member.name for member in health.members if not member.leader)
    kubelet.held = lambda pod: pod["metadata"]["name"] == rotten
    await kubelet.kill(namespace, rotten)
    volume = kubelet.root / "volumes" / namespace / f"data-{rotten}"
    blocks = sorted((volume / "jetstream" / "$G" / "streams" / "orders-0" / "msgs").glob("*.blk"))
    truncate(blocks[0])
    kubelet.held = lambda _: False

    async def healed() -> bool:
        events, _ = await kube.list("Event", namespace)
        reasons = {each["reason"] for each in events if each["regarding"]["kind"] == "MemoryCluster"}
        return {"RottenCopy", "LogHealing", "LogHealed"} <= reasons

    await eventually(healed, within=120)
    said = (kubelet.root / f"{rotten}.heal").read_text()
    assert f"the copy of {rotten} was given up" in said
    assert not list(kubelet.root.glob("*.heal"))[1:], "one member, once"
    await eventually(lambda: ready(kube, namespace))
    members, password = await servers(kube, namespace)
    async with LogService(members, user="memorycluster", password=password) as service:
        for copy in await service.copies():
            assert copy.current, copy
            assert not copy.lost, copy
        assert not await service.scrub("orders-0", rotten, rate=1e9)
    claims, _ = await kube.list("PersistentVolumeClaim", namespace)
    assert len(claims) == 3, "the operator deletes no volume"
    assert all("deletionTimestamp" not in each["metadata"] for each in claims)


async def test_the_logs_grow(kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator) -> None:
    await kube.create(manifest(namespace, log={"maxBytes": "64Mi", "storage": {"size": "1Gi"}}))
    await eventually(lambda: ready(kube, namespace))
    await change(kube, namespace, {"log": {"maxBytes": "128Mi"}})
    await eventually(lambda: ready(kube, namespace), within=120)
    members, password = await servers(kube, namespace)
    async with LogService(members, user="memorycluster", password=password) as service:
        assert (await service.health("orders-0")).max_bytes == 128 << 20


async def test_a_log_that_is_gone_is_not_made_again(
    kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    """All volumes were emptied behind everybody's back: that is for a human, and says so."""
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    kubelet.held = lambda pod: "-log-" in pod["metadata"]["name"]
    for index in range(3):
        await kubelet.kill(namespace, f"orders-log-{index}")
    for index in range(3):
        volume = kubelet.root / "volumes" / namespace / f"data-orders-log-{index}"
        volume.rename(volume.with_name(f"old-{index}"))
    kubelet.held = lambda _: False

    async def says_so() -> bool:
        blocked = (await status(kube, namespace)).get("blocked") or {}
        return blocked.get("reason") == "LogMissing"

    await eventually(says_so, within=90)
    await asyncio.sleep(1)
    assert operator.lines.count("create the log of shard 0") == 1
    members, password = await servers(kube, namespace)
    async with LogService(members, user="memorycluster", password=password) as service:
        assert [copy.log for copy in await service.copies() if copy.log == "orders-0"] == []


async def test_a_log_that_was_half_made_is_completed(
    kube: Kube, namespace: str, kubelet: Kubelet, operators: Operators
) -> None:
    """An operator has died between making the log and writing its first record."""
    kubelet.held = lambda pod: "-log-" in pod["metadata"]["name"]
    operator = operators.start()
    await kube.create(manifest(namespace))

    async def drawn() -> bool:
        return len(await pods(kube, namespace, "log")) == 3

    await eventually(drawn)
    operator.stop()
    kubelet.held = lambda _: False

    async def up() -> bool:
        found = (await pods(kube, namespace, "log")).values()
        conditions = [each for pod in found for each in pod["status"].get("conditions", [])]
        return sum((each["type"], each["status"]) == ("Ready", "True") for each in conditions) == 3

    await eventually(up)
    members, password = await servers(kube, namespace)
    async with LogService(members, user="memorycluster", password=password) as service:
        wanted = stream_config("orders-0", replicas=3, max_bytes=64 << 20)

        async def made() -> bool:
            answer = await service._link.ask("STREAM.CREATE.orders-0", wanted)
            return "error" not in answer

        await eventually(made)
        assert (await service.health("orders-0")).last_sequence == 0
    operators.start()
    await eventually(lambda: ready(kube, namespace))
