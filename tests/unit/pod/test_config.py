"""What a pod is told: the operator's and the pod's view of one text."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from pydantic import ValidationError

from memorycluster.pod.config import ClusterConfig, EngineConfig, LogConfig, ShardConfig

GENERATIONS = [UUID(int=1), UUID(int=2)]


def cluster(**change: object) -> ClusterConfig:
    fields: dict[str, object] = {
        "cluster": "orders",
        "namespace": "shop",
        "uid": "6f1c",
        "domain": "orders-nodes.shop.svc.cluster.local",
        "shards": tuple(ShardConfig(generation=each) for each in GENERATIONS),
        "nodes_per_shard": 3,
        "zones": ("a", "b", "c"),
        "log": LogConfig(servers=("nats://orders-log-0.orders-log:4222",), user="log"),
    }
    return ClusterConfig(**(fields | change))  # type: ignore[arg-type]


def test_what_is_written_is_what_is_read() -> None:
    config = cluster(
        engine=EngineConfig(io_threads=2, parameters={"maxmemory": "1gb"}, revision="r1"), lease=2.5
    )
    assert ClusterConfig.model_validate_json(config.dump()) == config
    assert json.loads(config.dump())["engine"] == {
        "ioThreads": 2,
        "parameters": {"maxmemory": "1gb"},
        "revision": "r1",
    }
    assert json.loads(config.dump())["shards"][1] == {"generation": str(GENERATIONS[1])}


def test_a_newer_operators_fields_do_not_keep_an_engine_from_starting() -> None:
    text = json.loads(cluster().dump()) | {"tls": {"secret": "x"}}
    assert ClusterConfig.model_validate_json(json.dumps(text)) == cluster()


@pytest.mark.parametrize(
    "change", [{"nodesPerShard": "3"}, {"shards": []}, {"uid": None}, {"log": {"servers": [], "user": "log"}}]
)
def test_what_it_can_not_be_is_refused(change: dict[str, object]) -> None:
    text = json.loads(cluster().dump()) | change
    with pytest.raises(ValidationError, match=next(iter(change))):
        ClusterConfig.model_validate_json(json.dumps(text))


def test_a_cluster_of_the_same_volumes_in_another_namespace_is_another_one() -> None:
    ours, theirs = cluster().topology(), cluster(namespace="shop-copy").topology()
    assert not {node.id for node in ours.nodes} & {node.id for node in theirs.nodes}
    assert not {shard.id for shard in ours.shards} & {shard.id for shard in theirs.shards}


def test_the_topology_is_the_same_for_everybody_and_for_every_size() -> None:
    small, large = cluster(nodes_per_shard=2).topology(), cluster().topology()
    assert [node.name for node in small.shards[1].nodes] == ["orders-1-0", "orders-1-1"]
    assert small.node("orders-1-1") == large.node("orders-1-1")
    assert large.node("orders-0-2").endpoint == "orders-0-2.orders-nodes.shop.svc.cluster.local:6379"
    assert cluster().stream(1) == "orders-1"
