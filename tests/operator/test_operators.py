"""Operators that come, go, and meet each other; an API server that goes away."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from tests.lab.apiserver import ApiServer
from tests.operator.conftest import (
    SYSTEM,
    Operator,
    Operators,
    change,
    eventually,
    manifest,
    ready,
    settled,
    status,
)
from tests.operator.kubelet import Kubelet

from memorycluster_operator.identity import ANNOTATION
from memorycluster_operator.kube import Kube


async def holder(kube: Kube) -> str:
    """Return who holds the lease."""
    lease = await kube.get("Lease", SYSTEM, "memorycluster-operator")
    return str(lease["spec"].get("holderIdentity") or "") if lease else ""


async def secrets(kube: Kube, namespace: str) -> list[dict[str, str]]:
    """Return what the cluster's Secrets hold."""
    found = [await kube.get("Secret", namespace, name) for name in ("orders-internal", "orders-log")]
    return [each["data"] for each in found if each]


async def identities(kube: Kube, namespace: str) -> list[Any]:
    """Return every word of the cluster's identity: of the status, and of each volume."""
    claims, _ = await kube.list("PersistentVolumeClaim", namespace)
    stamps = [json.loads(each["metadata"]["annotations"][ANNOTATION]) for each in claims]
    return [(await status(kube, namespace))["identity"], *stamps]


async def test_one_works_and_the_other_stands_by(kube: Kube, operators: Operators) -> None:
    first = operators.start()
    await eventually(first.leads)
    second = operators.start()
    await eventually(lambda: _has_logged(second, "stands by"))
    assert not await second.leads()
    assert (await second.probe("/livez"))[0] == 200
    assert (await second.probe("/readyz"))[0] == 200
    assert first.stop() == 0
    assert "has given back the lease" in first.lines
    await eventually(second.leads, within=8)  # well below the lease's 30 s


async def test_a_successor_waits_for_one_that_was_killed(kube: Kube, operators: Operators) -> None:
    first = operators.start()
    await eventually(first.leads)
    before = await holder(kube)
    first.kill()
    second = operators.start()
    await eventually(second.leads)
    assert await holder(kube) not in ("", before)


async def test_one_that_loses_the_lease_ends(kube: Kube, operators: Operators) -> None:
    operator = operators.start()
    await eventually(operator.leads)
    lease = await kube.get("Lease", SYSTEM, "memorycluster-operator")
    assert lease is not None
    await kube.patch("Lease", SYSTEM, "memorycluster-operator", {"spec": {"holderIdentity": "somebody"}})

    async def ended() -> bool:
        return operator.process is not None and operator.process.poll() is not None

    await eventually(ended)
    assert operator.process is not None
    assert operator.process.returncode == 1
    assert "somebody holds the lease" in operator.lines
    assert await holder(kube) == "somebody"
    await kube.patch("Lease", SYSTEM, "memorycluster-operator", {"spec": {"holderIdentity": ""}})


async def test_two_at_once_do_no_harm(
    kube: Kube, namespace: str, kubelet: Kubelet, operators: Operators
) -> None:
    """Even without the lease: one identity, one set of passwords, one log."""
    both = [operators.start("--no-elect"), operators.start("--no-elect")]
    for each in both:
        await eventually(lambda each=each: _works(each))
    await kube.create(manifest(namespace, shards=2))
    await eventually(lambda: ready(kube, namespace))
    said = await identities(kube, namespace)
    assert {(each["uid"], str([s["generation"] for s in each["shards"]])) for each in said} == {
        (said[0]["uid"], str([s["generation"] for s in said[0]["shards"]]))
    }
    held = await secrets(kube, namespace)
    assert held[0]["log-password"] == held[1]["log-password"]
    await change(kube, namespace, {"replicasPerShard": 1})
    await eventually(lambda: ready(kube, namespace))
    await change(kube, namespace, {"engine": {"image": "engine:other"}})
    # An eviction of a pod that is another one by now is refused, but the budget counts it for two minutes.
    await eventually(lambda: ready(kube, namespace), within=240)


async def test_restarted_again_and_again(
    kube: Kube, namespace: str, kubelet: Kubelet, operators: Operators
) -> None:
    """Killed after each few actions, it goes on from where it was."""
    await kube.create(manifest(namespace, shards=2))
    seen: dict[str, Any] = {}
    for _ in range(40):
        operator = operators.start("--no-elect")
        await eventually(lambda operator=operator: _acted(operator, kube, namespace))
        operator.kill()
        for each in await secrets(kube, namespace):
            for key, value in each.items():
                if key != "server.conf":
                    assert seen.setdefault(key, value) == value
        if identity := (await status(kube, namespace)).get("identity"):
            assert seen.setdefault("uid", identity["uid"]) == identity["uid"]
        if await ready(kube, namespace):
            break
    else:
        operators.start("--no-elect")
    await eventually(lambda: ready(kube, namespace))
    assert (await status(kube, namespace))["identity"]["uid"] == seen["uid"]


async def test_an_api_server_that_was_away(
    kube: Kube, api_server: ApiServer, namespace: str, kubelet: Kubelet, operators: Operators
) -> None:
    operator = operators.start("--no-elect")
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    await asyncio.to_thread(api_server.restart)
    await change(kube, namespace, {"replicasPerShard": 1})
    found = await kube.get("Service", namespace, "orders")
    assert found is not None
    await kube.delete("Service", namespace, "orders", uid=found["metadata"]["uid"])
    assert await eventually(lambda: settled(kube, namespace))
    await eventually(lambda: kube.get("Service", namespace, "orders"))
    assert operator.process is not None
    assert operator.process.poll() is None
    assert (await operator.probe("/livez"))[0] == 200


async def test_the_lease_is_kept_while_the_api_server_restarts(
    kube: Kube, api_server: ApiServer, operators: Operators
) -> None:
    operator = operators.start()
    await eventually(operator.leads)
    before = await holder(kube)
    await asyncio.to_thread(api_server.restart)

    lease = await kube.get("Lease", SYSTEM, "memorycluster-operator")
    assert lease is not None
    version = lease["metadata"]["resourceVersion"]

    def ended() -> bool:
        return operator.process is not None and operator.process.poll() is not None

    async def renewed() -> bool:
        lease = await kube.get("Lease", SYSTEM, "memorycluster-operator")
        return ended() or (lease is not None and lease["metadata"]["resourceVersion"] != version)

    await eventually(renewed)
    if ended():  # it took longer than the deadline: then it has ended, as it must
        assert "could not be renewed in time" in operator.lines
    else:
        assert await holder(kube) == before


async def test_passwords_are_text(kube: Kube, namespace: str, kubelet: Kubelet, operator: Operator) -> None:
    await kube.create(manifest(namespace))
    await eventually(lambda: ready(kube, namespace))
    held = (await secrets(kube, namespace))[0]
    assert len({base64.b64decode(value) for value in held.values()}) == 3
    assert all(len(base64.b64decode(value)) >= 32 for value in held.values())
    assert not any(base64.b64decode(value).decode() in operator.lines for value in held.values())


async def _has_logged(operator: Operator, text: str) -> bool:
    return text in operator.lines


async def _works(operator: Operator) -> bool:
    return (await operator.probe("/readyz"))[0] == 200


async def _acted(operator: Operator, kube: Kube, namespace: str) -> bool:
    """Whether it has done a few things, or there is nothing to do any more."""
    actions = (await operator.metrics()).get("memorycluster_actions_total", {})
    return sum(actions.values()) >= 3 or await ready(kube, namespace)
