"""The two containers of a pod as Kubernetes treats them: started, stopped, killed, moved."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from tests.pod.harness import CLIENTS, Pod, Pods, cluster, until

from memorycluster.pod.config import EngineConfig
from memorycluster.pod.engine import ENGINE_PATIENCE


@pytest.fixture(scope="module")
def three_pods(programs: Path) -> Iterator[Pods]:
    with asyncio.Runner() as runner:
        context = cluster(programs)
        made = runner.run(context.__aenter__())
        try:
            yield made
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture
async def pods(three_pods: Pods) -> Pods:
    """Three pods of one shard, all ready, however the test before left them."""
    await three_pods.restore()
    return three_pods


@pytest.fixture
async def doomed(programs: Path) -> AsyncIterator[Pods]:
    """Three pods that nothing can repair after the test."""
    async with cluster(programs) as made:
        await made.restore()
        yield made


async def write(pods: Pods, key: str, value: str) -> None:
    """Write, however often the primary changes meanwhile."""

    async def written() -> bool:
        with contextlib.suppress(redis.RedisError), (await pods.primary()).client() as client:
            return bool(client.set(key, value))
        return False

    await until(written, f"{key} is written")


def read(pod: Pod, key: str) -> bytes | None:
    with pod.client() as client:
        client.execute_command("READONLY")
        value = client.get(key)
        assert value is None or isinstance(value, bytes)
        return value


async def has(pod: Pod, key: str, value: str) -> None:
    def found() -> bool:
        with contextlib.suppress(redis.RedisError):
            return read(pod, key) == value.encode()
        return False

    await until(found, f"{pod.name} has {key}")


async def test_clients_are_sent_to_names(pods: Pods) -> None:
    await pods.agree()
    primary, replica = await pods.primary(), await pods.replica()
    with replica.client() as client, pytest.raises(redis.ResponseError) as moved:
        client.set("a", "1")
    assert str(moved.value).endswith(f"{pods.config.hostname(primary.name)}:{CLIENTS}")
    await write(pods, "a", "1")  # a replica that has nothing is listed to nobody

    def listed() -> bool:
        with replica.client() as client:
            hosts = [node[0] for node in client.execute_command("CLUSTER", "SLOTS")[0][2:]]
        return sorted(hosts) == sorted(pods.config.hostname(name).encode() for name in pods.pods)

    await until(listed, "all three are listed by name")


async def test_the_api_is_for_those_who_know_the_token(pods: Pods) -> None:
    primary = await pods.primary()
    for token in (None, "", "the cluster's toke", "the cluster's token2"):
        assert (await primary.http("GET", "/v1/status", token=token))[0] == 401
        assert (await primary.http("POST", "/v1/failover", token=token))[0] == 401
        assert (await primary.http("PUT", "/v1/parameters", token=token))[0] == 401
        assert (await primary.http("GET", "/livez", token=token))[0] == 200
    said = await primary.status()
    assert said["serving"]
    assert said["engineVersion"] == "9.1.2"
    assert said["zone"] == f"zone-{primary.name[-1]}"
    assert said["frozen"] is False
    assert len(said["log"]["members"]) == 3


async def test_whoever_waits_for_news_gets_them_when_there_are_some(pods: Pods) -> None:
    primary, replica = await pods.primary(), await pods.replica()
    etag = (await replica.status())["etag"]
    code, said = await replica.http("GET", f"/v1/status?after={etag}&wait=0.3")
    assert (code, said["etag"]) == (200, etag), "nothing has changed"
    waiting = asyncio.create_task(replica.http("GET", f"/v1/status?after={etag}&wait=300"))
    await write(pods, "no", "news")
    assert not waiting.done()
    code, answer = await primary.http("POST", "/v1/failover", json={"successor": replica.name})
    assert (code, answer["leader"]) == (200, replica.name)
    code, said = await waiting
    assert code == 200
    assert said["etag"] != etag


async def test_a_stopped_pod_gives_leadership_away_and_ends(pods: Pods) -> None:
    primary = await pods.primary()
    await write(pods, "kept", "1")
    primary.signal(signal.SIGTERM)
    assert await primary.ended() == [0, 0]
    assert not primary.left()
    assert "leadership released" in primary.said("agent")
    assert "started again" not in primary.said("engine")
    successor = await pods.primary()
    assert successor is not primary
    await has(successor, "kept", "1")
    await write(pods, "kept", "2")


async def test_whoever_waits_for_a_stopped_primary_still_gets_the_answer(pods: Pods) -> None:
    primary = await pods.primary()
    assert pods.log
    reader, writer = await asyncio.open_connection(primary.address, CLIENTS)
    writer.write(b"SET before 1\r\n")
    assert await reader.readline() == b"+OK\r\n"
    pods.log.freeze(*pods.log.names)
    writer.write(b"SET waits 1\r\n")
    with primary.client() as client:
        await until(lambda: client.info("txlog")["txlog_uncommitted_bytes"], "it waits for the log")
    primary.signal(signal.SIGTERM)
    await until(lambda: "-> draining" in primary.said("agent"), "leadership is given away")
    await asyncio.sleep(ENGINE_PATIENCE + 1)  # an engine that had been told to end would have ended
    pods.log.thaw()
    assert await asyncio.wait_for(reader.readline(), 30) == b"+OK\r\n"
    writer.close()
    assert await primary.ended() == [0, 0]
    await has(await pods.primary(), "waits", "1")


@pytest.mark.parametrize("first", ["agent", "engine"])
async def test_a_pod_ends_in_whatever_order_its_containers_are_told(pods: Pods, first: str) -> None:
    primary = await pods.primary()
    second = "engine" if first == "agent" else "agent"
    primary.signal(signal.SIGTERM, first)
    if first == "agent":
        await asyncio.to_thread(primary.containers["agent"].wait, 30)
    primary.signal(signal.SIGTERM, second)
    assert await primary.ended() == [0, 0]
    assert not primary.left()
    assert await pods.primary() is not primary


async def test_a_stopped_replica_does_not_wait_for_anybody(pods: Pods) -> None:
    primary, replica = await pods.primary(), await pods.replica()
    replica.signal(signal.SIGTERM)
    assert await replica.ended() == [0, 0]
    assert not replica.left()
    assert await pods.primary() is primary


async def test_a_frozen_agent_does_not_keep_a_pod_beyond_its_grace(pods: Pods) -> None:
    """The worst case: nothing is given away, nothing is answered."""
    primary = await pods.primary()
    await write(pods, "kept", "1")
    primary.process("memorycluster.agent").send_signal(signal.SIGSTOP)
    primary.process("valkey-server").send_signal(signal.SIGSTOP)
    primary.signal(signal.SIGTERM)
    await primary.ended()
    assert not primary.left()
    await has(await pods.primary(), "kept", "1")


async def test_without_a_log_a_pod_ends_within_its_grace_all_the_same(pods: Pods) -> None:
    """The worst case for the agent: it can't give leadership away, however long it tries."""
    primary = await pods.primary()
    await write(pods, "kept", "1")
    assert pods.log
    pods.log.freeze(*pods.log.names)
    primary.signal(signal.SIGTERM)
    await primary.ended()
    assert not primary.left()
    assert "without having given leadership away" in primary.said("agent")
    pods.log.thaw()
    await has(await pods.primary(), "kept", "1")


