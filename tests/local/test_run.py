"""A cluster in three zones, as a newcomer meets it."""

import signal
import subprocess
import threading
from collections.abc import Iterator

import psutil
import pytest
import redis
from tests.local.harness import PROGRAM, Cluster, Foreground, short_directory, until

import valkey

KEYS = {f"key:{number}": f"value {number}" for number in range(100)}


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    """A cluster that has run in the foreground, been filled, and been stopped with Ctrl-C."""
    with short_directory() as directory:
        cluster = Cluster(directory)
        try:
            with Foreground(cluster) as run:
                run.wait_for("starting the log")
                run.wait_for("Ready  1 of 1 shards serve")
                run.wait_for("SHARD  SLOTS    NODE      ROLE")
                assert str(cluster.base_port) in run.wait_for("valkey-cli -c -p")
                run.wait_for("Stop     Ctrl-C")
                client = redis.RedisCluster("127.0.0.1", cluster.base_port)
                for key, value in KEYS.items():
                    assert client.set(key, value)
                client.close()
                started = psutil.Process(run.process.pid).children()
                assert run.interrupt() == 0
                assert run.lines[-1] == f"demo stopped; its data is in {cluster.data}"
            assert len(started) == 9, "three log servers, three engines, three agents"
            assert not any(process.is_running() for process in started)
            yield cluster
        finally:
            cluster.end()


@pytest.fixture(scope="module")
def cluster(made: Cluster) -> Iterator[Cluster]:
    """The same, running in the background."""
    said = made.start()
    assert "waiting for the log to elect its leader" in said
    assert f"Stop     memorycluster stop --data-dir {made.data}" in said
    yield made
    assert made.stop() == f"demo stopped; its data is in {made.data}\n"
    assert made.processes() == []
    assert made.succeed("stop", "--data-dir", str(made.data)) == "demo is not running\n"


def value(cluster: Cluster, key: str) -> str:
    with valkey.ValkeyCluster("127.0.0.1", cluster.base_port, decode_responses=True) as client:
        return str(client.get(key))


def test_started_again_it_finds_all_data(cluster: Cluster) -> None:
    with valkey.ValkeyCluster("127.0.0.1", cluster.base_port + 2, decode_responses=True) as client:
        assert {key: client.get(key) for key in KEYS} == KEYS


def test_replicas_answer_too(cluster: Cluster) -> None:
    cluster.ready()
    with redis.RedisCluster(
        "127.0.0.1", cluster.base_port, read_from_replicas=True, decode_responses=True
    ) as client:
        assert {key: client.get(key) for key in KEYS} == KEYS


def test_status_json_is_the_resource(cluster: Cluster) -> None:
    cluster.ready()
    resource = cluster.resource()
    status = resource["status"]
    assert (resource["kind"], resource["metadata"]["name"]) == ("MemoryCluster", "demo")
    assert status["phase"] == "Ready"
    assert status["endpoints"] == [f"127.0.0.1:{cluster.base_port + index}" for index in range(3)]
    (shard,) = status["shards"]
    assert shard["slots"] == ["0-16383"]
    assert sorted(node["role"] for node in shard["nodes"]) == ["primary", "replica", "replica"]
    assert [node["zone"] for node in shard["nodes"]] == ["zone-a", "zone-b", "zone-c"]
    assert len({node["committedOffset"] for node in shard["nodes"]}) == 1
    (primary,) = (node for node in shard["nodes"] if node["role"] == "primary")
    assert shard["primary"] == primary["name"]
    assert 0 < primary["lease"] <= 5
    assert sorted(member["zone"] for member in shard["log"]["members"]) == ["zone-a", "zone-b", "zone-c"]
    assert sum(member["leader"] for member in shard["log"]["members"]) == 1
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "Ready": "True",
        "Redundant": "True",
        "LogIntact": "True",
        "SnapshotsCurrent": "True",
    }


def test_status_is_a_table(cluster: Cluster) -> None:
    cluster.ready()
    lines = cluster.succeed("status", "--data-dir", str(cluster.data)).splitlines()
    assert lines[0].startswith("demo runs (pid ")
    assert lines[1] == "Ready  1 of 1 shards serve"
    assert sum("127.0.0.1:" in line for line in lines) == 3
    assert sum(" primary " in line for line in lines) == 1
    assert any(line.startswith("Log of shard 0: ") and line.count("current") == 2 for line in lines)


def test_every_process_shows_the_data_directory(cluster: Cluster) -> None:
    lines = [" ".join(process.cmdline()) for process in cluster.processes()]
    assert len(lines) == 10
    for part, count in (
        ("valkey-server", 3),
        ("memorycluster.agent", 3),
        ("nats-server", 3),
        ("memorycluster run", 1),
    ):
        assert sum(part in line for line in lines) == count, lines


