"""What a node's engine and agent are told, from what its pod is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.unit.pod.test_config import GENERATIONS, cluster

from memorycluster.agent.config import AgentConfig
from memorycluster.pod.config import EngineConfig, LogConfig
from memorycluster.pod.node import Files, Pod, agent_texts, engine_texts, find_node

ENVIRONMENT = {"POD_NAME": "orders-0-0", "POD_IP": "fd00::7"}
FILES = Files(Path("/run/memorycluster"))
POD = Pod("orders-1-2", "10.0.3.4", "zone-c", "log secret", "agent secret", "token")


def conf(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines() if not line.startswith("user "))


def test_the_engine_listens_at_the_pods_address_and_tells_its_name() -> None:
    texts = engine_texts(cluster(), POD, FILES)
    found = conf(texts[FILES.engine_conf])
    assert found["bind"] == "10.0.3.4 -127.0.0.1 -::1"
    assert found["cluster-announce-ip"] == '"10.0.3.4"'
    assert found["cluster-announce-hostname"] == '"orders-1-2.orders-nodes.shop.svc.cluster.local"'
    assert found["cluster-preferred-endpoint-type"] == '"hostname"'
    assert found["availability-zone"] == '"zone-c"'
    assert found["protected-mode"] == '"no"', "clients come from other machines; a NetworkPolicy says which"
    lines = texts[FILES.nodes_conf].splitlines()
    assert len(lines) == 7
    mine = next(line for line in lines if "myself" in line)
    assert mine.split()[1].startswith("10.0.3.4:6379@16379,orders-1-2.orders-nodes.shop.svc.cluster.local,")
    others = [line.split()[1] for line in lines if "myself" not in line and not line.startswith("vars")]
    assert all(place.startswith(":6379@16379,orders-") for place in others)


def test_only_what_the_engine_reads_at_its_start_is_in_its_file() -> None:
    parameters = {"maxmemory": "rubbish", "tcp-backlog": "99"}
    config = cluster(engine=EngineConfig(parameters=parameters, revision="r7", io_threads=3))
    found = conf(engine_texts(config, POD, FILES)[FILES.engine_conf])
    assert (found["tcp-backlog"], found["io-threads"]) == ('"99"', '"3"')
    assert "maxmemory" not in found, "a value that it refuses would keep it from starting"
    told = agent(agent_texts(config, POD, FILES)[FILES.agent_conf])
    assert (told.parameters, told.parameters_revision) == (parameters, "r7")


def agent(text: str) -> AgentConfig:
    return AgentConfig.model_validate(yaml.safe_load(text))


def test_the_agent_knows_its_shard_and_who_may_ask_it() -> None:
    config = cluster(log=LogConfig(servers=("nats://a:4222", "nats://b:4222", "nats://c:4222"), user="log"))
    told = agent(agent_texts(config, POD, FILES)[FILES.agent_conf])
    assert (told.shard, told.stream, told.generation) == (1, "orders-1", GENERATIONS[1])
    assert told.node_id == config.topology().node("orders-1-2").id
    assert told.slots == [(8192, 16383)]
    assert (told.api_address, told.api_port) == ("10.0.3.4", 8080)
    assert told.api_token.get_secret_value() == "token"
    assert told.log_password.get_secret_value() == "log secret"
    assert sorted(told.log_servers) == list(config.log.servers)


def test_agents_spread_over_the_log_servers() -> None:
    config = cluster(log=LogConfig(servers=("nats://a:4222", "nats://b:4222", "nats://c:4222"), user="log"))
    first = [
        agent(
            agent_texts(config, Pod(node.name, "10.0.0.1", "", "l", "a", "t"), FILES)[FILES.agent_conf]
        ).log_servers[0]
        for node in config.topology().nodes
    ]
    assert {first.count(server) for server in config.log.servers} == {2}


def test_a_node_beyond_the_number_that_is_told_is_one_too() -> None:
    config = cluster(nodes_per_shard=1)
    node, topology = find_node(config, "orders-1-2")
    assert node == cluster().topology().node("orders-1-2")
    assert node in topology.nodes
    assert engine_texts(config, POD, FILES)


@pytest.mark.parametrize("name", ["other-0-0", "orders-2-0", "orders-1-x", "orders", "orders-0-99999999999"])
def test_a_pod_of_nobody_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a pod of the cluster orders"):
        find_node(cluster(), name)


def test_a_pod_knows_who_it_is(volumes: Path) -> None:
    assert Pod.load(volumes, ENVIRONMENT) == Pod("orders-0-0", "fd00::7", "", "l", "a", "t")
    (volumes / "pod").mkdir()
    (volumes / "pod" / "zone").write_text("zone-a\n")
    assert Pod.load(volumes, ENVIRONMENT).zone == "zone-a"


@pytest.mark.parametrize(
    ("environment", "spoil", "message"),
    [
        ({"POD_NAME": "orders-0-0"}, "", "POD_IP is not set"),
        ({"POD_NAME": "", "POD_IP": "10.0.0.1"}, "", "POD_NAME is not set"),
        ({"POD_NAME": "orders-0-0", "POD_IP": "localhost"}, "", "localhost"),
        ({"POD_NAME": "orders-0-0", "POD_IP": "10.0.0.1"}, "secrets/api-token", "api-token is empty"),
    ],
)
def test_what_a_pod_lacks_is_named(
    volumes: Path, environment: dict[str, str], spoil: str, message: str
) -> None:
    if spoil:
        (volumes / spoil).write_text("\n")
    with pytest.raises(ValueError, match=message):
        Pod.load(volumes, environment)