@pytest.mark.parametrize("part", ["valkey-server", "memorycluster.agent"])
async def test_what_is_killed_is_back_at_once(pods: Pods, part: str) -> None:
    primary = await pods.primary()
    await write(pods, "kept", "1")
    killed = primary.process(part)
    killed.kill()
    await write(pods, "kept", "2")
    await pods.all_ready()
    assert primary.process(part).pid != killed.pid
    assert all(each.poll() is None for each in primary.containers.values()), "no container has ended"
    for pod in pods.pods.values():
        await has(pod, "kept", "2")


async def test_a_frozen_engine_is_alive_whoever_asks(doomed: Pods) -> None:
    """The log has lost what was acknowledged: the only copy is in the engine, so no probe may end it."""
    pods = doomed
    primary = await pods.primary()
    await write(pods, "only", "here")
    assert pods.log
    stream, generation = pods.config.stream(0), pods.config.shards[0].generation
    await pods.log.delete(stream)
    async with pods.log.service() as admin:
        await admin.create(stream, generation, max_bytes=1 << 30)
    engine = primary.process("valkey-server")

    async def frozen() -> bool:
        said = await primary.status()
        return said.get("frozen", False) and said["role"] == "frozen" and bool(said["message"])

    await until(frozen, "it is frozen")
    for agent in range(2):
        assert (await primary.http("GET", "/livez", token=None))[0] == 200
        assert (await primary.http("GET", "/readyz", token=None))[0] == 503
        assert primary.process("valkey-server") == engine
        with primary.client() as client, pytest.raises(redis.RedisError):
            client.get("only")
        if agent == 0:
            primary.process("memorycluster.agent").kill()
            await until(frozen, "its successor finds it so too")
    primary.signal(signal.SIGTERM)
    await until(lambda: said_so(primary), "it says that it does not stop")
    assert await frozen(), "it can still be recovered"
    assert primary.process("valkey-server") == engine
    await primary.kill()


