"""What is known of clusters that are made of others: by whom, and what may yet take that from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memorycluster_operator.cache import Cache, ClusterKey
from memorycluster_operator.makings import CONFIG_ANNOTATION, FORGET, KEEP, MAKE, MAKING_LABEL, RESTORE
from memorycluster_operator.observe import _restored_from, _takers

OLD, NEW, OTHER = (ClusterKey("shop", each) for each in ("old", "new", "other"))
BY_NAME: dict[str, Any] = {"snapshot": "s", "cluster": "old", "store": {"s3": {"bucket": "b"}}}
BY_TIME: dict[str, Any] = {"cluster": "old", "time": "2026-11-01T12:34:56Z"}


class Namespace:
    """One with a cluster that is being restored, and others."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.cache, self.version = Cache(), 0
        self.add("MemoryCluster", "old", spec={})
        self.add("MemoryCluster", "other", spec={})
        self.add("MemoryCluster", "new", spec={"restoreFrom": wanted})

    def add(self, kind: str, name: str, cluster: str = "", **more: Any) -> dict[str, Any]:
        self.version += 1
        metadata = {
            "namespace": "shop",
            "name": name,
            "uid": f"{kind} {name}",
            "resourceVersion": str(self.version),
            "labels": {"memorycluster.io/cluster": cluster} if cluster else {},
        }
        metadata["labels"] |= more.pop("labels", {})
        metadata["annotations"] = more.pop("annotations", {})
        obj = {"kind": kind, "metadata": metadata, **more}
        self.cache.put(obj)
        return obj

    def job(self, kind: str = MAKE, cluster: str = "old", *, ended: bool = False, **keep: Any) -> None:
        template = {"metadata": {"annotations": {CONFIG_ANNOTATION: json.dumps({"keep": keep})}}}
        conditions = [{"type": "Complete", "status": "True"}] if ended else []
        self.add(
            "Job",
            f"job-{cluster}",
            cluster,
            labels={MAKING_LABEL: kind},
            spec={"template": template},
            status={"conditions": conditions},
        )

    def pod(self, phase: str, **keep: Any) -> None:
        self.add(
            "Pod",
            "pod",
            "old",
            labels={MAKING_LABEL: MAKE},
            annotations={CONFIG_ANNOTATION: json.dumps({"keep": keep})},
            status={"phase": phase},
        )

    @property
    def takers(self) -> tuple[str, ...]:
        return _takers(self.cache, NEW)


@pytest.mark.parametrize(
    ("wanted", "kind", "keep", "takes"),
    [
        (BY_TIME, MAKE, {}, True),
        (BY_TIME, KEEP, {"spared": ["s"]}, True),
        (BY_TIME, FORGET, {"held": True}, False),
        (BY_TIME, RESTORE, {}, False),
        (BY_NAME, MAKE, {}, True),
        (BY_NAME, FORGET, {"spared": ["other"]}, True),
        (BY_NAME, KEEP, {"spared": ["s"]}, False),
        (BY_NAME, KEEP, {"held": True}, False),
        (BY_NAME | {"store": {}}, KEEP, {"spared": ["s"]}, True),  # it is in the log service
    ],
)
def test_a_job_that_was_not_told_may_take_what_is_restored(
    wanted: dict[str, Any], kind: str, keep: dict[str, Any], takes: bool
) -> None:
    namespace = Namespace(wanted)
    namespace.job(kind, **keep)
    assert namespace.takers == (("Job job-old",) if takes else ())
    namespace.job(kind, ended=True, **keep)
    assert namespace.takers == ()


def test_a_jobs_pod_goes_on_when_the_job_is_gone() -> None:
    namespace = Namespace(BY_TIME)
    namespace.pod("Running")
    assert namespace.takers == ("Pod pod",)
    namespace.pod("Running", held=True)
    assert namespace.takers == ()
    namespace.pod("Succeeded")
    assert namespace.takers == ()


def test_of_which_cluster_it_is_may_not_be_said() -> None:
    named, unnamed = Namespace(BY_NAME), Namespace({**BY_NAME, "cluster": None})
    for namespace in (named, unnamed):
        namespace.job(cluster="other")
        namespace.job(cluster="new")
    assert (named.takers, unnamed.takers) == ((), ("Job job-other",))
    assert _restored_from(named.cache, OLD) == {"s"}
    assert _restored_from(named.cache, OTHER) == frozenset()
    assert _restored_from(unnamed.cache, OTHER) == {"s"}


def test_what_is_restored_takes_care_of_itself() -> None:
    namespace = Namespace(BY_NAME)
    namespace.job()
    status = {"identity": {"shards": [{"created": True}]}}
    namespace.add("MemoryCluster", "new", spec={"restoreFrom": BY_NAME}, status=status)
    assert namespace.takers == ()
    assert _restored_from(namespace.cache, OLD) == frozenset()
