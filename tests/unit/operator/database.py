"""What runs in the pods, reduced to what the operator sees: engines with their agents, and the log."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from tests.unit.operator.kubernetes import Kubernetes, SimClaim, SimPod

from memorycluster_operator.objects.names import claim_name, member_name
from memorycluster_operator.snapshot import AgentReport, LogMember, LogReport, LogState, ShardLog

NEEDS_RESTART = "tcp-backlog"


@dataclass
class Engine:
    """One engine process with its agent, in the pod with this uid."""

    role: str = "starting"
    applied: int = 0
    revision: str = ""
    started_with: str | None = None
    """Its value of the parameter that is read at start."""
    pending: bool = False
    disguised: bool = False
    """It is frozen, but its agent has restarted and does not know it any more."""
    unreachable: bool = False
    """The operator can't reach its agent."""


@dataclass
class ShardData:
    """A shard's log as those who may read it see it, and who leads."""

    generation: UUID | None = None
    committed: int = 0
    epoch: int = 0
    leader: str = ""
    """The uid of the pod that leads; empty: nobody."""
    max_bytes: int = 0
    gone: bool = False
    """The log service has lost it, whatever the volumes hold."""


@dataclass
class Database:
    """Engines, agents and logs."""

    kubernetes: Kubernetes
    rng: random.Random
    shards: dict[int, ShardData]
    members: int
    engines: dict[str, Engine] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    """As the ConfigMap says them."""
    revision: str = ""

    def tick(self) -> None:
        """Members catch up, engines follow, somebody claims, somebody writes, kubelets look at readiness."""
        self._log()
        alive = {pod.uid for pod in self.kubernetes.pods.values() if self.works(pod)}
        self.engines = {uid: engine for uid, engine in self.engines.items() if uid in alive}
        for shard, data in self.shards.items():
            self._lead(shard, data)
        for pod in self.kubernetes.pods.values():
            if pod.shard is None:
                self.kubernetes.touch(pod, ready=self.works(pod) and self.current(pod.index))
            elif self.works(pod):
                self.kubernetes.touch(pod, ready=self.ready(pod))
            else:
                self.kubernetes.touch(pod, ready=False)

    def works(self, pod: SimPod) -> bool:
        """Whether what is in a pod runs."""
        machine = self.kubernetes.machines.get(pod.machine)
        return pod.running and machine is not None and machine.alive

    # ------------------------------------------------------------------ the log

    def claim(self, index: int) -> SimClaim | None:
        return self.kubernetes.claims.get(claim_name(self.kubernetes.cluster, index))

    def member_works(self, index: int) -> bool:
        pod = self.kubernetes.pods.get(member_name(self.kubernetes.cluster, index))
        return (
            pod is not None
            and self.works(pod)
            and "broken" not in pod.image
            and self.claim(index) is not None
        )

    def made(self) -> list[int]:
        return [shard for shard, data in self.shards.items() if data.generation is not None]

    def has(self, index: int, shard: int) -> bool:
        """Whether a member works, and has everything of a shard's log."""
        claim = self.claim(index)
        if claim is None or not self.member_works(index):
            return False
        return claim.copies.get(shard, -1) >= self.shards[shard].committed

    def current(self, index: int) -> bool:
        return self.member_works(index) and all(self.has(index, shard) for shard in self.made())

    def quorum(self, shard: int) -> bool:
        data = self.shards[shard]
        if data.generation is None or data.gone:
            return False
        return sum(self.has(index, shard) for index in range(self.members)) > self.members // 2

    def _log(self) -> None:
        for shard in self.made():
            working = [index for index in range(self.members) if self.member_works(index)]
            if self.shards[shard].gone or len(working) <= self.members // 2:
                continue
            if not any(self.has(index, shard) for index in working):
                continue
            for index in working:
                claim = self.claim(index)
                if claim is not None and self.rng.random() < 0.7:
                    claim.copies[shard] = self.shards[shard].committed

    def create(self, shard: int, generation: UUID, max_bytes: int) -> None:
        data = self.shards[shard]
        working = [index for index in range(self.members) if self.member_works(index)]
        assert data.generation in (None, generation), "a log is made once, and never anew"
        assert not data.gone, "a log that was made and is gone is never made again"
        if data.generation is None and len(working) == self.members:
            data.generation, data.max_bytes = generation, max_bytes
            for index in working:
                claim = self.claim(index)
                assert claim is not None
                claim.copies[shard] = 0

    def log_report(self, generations: list[UUID] | None) -> LogReport:
        """Return what an operator that knows ``generations`` finds."""
        working = [index for index in range(self.members) if self.member_works(index)]
        names = [member_name(self.kubernetes.cluster, index) for index in range(self.members)]
        servers = {name: "" if index in working else "does not answer" for index, name in enumerate(names)}
        if generations is None:
            return LogReport(servers=servers)
        return LogReport(
            servers, tuple(self._shard_log(shard, generations[shard], working) for shard in self.shards)
        )

    def _shard_log(self, shard: int, generation: UUID, working: list[int]) -> ShardLog:
        data = self.shards[shard]
        if len(working) <= self.members // 2:
            return ShardLog(shard, LogState.UNKNOWN, "no quorum")
        if data.generation is None or data.gone:
            return ShardLog(shard, LogState.MISSING)
        if not self.quorum(shard):
            return ShardLog(shard, LogState.UNKNOWN, "no quorum")
        if data.generation != generation:
            return ShardLog(shard, LogState.UNFIT, "is of another generation")
        first = next(index for index in working if self.has(index, shard))
        members = tuple(
            LogMember(
                member_name(self.kubernetes.cluster, index), self.has(index, shard), leader=index == first
            )
            for index in range(self.members)
        )
        return ShardLog(
            shard,
            LogState.INTACT,
            first_sequence=1,
            last_sequence=data.committed,
            bytes=data.committed,
            max_bytes=data.max_bytes,
            members=members,
        )

    # ------------------------------------------------------------------ engines

    def pods(self, shard: int) -> list[SimPod]:
        return [pod for pod in self.kubernetes.pods.values() if pod.shard == shard]

    def ready(self, pod: SimPod) -> bool:
        engine = self.engines.get(pod.uid)
        assert pod.shard is not None
        data = self.shards[pod.shard]
        if engine is None or "broken" in pod.image:
            return False
        if engine.role == "leader":
            return self.quorum(pod.shard)
        return engine.role == "follower" and engine.applied >= data.committed - 5

    def _lead(self, shard: int, data: ShardData) -> None:
        working = [pod for pod in self.pods(shard) if self.works(pod)]
        readable = self.quorum(shard)
        for pod in working:
            engine = self.engines.setdefault(pod.uid, Engine())
            if engine.role == "frozen" or "broken" in pod.image:
                continue
            if engine.role == "starting" and self.rng.random() < 0.7:
                engine.role = "follower"
                engine.started_with = self.parameters.get(NEEDS_RESTART)
                engine.revision, engine.pending = self.revision, False
            if engine.role == "follower" and readable:
                up = self.rng.random() < 0.8
                kept_up = engine.applied >= data.committed - 4
                engine.applied = (
                    data.committed if up else max(engine.applied, data.committed - 2 if kept_up else 0)
                )
        leading = next(
            (pod for pod in working if pod.uid == data.leader and self.engines[pod.uid].role == "leader"),
            None,
        )
        if leading is not None and leading.terminating:  # SIGTERM: leadership is given away first
            self.engines[leading.uid].role, leading = "starting", None
        if leading is None and readable:
            able = [
                pod
                for pod in working
                if not pod.terminating
                and self.engines[pod.uid].role == "follower"
                and self.engines[pod.uid].applied == data.committed
                and "broken" not in pod.image
            ]
            if able and self.rng.random() < 0.7:
                leading = self.rng.choice(able)
                self._claimed(data, leading)
        if leading is not None and readable:
            data.committed += self.rng.randrange(3)
            self.engines[leading.uid].applied = data.committed
            for index in range(self.members):
                claim = self.claim(index)
                if claim is not None and self.has_almost(index, shard):
                    claim.copies[shard] = data.committed

    def has_almost(self, index: int, shard: int) -> bool:
        """Whether a member was current before the newest writes."""
        claim = self.claim(index)
        return (
            self.member_works(index)
            and claim is not None
            and claim.copies.get(shard, -1) >= (self.shards[shard].committed - 2)
        )

    def _claimed(self, data: ShardData, pod: SimPod) -> None:
        old = self.engines.get(data.leader)
        if old is not None and old.role == "leader":
            old.role = "starting"
        data.leader, data.epoch = pod.uid, data.epoch + 1
        self.engines[pod.uid].role = "leader"

    def fail_over(self, shard: int, pod_uid: str, epoch: int, successor: str) -> None:
        """Planned failover, as the primary's agent does it."""
        data = self.shards[shard]
        if data.leader != pod_uid or data.epoch != epoch or not self.quorum(shard):
            return
        pod = self.kubernetes.pods.get(successor)
        if pod is None or not self.works(pod) or not self.ready(pod):
            return  # nobody takes over: the leader's agent would claim again
        self.engines[pod.uid].applied = data.committed
        self._claimed(data, pod)

    def set_parameters(self, pod_uid: str, revision: str, parameters: Mapping[str, str]) -> None:
        engine = self.engines.get(pod_uid)
        if engine is not None:
            engine.revision = revision
            engine.pending = parameters.get(NEEDS_RESTART) != engine.started_with

    def report(self, pod: SimPod) -> AgentReport | None:
        engine = self.engines.get(pod.uid)
        if engine is None or engine.unreachable or not self.works(pod):
            return None
        assert pod.shard is not None
        data = self.shards[pod.shard]
        has_engine = engine.role in ("leader", "follower")
        return AgentReport(
            node=pod.name,
            pod_uid=pod.uid,
            role="follower" if engine.disguised else engine.role,
            phase="inheriting" if engine.disguised else {"leader": "leading"}.get(engine.role, "following"),
            epoch=data.epoch,
            committed=data.committed,
            applied=engine.applied,
            lag=data.committed - engine.applied,
            serving=engine.role == "leader" and self.quorum(pod.shard),
            ready=self.ready(pod),
            engine_version="9.1.2" if has_engine else "",
            parameters_revision=engine.revision,
            parameters_applied=has_engine and not engine.pending,
            parameters_pending=(NEEDS_RESTART,) if has_engine and engine.pending else (),
        )
