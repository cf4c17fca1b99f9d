"""A world whose snapshots are made: MemorySnapshots, and Jobs that fate ends in one way or another."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from tests.unit.operator.world import NAME, World, spec_of
from tests.unit.snapshot.manifests import manifest

from memorycluster.snapshot.alone import GONE
from memorycluster.snapshot.job import JobConfig
from memorycluster_operator.actions import (
    Action,
    CreateLog,
    Discard,
    Make,
    MakeLast,
    Plan,
    SetFinalizers,
    TellSnapshot,
)
from memorycluster_operator.identity import Identity
from memorycluster_operator.makings import (
    CONFIG_ANNOTATION,
    FORGET,
    KEEP,
    MAKING_LABEL,
    Asked,
    Making,
    Progress,
    asked_facts,
    making_facts,
)
from memorycluster_operator.snapshot import Component, Snapshot, Source

STORE: dict[str, Any] = {"s3": {"bucket": "b"}, "credentials": {"secretName": "keys"}}


@dataclass
class Job:
    """A Job, and what its pod has left."""

    manifest: dict[str, Any]
    pod: dict[str, Any] | None = None


def told_to(job: Job) -> JobConfig:
    """Return what a Job is told, as it understands it."""
    annotations = job.manifest["spec"]["template"]["metadata"]["annotations"]
    return JobConfig.model_validate_json(annotations[CONFIG_ANNOTATION], extra="forbid")


class SnapshotWorld(World):
    """One whose cluster has a store for snapshots."""

    def __init__(
        self,
        seed: int = 0,
        shards: int = 1,
        restore: dict[str, Any] | None = None,
        spec: dict[str, Any] | None = None,
        **snapshots: Any,
    ) -> None:
        more = {"restoreFrom": restore} if restore else {}
        fields = {"zones": ["zone-a"], "replicasPerShard": 0, **more, **(spec or {})}
        super().__init__(spec_of(shards=shards, **fields, snapshots={"store": STORE, **snapshots}), seed)
        self.jobs: dict[str, Job] = {}
        self.memorysnapshots: dict[str, dict[str, Any]] = {}
        self.seeds: dict[int, bytes] = {}
        """What each log that was made begins with."""
        self.source: Source | None = None
        self.readers: tuple[str, ...] = ()
        self.began = self.kubernetes.now
        self.discarded: list[str] = []
        self.progress: dict[str, Progress] = {}
        """What Jobs say, by name."""
        self.store: dict[str, str] = {}
        """Names of the snapshots that are in it, by place."""
        self.needed: set[str] = set()
        """Places of those that Jobs have left to retention, because the log needs them."""
        self.restored_from: frozenset[str] = frozenset()
        self.takers: tuple[str, ...] = ()
        self.committed, self.last_sequence, self.bytes = 0, 1, 0

    # ------------------------------------------------------------------ users and fate

    def ask(self, name: str, **spec: Any) -> None:
        """A user asks for a snapshot."""
        self._add(name, {}, **spec)

    def unask(self, name: str) -> None:
        """A user deletes a MemorySnapshot."""
        metadata = self.memorysnapshots[name]["metadata"]
        if metadata.get("finalizers"):
            metadata["deletionTimestamp"] = self.kubernetes.now.isoformat()
            metadata["resourceVersion"] = str(self.kubernetes.fresh())
        else:
            self._drop(name)

    def _drop(self, name: str) -> dict[str, Any]:
        """A MemorySnapshot goes, and its Jobs with it."""
        gone = self.memorysnapshots.pop(name)
        uid = gone["metadata"]["uid"]
        owned = [
            key
            for key, job in self.jobs.items()
            if any(each["uid"] == uid for each in job.manifest["metadata"]["ownerReferences"])
        ]
        for key in owned:
            del self.jobs[key]
        return gone

    def _add(self, name: str, annotations: dict[str, str], **spec: Any) -> None:
        self.memorysnapshots[name] = {
            "kind": "MemorySnapshot",
            "metadata": {
                "name": name,
                "uid": f"uid-{self.kubernetes.fresh()}",
                "resourceVersion": str(self.kubernetes.fresh()),
                "creationTimestamp": self.kubernetes.now.isoformat(),
                "generation": 1,
                "annotations": annotations,
            },
            "spec": {"cluster": NAME, **spec},
        }

    def end(self, job: Job, result: dict[str, Any] | None, *, failed: bool = False) -> None:
        """A Job ends; its pod says ``result``, or nothing at all."""
        now = self.kubernetes.now.isoformat()
        condition = {"type": "Failed" if failed else "Complete", "status": "True", "lastTransitionTime": now}
        job.manifest["status"] = {"conditions": [condition]}
        job.manifest["metadata"]["resourceVersion"] = str(self.kubernetes.fresh())
        if result is None:
            return
        ended = {"exitCode": int(failed), "reason": "Error", "message": json.dumps(result)}
        job.pod = {
            "kind": "Pod",
            "metadata": {
                "name": "pod",
                "uid": "pod",
                "ownerReferences": [
                    {"kind": "Job", "uid": job.manifest["metadata"]["uid"], "controller": True}
                ],
            },
            "status": {"containerStatuses": [{"name": "snapshot", "state": {"terminated": ended}}]},
        }

    def succeed(self, job: Job, **more: Any) -> None:
        """A Job has made, or deleted, what it should."""
        labels, told = job.manifest["metadata"]["labels"], told_to(job)
        if told.keep and told.keep.unwanted:
            for place, name in told.keep.unwanted.items():
                assert self.store.pop(place) == name
            more = {"unwanted": dict.fromkeys(told.keep.unwanted, GONE), **more}
        said = self.result(int(labels["memorycluster.io/shard"]), labels[MAKING_LABEL], **more)
        if told.make:
            self.store[said["made"]] = told.name
        self.end(job, said)

    def lose(self, job: Job, *, failed: bool = False) -> None:
        """A Job dies when what it has made is in the store, or is not heard."""
        labels, told = job.manifest["metadata"]["labels"], told_to(job)
        if told.make:
            said = self.result(int(labels["memorycluster.io/shard"]), labels[MAKING_LABEL])
            self.store[said["made"]] = told.name
        self.end(job, None, failed=failed)

    def result(self, shard: int, kind: str, **more: Any) -> dict[str, Any]:
        """Return what a Job says that has made a snapshot at the log's end."""
        made = manifest(
            max(self.last_sequence, 2), offset=self.committed, shard=shard, created_at=self.kubernetes.now
        ).model_dump(mode="json", by_alias=True)
        kept = {key: made[key] for key in ("name", "sequence", "offset", "size", "createdAt")}
        said = {"kept": [kept], "deleted": [], "waits": False, "trouble": "", **more}
        if kind in (KEEP, FORGET):
            return said
        generation = Identity.model_validate(self.status["identity"]).generations[shard]
        place = f"{NAME}/{shard}/{generation}/{made['sequence']:020}-{self.kubernetes.fresh():08x}"
        return {"made": place, "manifest": made, **said}

    def befall(self, job: Job, how: str) -> None:
        """Let a Job end, however that is."""
        match how:
            case "succeeds":
                self.succeed(job)
            case "waits":
                self.succeed(job, waits=True)
            case "fails":
                self.end(job, {"failed": "so it is"}, failed=True)
            case "dies":
                self.lose(job, failed=True)
            case "is lost":
                self.lose(job)
            case "vanishes":
                del self.jobs[job.manifest["metadata"]["name"]]
            case _:
                raise AssertionError(how)

    def open_jobs(self) -> list[Job]:
        """Return the Jobs that are not finished."""
        return [job for job in self.jobs.values() if "status" not in job.manifest]

    # ------------------------------------------------------------------ the operator

    def facts(self) -> tuple[tuple[Asked, ...], tuple[Making, ...]]:
        objects = [job.manifest for job in self.jobs.values()]
        objects += [job.pod for job in self.jobs.values() if job.pod]
        asked = tuple(map(asked_facts, self.memorysnapshots.values()))
        makings = making_facts(objects, [self.uid, *(each.uid for each in asked)])
        return asked, tuple(replace(each, progress=self.progress.get(each.name)) for each in makings)

    def snapshot(self) -> Snapshot:
        seen = super().snapshot()
        asked, makings = self.facts()
        log = {"firstSequence": 1, "lastSequence": self.last_sequence, "bytes": self.bytes}
        agents = {
            name: replace(report, committed=self.committed, log=log) for name, report in seen.agents.items()
        }
        cluster = replace(seen.cluster, created=self.began)
        return replace(
            seen,
            cluster=cluster,
            source=self.source,
            readers=self.readers,
            restored_from=self.restored_from,
            takers=self.takers,
            asked=asked,
            makings=makings,
            agents=agents,
        )

    def carry_out(self, action: Action) -> None:
        kubernetes = self.kubernetes
        match action:
            case Make():
                kind, name = action.key
                if kind == "MemorySnapshot":
                    self._expect(name not in self.memorysnapshots)
                    if isinstance(action, MakeLast):
                        assert not self.pods(Component.ENGINE), "nothing is written any more"
                    self._add(name, dict(action.manifest["metadata"]["annotations"]))
                    return
                self._expect(name not in self.jobs)
                metadata = {
                    **action.manifest["metadata"],
                    "uid": f"uid-{kubernetes.fresh()}",
                    "resourceVersion": str(kubernetes.fresh()),
                    "creationTimestamp": kubernetes.now.isoformat(),
                }
                self.jobs[name] = Job({**action.manifest, "kind": "Job", "metadata": metadata})
            case Discard():
                kind, name = action.key
                if kind == "Job":
                    job = self.jobs.get(name)
                    self._expect(job is not None)
                    assert job is not None
                    ended = "status" in job.manifest
                    assert ended or self.readers or self.restored_from, "a Job that runs is not ended"
                    self._expect(job.manifest["metadata"]["resourceVersion"] == action.resource_version)
                    del self.jobs[name]
                else:
                    gone = self.memorysnapshots.pop(name)
                    assert gone["metadata"]["annotations"], "what a user asked for stays"
                self.discarded.append(name)
            case SetFinalizers() if action.key.kind == "MemorySnapshot":
                metadata = self.memorysnapshots[action.key.name]["metadata"]
                self._expect(metadata["resourceVersion"] == action.resource_version)
                metadata["finalizers"] = list(action.finalizers)
                metadata["resourceVersion"] = str(kubernetes.fresh())
                if "deletionTimestamp" in metadata and not action.finalizers:
                    self._check_data(self._drop(action.key.name))
            case TellSnapshot():
                live = self.memorysnapshots[action.name]
                self._expect(live["metadata"]["resourceVersion"] == action.resource_version)
                live["status"] = dict(action.status)
                live["metadata"]["resourceVersion"] = str(kubernetes.fresh())
            case CreateLog():
                self.seeds[action.shard] = action.seed
                super().carry_out(action)
            case _:
                super().carry_out(action)

    def _check_data(self, gone: dict[str, Any]) -> None:
        """The data of a MemorySnapshot goes with it, or it is said that it stays."""
        name, told = gone["metadata"]["name"], gone.get("status") or {}
        said = [each["reason"] for each in told.get("conditions", []) if each["type"] == "DataDeleted"]
        if gone["spec"].get("deletionPolicy") == "Delete" and said != ["DataKept"]:
            left = [place for place, of in self.store.items() if of == name]
            assert set(left) <= self.needed, "its data is still there"

    def go_on(self, seconds: float = 5, passes: int = 6) -> Plan:
        """Let the operator work for a moment, in which no Job ends; return its last plan."""
        for _ in range(passes):
            plan = self.operate()
            self.check_jobs()
            self.kubernetes.now += timedelta(seconds=seconds)
        return plan

    def check_jobs(self) -> None:
        """No shard has two Jobs of a kind that run, and no cluster too many."""
        labels = [job.manifest["metadata"]["labels"] for job in self.open_jobs()]
        kinds = [(each["memorycluster.io/shard"], each[MAKING_LABEL]) for each in labels]
        assert len(kinds) == len(set(kinds)) <= 4

    def told(self, name: str) -> dict[str, Any]:
        """Return the status of a MemorySnapshot."""
        found: dict[str, Any] = self.memorysnapshots[name].get("status", {})
        return found

    def condition(self) -> dict[str, Any]:
        """Return what is said of the snapshots."""
        found: dict[str, Any] = next(
            each for each in self.status["conditions"] if each["type"] == "SnapshotsCurrent"
        )
        return found