async def said_so(pod: Pod) -> bool:
    return "NOT YET" in pod.said("agent") and "frozen, so not stopping" in pod.said("agent")


async def test_what_a_container_had_started_ends_with_it(pods: Pods) -> None:
    primary = await pods.primary()
    await write(pods, "kept", "1")
    await primary.kill()
    assert await pods.primary() is not primary
    await write(pods, "kept", "2")
    primary.start()
    await pods.all_ready()
    await has(primary, "kept", "2")


async def test_a_pod_that_comes_back_elsewhere_is_found(pods: Pods) -> None:
    await pods.agree()
    await write(pods, "kept", "1")
    moved = await pods.primary()
    await moved.kill()
    moved.start(address=pods.next_address())
    await pods.all_ready()
    await pods.agree()
    await has(moved, "kept", "1")


async def test_all_pods_come_back_elsewhere_at_once(pods: Pods) -> None:
    await write(pods, "kept", "1")
    for pod in pods.pods.values():
        await pod.kill()
    old = [pod.address for pod in pods.pods.values()]
    # Each at the former address of another one: whoever is still met there is not who it was.
    for pod, address in zip(pods.pods.values(), [*old[1:], pods.next_address()], strict=True):
        pod.address = address
    for pod in pods.pods.values():
        pod.start()
    await pods.all_ready()
    await pods.agree()
    await has(await pods.primary(), "kept", "1")


async def test_parameters_are_set_live_and_each_refusal_is_named(pods: Pods) -> None:
    primary = await pods.primary()
    engine = primary.process("valkey-server").pid
    wanted = {"maxmemory": "64mb", "maxmemory-samples": "0", "tcp-backlog": "99", "no-such": "1"}
    code, said = await primary.http("PUT", "/v1/parameters", json={"revision": "r1", "parameters": wanted})
    assert code == 200
    assert (said["revision"], said["applied"], said["restart"]) == ("r1", False, ["tcp-backlog"])
    assert said["errors"]["maxmemory-samples"].startswith("argument must be between")
    assert said["errors"]["no-such"] == "this engine does not know it"
    assert set(said["errors"]) == {"maxmemory-samples", "no-such"}
    assert (await primary.status())["parameters"] == said
    with primary.client() as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(64 << 20)}

    good = {"hz": "20"}
    code, said = await primary.http("PUT", "/v1/parameters", json={"revision": "r2", "parameters": good})
    assert said == {"revision": "r2", "applied": True, "restart": [], "errors": {}}
    with primary.client() as client:
        assert client.config_get("maxmemory", "hz") == {"maxmemory": "0", "hz": "20"}, "and back again"
    assert primary.process("valkey-server").pid == engine

    for body in (
        {"revision": "r3"},
        {"revision": 3, "parameters": {}},
        {"revision": "", "parameters": {"hz": 1}},
    ):
        assert (await primary.http("PUT", "/v1/parameters", json=body))[0] == 400


async def test_parameters_survive_restarts_of_either_process(pods: Pods) -> None:
    async def applied(pod: Pod, revision: str, hz: str) -> None:
        async def found() -> bool:
            with contextlib.suppress(redis.RedisError), pod.client() as client:
                said = (await pod.status()).get("parameters") or {}
                there = client.config_get("hz", "tcp-backlog")
                expected = {"hz": hz, "tcp-backlog": "99"}
                return said.get("revision") == revision and said["applied"] and there == expected
            return False

        await until(found, f"{revision} is applied")

    replica = await pods.replica()
    wanted = {"hz": "20", "tcp-backlog": "99"}
    pods.tell(engine=EngineConfig(parameters=wanted, revision="r1"))
    code, said = await replica.http("PUT", "/v1/parameters", json={"revision": "r1", "parameters": wanted})
    assert (code, said["restart"]) == (200, ["tcp-backlog"])
    replica.process("valkey-server").kill()
    await applied(replica, "r1", "20")
    pods.tell(engine=EngineConfig(parameters=wanted | {"hz": "30"}, revision="r2"))
    replica.process("memorycluster.agent").kill()
    await applied(replica, "r2", "30")


async def test_a_value_that_the_engine_refuses_never_keeps_it_from_starting(pods: Pods) -> None:
    replica = await pods.replica()
    pods.tell(engine=EngineConfig(parameters={"maxmemory-samples": "0"}, revision="bad"))
    await replica.kill()
    replica.start()
    await until(replica.ready, "it is ready")
    said = (await replica.status())["parameters"]
    assert (said["revision"], said["applied"], list(said["errors"])) == ("bad", False, ["maxmemory-samples"])