def test_the_default_is_the_cluster_that_runs(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORYCLUSTER_DATA_DIR", str(cluster.data))
    assert cluster.succeed("status").startswith("demo runs")


def test_a_second_run_is_refused(cluster: Cluster) -> None:
    for detach in ([], ["--detach"]):
        done = cluster.command(*cluster.run_arguments, *detach)
        assert done.returncode == 2
        assert done.stderr.startswith(
            f"error: {cluster.data}: already running (pid {cluster.supervisor().pid})"
        )
        assert done.stderr.count("\n") == 1


def test_its_ports_are_refused_to_another(cluster: Cluster) -> None:
    with short_directory() as directory:
        other = Cluster(directory, name="other")
        other.base_port = cluster.base_port - 2
        done = other.command(*other.run_arguments)
        assert done.returncode == 2
        owner = "(clients of other-0-2) is in use by valkey-server"
        assert done.stderr.startswith(f"error: port {cluster.base_port} {owner}")
        assert not (other.data / "cluster.json").exists()


def test_a_planned_failover_loses_nothing(cluster: Cluster) -> None:
    before = cluster.ready()["shards"][0]
    to = next(node["name"] for node in before["nodes"] if node["role"] == "replica")
    said = cluster.succeed("failover", "0", "--to", to, "--data-dir", str(cluster.data))
    assert said.startswith(f"shard 0: {to} is primary (epoch {before['epoch'] + 1}), after ")
    after = cluster.ready()["shards"][0]
    assert (after["primary"], after["epoch"]) == (to, before["epoch"] + 1)
    assert value(cluster, "key:1") == KEYS["key:1"]
    again = cluster.succeed("failover", "0", "--to", to, "--data-dir", str(cluster.data))
    assert again == f"shard 0: {to} is primary already\n"
    until(
        lambda: f"shard 0: {to} is primary (epoch {after['epoch']})" in cluster.log(), "the news in the log"
    )


@pytest.mark.parametrize("part", ["memorycluster.agent", "valkey-server", "nats-server"])
def test_what_dies_is_started_again(cluster: Cluster, part: str) -> None:
    cluster.ready()
    victims = {process.pid for process in cluster.processes(part)}
    assert len(victims) == 3
    victim = psutil.Process(min(victims))
    victim.kill()
    until(lambda: len({p.pid for p in cluster.processes(part)} - {victim.pid}) == 3, f"three times {part}")
    cluster.ready()
    assert value(cluster, "key:1") == KEYS["key:1"]
    assert "ended (killed by SIGKILL); started again" in cluster.log()


def test_a_rotten_copy_of_the_log_is_made_anew(cluster: Cluster) -> None:
    members = {member["name"]: member for member in cluster.ready()["shards"][0]["log"]["members"]}
    name = next(name for name, member in members.items() if not member["leader"])
    store = cluster.data / "log" / name.removeprefix("log-") / "store"
    block = max(store.rglob("streams/demo-0/msgs/*.blk"), key=lambda path: path.stat().st_size)
    (server,) = cluster.processes(f"{name.removeprefix('log-')}/server.conf")
    server.suspend()
    with block.open("r+b") as file:
        file.seek(block.stat().st_size // 2)
        file.write(b"rot" * 10)
    server.kill()
    until(
        lambda: (
            f"wiping {name}" in cluster.log() and f"{name} is started again, and current" in cluster.log()
        ),
        "healing",
    )
    status = cluster.ready()
    assert all(member["current"] for member in status["shards"][0]["log"]["members"])
    assert value(cluster, "key:1") == KEYS["key:1"]


def test_a_killed_supervisor_leaves_nothing_and_the_next_run_starts(cluster: Cluster) -> None:
    left = cluster.processes()
    cluster.supervisor().kill()
    _, alive = psutil.wait_procs(left, timeout=20)
    assert alive == []
    cluster.start()
    assert value(cluster, "key:99") == KEYS["key:99"]


def test_sigterm_stops_it_in_order_while_clients_write(cluster: Cluster) -> None:
    acknowledged = 0
    stopped = threading.Event()

    def write() -> None:
        nonlocal acknowledged
        with redis.RedisCluster("127.0.0.1", cluster.base_port, socket_timeout=2) as client:
            while not stopped.is_set():
                try:
                    client.set("counter", acknowledged + 1)
                    acknowledged += 1
                except redis.RedisError:
                    return

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: acknowledged > 50, "writes")
    cluster.supervisor().send_signal(signal.SIGTERM)
    until(lambda: not cluster.processes(), "its end")
    stopped.set()
    writer.join()
    cluster.start()
    assert int(value(cluster, "counter")) in (acknowledged, acknowledged + 1)


def test_python_m_memorycluster_is_the_same_program() -> None:
    done = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert "failover" in done.stdout
