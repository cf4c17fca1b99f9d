"""valkey-py and redis-py with blocking calls; they have nearly one interface."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from typing import Any

from telling import KEYS, PACE, PATIENCE, PHASES, ROUNDS, TAGS, Writes, endpoint, prefix, tell

LIBRARY = importlib.import_module(sys.argv[1])


def connect() -> Any:
    host, port = endpoint()
    kind = LIBRARY.ValkeyCluster if LIBRARY.__name__ == "valkey" else LIBRARY.RedisCluster
    return kind(host=host, port=port, decode_responses=True)


def strings(client: Any, p: str) -> None:
    for n in range(KEYS):
        assert client.set(f"{p}:s:{n}", n)
    for n in range(KEYS):
        assert client.get(f"{p}:s:{n}") == str(n)


def pipeline(client: Any, p: str) -> None:
    with client.pipeline() as pipe:
        for n in range(KEYS):
            pipe.incrby(f"{p}:p:{n}", n)
            pipe.get(f"{p}:p:{n}")
        assert pipe.execute() == [said for n in range(KEYS) for said in (n, str(n))]


def transaction(client: Any, p: str) -> None:
    for tag in TAGS:
        key = f"{{{p}:{tag}}}:t"
        # valkey-py's cluster client has no transactions: the node's own client has.
        one = (
            client.get_valkey_connection(client.get_node_from_key(key))
            if LIBRARY.__name__ == "valkey"
            else client
        )
        with one.pipeline(transaction=True) as pipe:
            pipe.set(f"{key}:1", "x")
            pipe.incr(f"{key}:2")
            pipe.get(f"{key}:1")
            ok, *others = pipe.execute()
            assert ok in (True, "OK")
            assert others == [1, "x"]


def script(client: Any, p: str) -> None:
    for tag in TAGS:
        key = f"{{{p}:{tag}}}:l"
        text = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])"
        assert client.eval(text, 1, key, "v") == "v"
        assert client.get(key) == "v"


def messages(subscription: Any, count: int, **how: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    deadline = time.monotonic() + PATIENCE
    get = subscription.get_sharded_message if how else subscription.get_message
    while len(found) < count:
        assert time.monotonic() < deadline, found
        message = get(ignore_subscribe_messages=False, timeout=0.05)
        if message and message["type"] in {"message", "smessage"}:
            found.append((message["channel"], message["data"]))
        elif message:
            found.append((message["channel"], "subscribed"))
    return found


def publish(client: Any, p: str) -> None:
    with client.pubsub() as subscription:
        subscription.subscribe(f"{p}:c")
        assert messages(subscription, 1) == [(f"{p}:c", "subscribed")]
        for n in range(ROUNDS):
            client.publish(f"{p}:c", n)
        assert messages(subscription, ROUNDS) == [(f"{p}:c", str(n)) for n in range(ROUNDS)]


def sharded_publish(client: Any, p: str) -> None:
    for tag in TAGS:
        with client.pubsub() as subscription:
            subscription.ssubscribe(f"{p}:{tag}")
            assert messages(subscription, 1, sharded=True) == [(f"{p}:{tag}", "subscribed")]
            for n in range(ROUNDS):
                client.spublish(f"{p}:{tag}", n)
            assert messages(subscription, ROUNDS, sharded=True) == [
                (f"{p}:{tag}", str(n)) for n in range(ROUNDS)
            ]


def blocking_pop(client: Any, p: str) -> None:
    """Two clients that wait for each other."""

    def answer() -> None:
        with connect() as other:
            for _ in range(ROUNDS):
                _, said = other.blpop([f"{p}:in"], timeout=PATIENCE)
                other.rpush(f"{p}:out", f"re {said}")

    thread = threading.Thread(target=answer)
    thread.start()
    for n in range(ROUNDS):
        client.rpush(f"{p}:in", n)
        assert list(client.blpop([f"{p}:out"], timeout=PATIENCE)) == [f"{p}:out", f"re {n}"]
    thread.join()


def stream(client: Any, p: str) -> None:
    for tag in TAGS:
        key = f"{p}:x:{tag}"
        client.xgroup_create(key, "group", "0", mkstream=True)
        ids = [client.xadd(key, {"n": n}) for n in range(ROUNDS)]
        entries = dict(client.xreadgroup("group", "me", {key: ">"}, count=ROUNDS))[key]
        assert [(i, fields["n"]) for i, fields in entries] == [(i, str(n)) for n, i in enumerate(ids)]
        assert client.xack(key, "group", *ids) == ROUNDS
        assert client.xpending(key, "group")["pending"] == 0


def scan(client: Any, p: str) -> None:
    assert set(client.scan_iter(match=f"{p}:s:*", count=50)) == {f"{p}:s:{n}" for n in range(KEYS)}


STEPS = (strings, pipeline, transaction, script, publish, sharded_publish, blocking_pop, stream, scan)


def main() -> None:
    with connect() as client:
        for step in STEPS:
            step(client, prefix())
            tell(passed=step.__name__)
        writes = Writes()
        for phase in PHASES:
            writes.begin(phase)
            while not writes.over():
                key, value = writes.next()
                try:
                    client.set(key, value)
                    writes.acknowledge(key, value)
                    time.sleep(PACE)
                except Exception as error:  # whatever the client raises is what we want to know
                    writes.failed(error)
                    time.sleep(0.01)
        for key, value in writes.acknowledged().items():
            assert client.get(key) == value, key
        tell(found=len(writes.acknowledged()))


main()
