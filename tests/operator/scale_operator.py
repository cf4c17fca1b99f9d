"""The operator for scale.py: its own process and code, but for the log services, which are not there.

As many NATS servers as the simulation would need do not fit on one machine. All else is real: watches, plans,
server-side apply, long polls to agents.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from uuid import UUID

from memorycluster_operator import __main__ as operator
from memorycluster_operator.cache import ClusterKey
from memorycluster_operator.logs import Target
from memorycluster_operator.snapshot import LogMember, LogReport, LogState, ShardLog

MADE = Path(os.environ["SCALE_MADE"])
"""Where the logs that were made are remembered, for the next operator."""


class NoLogs:
    """Log services in which all is well."""

    def __init__(self, wake: Callable[[ClusterKey], None]) -> None:
        self._wake = wake
        self._targets: dict[ClusterKey, Target] = {}
        self._made: dict[str, int] = json.loads(MADE.read_text()) if MADE.exists() else {}

    async def __aenter__(self) -> NoLogs:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        MADE.write_text(json.dumps(self._made))

    def watch(self, cluster: ClusterKey, target: Target | None) -> None:
        if target is None:
            self._targets.pop(cluster, None)
        else:
            self._targets[cluster] = target

    async def asked(self, cluster: ClusterKey) -> None:
        pass

    async def ask(self, cluster: ClusterKey) -> LogReport:
        return self.report(cluster)

    def report(self, cluster: ClusterKey) -> LogReport:
        target = self._targets.get(cluster)
        if target is None:
            return LogReport()
        members = tuple(LogMember(m.name, True, index == 0) for index, m in enumerate(target.members))
        shards = []
        for shard, (_, generation) in enumerate(target.streams):
            size = self._made.get(str(generation))
            if size is None:
                shards.append(ShardLog(shard, LogState.MISSING, "not made yet"))
            else:
                shards.append(
                    ShardLog(shard, LogState.INTACT, "", 1, 1000, 1 << 20, max_bytes=size, members=members)
                )
        return LogReport({m.name: "" for m in target.members}, tuple(shards), "")

    async def create(
        self, cluster: ClusterKey, shard: int, generation: UUID, *, max_bytes: int, seed: bytes = b""
    ) -> None:
        self._made[str(generation)] = max_bytes
        self._wake(cluster)

    async def step_down(self, cluster: ClusterKey, shard: int) -> None:
        raise NotImplementedError

    def suspect(self, cluster: ClusterKey, stream: str, member: str, sequence: int) -> None:
        raise NotImplementedError

    async def grow(self, cluster: ClusterKey, shard: int, *, max_bytes: int) -> None:
        raise NotImplementedError


if __name__ == "__main__":
    operator.Logs = NoLogs  # type: ignore[misc, assignment]
    operator.main()
