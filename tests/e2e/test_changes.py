"""Changes of the spec, as people make them: with the least disruption, one pod at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.cluster import Cluster, identities, restarts
from tests.e2e.kube import Failed
from tests.e2e.release import Operator
from tests.e2e.scenario import LAPSE, Stage
from tests.e2e.site import Site
from tests.e2e.watch import Watch


@pytest.fixture(scope="module")
def small(site: Site, stage: Stage, operator: Operator, namespace: str) -> Iterator[Cluster]:
    """One shard of three nodes."""
    cluster = site.cluster(namespace, "small", shards=1, replicasPerShard=2)
    try:
        stage.created("small: 1 shard, 3 nodes", cluster)
        yield cluster
    finally:
        cluster.delete()


def test_a_parameter_that_can_change_live(stage: Stage, small: Cluster) -> None:
    before = small.pods("engine")
    with stage.case("live parameter changed", small):
        small.change(engine={"parameters": {"maxmemory-policy": "allkeys-lru", "maxmemory": "300mb"}})
        small.whole()
        for pod in identities(before):
            assert small.config(pod, "maxmemory-policy") == "allkeys-lru"
            assert small.config(pod, "maxmemory") == str(300 << 20)
    after = small.pods("engine")
    assert identities(after) == identities(before), "no pod was replaced"
    assert restarts(after) == restarts(before), "and no container restarted"


@pytest.mark.long
def test_a_parameter_that_cannot_change_live(stage: Stage, small: Cluster) -> None:
    before = small.pods("engine")
    with stage.case("parameter changed by rolling", small) as scene, Watch(small) as watch:
        small.change(engine={"parameters": {"tcp-backlog": "300"}})
        small.whole()
        for pod in identities(before):
            assert small.config(pod, "tcp-backlog") == "300"
    rolled_gently(scene.pause, watch)


def test_another_image(stage: Stage, small: Cluster, site: Site) -> None:
    before = identities(small.pods("engine"))
    with stage.case("engine image rolled", small) as scene, Watch(small) as watch:
        small.change(engine={"image": site.images.next_engine})
        small.whole()
    after = small.pods("engine")
    assert not set(before.values()) & set(identities(after).values()), "every pod is a new one"
    for pod in after:
        images = {container["image"] for container in pod["spec"]["containers"]}
        assert images == {site.images.next_engine}, "engine and agent go together"
    rolled_gently(scene.pause, watch)


@pytest.mark.long
def test_the_operator_is_killed_in_mid_roll(
    stage: Stage, small: Cluster, site: Site, operator: Operator
) -> None:
    before = identities(small.pods("engine"))
    with stage.case("operator killed in mid-roll", small) as scene, Watch(small) as watch:
        small.change(engine={"image": site.images.engine})
        small.kube.until(
            lambda: set(before.values()) - set(identities(small.pods("engine")).values()), "a pod replaced"
        )
        operator.kill()
        small.whole()
    assert not set(before.values()) & set(identities(small.pods("engine")).values()), "every pod is a new one"
    rolled_gently(scene.pause, watch)


@pytest.mark.long
def test_replicas_are_scaled(stage: Stage, small: Cluster) -> None:
    with stage.case("replicas 2 to 1 to 2", small):
        for replicas in (1, 2):
            small.kube(
                *("scale", "memorycluster", small.name, "-n", small.namespace, f"--replicas={replicas}")
            )
            small.spec["replicasPerShard"] = replicas
            small.whole()
            assert len(small.pods("engine")) == 1 + replicas


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [("shards", 2, "shards"), ("zones", ["zone-a"], "zones"), ("replicasPerShard", 9, "replicasPerShard")],
)
def test_what_is_refused(small: Cluster, field: str, value: object, named: str) -> None:
    before = small.resource()["metadata"]["generation"]
    with pytest.raises(Failed, match=named):
        small.kube.patch("memorycluster", small.name, {"spec": {field: value}}, small.namespace)
    assert small.resource()["metadata"]["generation"] == before


def rolled_gently(pause: float, watch: Watch) -> None:
    """Of each shard, one pod at a time was not ready, and the primary's had handed over before."""
    for shard, names in watch.unready.items():
        assert len(names) == 1, f"shard {shard}: not ready at one time: {', '.join(sorted(names))}"
    assert watch.unready, "pods were replaced"
    assert pause < LAPSE, f"writes paused {pause:.1f} s: leadership was not handed over"
