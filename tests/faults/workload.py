"""The workload: clients that read and write while faults happen, with every outcome recorded."""

from __future__ import annotations

import asyncio
import contextlib
import random
from binascii import crc_hqx
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from typing import NamedTuple

from tests.faults.history import History, Operation, now
from tests.faults.operations import NO_NEWS, Action, Outcome, Repertoire, Unexpected, outcome
from tests.faults.resp import LOST, Address, Command, Connection, NotSent

SLOTS = 16384

HUNTING = 200
"""Questions to one node that may wait for an answer."""


def slot(key: str) -> int:
    """Return the cluster slot of a key."""
    start = key.find("{")
    end = key.find("}", start + 1)
    if start >= 0 and end > start + 1:
        key = key[start + 1 : end]
    return crc_hqx(key.encode(), 0) % SLOTS


@dataclass(slots=True)
class Shard:
    """A shard as clients see it: its slots, its nodes, and which of them is taken for the primary."""

    first: int
    last: int
    nodes: list[Address]
    primary: Address
    tag: str = ""
    """A hash tag in this shard's slots."""

    def __post_init__(self) -> None:
        tags = (f"shard{self.first}-{n}" for n in count())
        self.tag = next(tag for tag in tags if self.first <= slot(tag) <= self.last)


class Router:
    """Finds primaries as cluster clients do: by MOVED, and by asking another node when one is of no use."""

    def __init__(self, shards: Sequence[Shard], chance: random.Random) -> None:
        self.shards = list(shards)
        self._chance = chance

    def shard(self, key: str) -> Shard:
        place = slot(key)
        return next(shard for shard in self.shards if shard.first <= place <= shard.last)

    def refused(self, shard: Shard, by: Address, refusal: str) -> None:
        """Choose whom to take for the primary next, after `by` has refused."""
        if refusal.startswith("MOVED "):
            host, _, port = refusal.split(" ")[2].rpartition(":")
            target = (host or by[0], int(port))
            if target in shard.nodes:
                shard.primary = target
                return
        self.unreachable(shard, by)

    def unreachable(self, shard: Shard, by: Address) -> None:
        if shard.primary == by:
            shard.primary = self._chance.choice(shard.nodes)


@dataclass(slots=True)
class Served:
    """A write that one node accepted as primary: when, and in which epoch."""

    shard: int
    node: Address
    called: int
    returned: int
    epoch: int | None


class Write(NamedTuple):
    """An acknowledged write."""

    shard: int
    called: int
    returned: int
    what: str


@dataclass(slots=True)
class Tally:
    """What happened, beside the history."""

    writes: list[Write] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    """By the first word of the error."""
    samples: dict[str, str] = field(default_factory=dict)
    """One whole message for each of them."""
    refused_at: list[tuple[int, str]] = field(default_factory=list)
    """(time, code) of each refusal."""
    doubts: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)

    def note(self, action: Action, what: Outcome, write: Write) -> None:
        at = write.returned
        if what.done:
            if not action.read and action.changed(what.result):
                self.writes.append(write)
        elif what.refusal:
            code = what.refusal.split(" ", 1)[0]
            self.refusals[code] += 1
            self.samples.setdefault(code, what.refusal)
            self.refused_at.append((at, code))
        else:
            self.doubts[what.doubt.split(" ", 1)[0]] += 1

    def longest_pause(self, since: int, until: int) -> float:
        """Return the longest time, in seconds, in which no write was acknowledged between two moments."""
        times = sorted(write.returned for write in self.writes if since <= write.returned <= until)
        edges = [since, *times, until]
        return max(b - a for a, b in pairwise(edges)) / 1e9


class Workload:
    """Clients of one cluster. `run()` them, make faults, `finish()`, then judge the history."""

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        seed: int,
        prefix: str = "",
        clients: int = 6,
        pipelines: int = 2,
        depth: int = 8,
        pause: float = 0.008,
        patience: Sequence[float] = (1.0, 3.0, 12.0),
    ) -> None:
        """
        :param prefix: stands in every key's name, so that runs on one cluster don't meet.
        :param clients: how many send one operation at a time.
        :param pipelines: how many send up to `depth` operations at a time.
        :param pause: mean seconds between a client's operations.
        :param patience: seconds until a client gives up on an answer; drawn anew for each operation.
        """
        self.chance = random.Random(seed)
        self.router = Router(shards, self.chance)
        self.repertoire = Repertoire(self.chance, prefix)
        self.prefix = prefix
        self.history = History()
        self.tally = Tally()
        self.unreachable: dict[str, str] = {}
        """Why each node could not be reached the last time that it could not be."""
        self.pause = pause
        self.patience = patience
        self._sizes = [1] * clients + [depth] * pipelines
        self._numbers = count()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    # ---- running

    def start(self) -> None:
        """Start clients, a reader and a probe of every node."""
        for size in self._sizes:
            self._tasks.append(asyncio.create_task(self._client(next(self._numbers), size)))
        self._tasks.append(asyncio.create_task(self._watcher(next(self._numbers))))
        self._tasks.append(asyncio.create_task(self._waiter(next(self._numbers))))
        for index, shard in enumerate(self.router.shards):
            for node in shard.nodes:
                self._tasks.append(asyncio.create_task(self._reader(next(self._numbers), shard, node)))
                self._tasks.append(asyncio.create_task(self._probe(next(self._numbers), index, node)))
                self._tasks.append(asyncio.create_task(self._hunt(next(self._numbers), shard, node)))

    async def finish(self, *, seconds: float = 30) -> None:
        """Stop the clients, then read every key from its primary.

        :raises TimeoutError: if some key can't be read for `seconds`.
        """
        self._stopping.set()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        client = next(self._numbers)
        connections: dict[Address, Connection] = {}
        pending = self.repertoire.final_reads() + [
            self._probe_read(index) for index in range(len(self.router.shards)) if self._probed(index)
        ]
        try:
            async with asyncio.timeout(seconds):
                for action in pending:
                    await self._until_served(client, connections, action)
        except TimeoutError as error:
            message = f"{action.key} could not be read for {seconds} s: {self.tally.samples}"
            raise TimeoutError(message) from error
        finally:
            for connection in connections.values():
                connection.close()

    def unserved(self, since: int) -> set[int]:
        """Return the shards that have acknowledged no write that was sent after a moment."""
        served = {write.shard for write in self.tally.writes if write.called > since}
        return set(range(len(self.router.shards))) - served

    async def compare_replicas(self, *, seconds: float) -> list[str]:
        """Read every key from every node, until all show the same; call it once nobody writes any more.

        Returns what still differs after `seconds`.
        """
        problems: list[str] = []
        for shard in self.router.shards:
            actions = [a for a in self.repertoire.final_reads() if self.router.shard(a.key) is shard]
            reads = [self.repertoire.read_bundle(a.key, 0.5) if a.model == "bundle" else a for a in actions]
            commands = [command for action in reads for command in action.commands]
            differing = ["nothing was read"]
            try:
                async with asyncio.timeout(seconds):
                    while differing := await self._differing(shard, commands):
                        await asyncio.sleep(0.1)
            except TimeoutError:
                problems += [f"after {seconds} s: {line}" for line in differing[:3]]
        return problems

    async def _differing(self, shard: Shard, commands: Sequence[Command]) -> list[str]:
        replies: list[list[object]] = []
        for node in shard.nodes:
            try:
                connection = await Connection.open(node)
            except NotSent as error:
                return [str(error)]
            answers = await connection.call([("READONLY",), *commands], seconds=10)
            connection.close()
            replies.append([answer.value for answer in answers[1:]])
        different = []
        for command, *values in zip(commands, *replies, strict=True):
            if any(isinstance(v, Exception) or v is LOST or str(v) != str(values[0]) for v in values):
                each = zip(shard.nodes, values, strict=True)
                shown = ", ".join(f"{node[1]} shows {str(v)[-200:]}" for node, v in each)
                different.append(f"{command}: {shown}")
        return different

    async def _until_served(
        self, client: int, connections: dict[Address, Connection], action: Action
    ) -> None:
        while True:
            if await self._attempt(client, connections, [action], patience=5.0):
                return
            await asyncio.sleep(0.05)

    async def _client(self, client: int, size: int) -> None:
        connections: dict[Address, Connection] = {}
        while not self._stopping.is_set():
            actions = self._same_shard(self.chance.randint(1, size))
            served = await self._attempt(
                client, connections, actions, patience=self.chance.choice(self.patience)
            )
            await asyncio.sleep(self.chance.expovariate(1 / self.pause) if served else 0.05)
        for connection in connections.values():
            connection.close()

    def _same_shard(self, size: int) -> list[Action]:
        actions = [self.repertoire.draw()]
        shard = self.router.shard(actions[0].key)
        for _ in range(size - 1):
            action = self.repertoire.draw()
            if self.router.shard(action.key) is shard:
                actions.append(action)
        return actions

    async def _attempt(
        self, client: int, connections: dict[Address, Connection], actions: list[Action], *, patience: float
    ) -> bool:
        """Send actions, which all belong to one shard, to its primary, and record what came of them."""
        shard = self.router.shard(actions[0].key)
        node = shard.primary
        try:
            connection = await self._connected(connections, node)
            outcomes = await self._send(client, connection, actions, patience=patience)
        except NotSent as error:
            self.unreachable[node[0]] = str(error)
            self.router.unreachable(shard, node)
            return False
        return self._learn(shard, node, outcomes)

    async def _connected(self, connections: dict[Address, Connection], node: Address) -> Connection:
        if node not in connections or not connections[node].open_now:
            connections[node] = await Connection.open(node)
        return connections[node]

    def _learn(self, shard: Shard, node: Address, outcomes: Sequence[Outcome]) -> bool:
        """Look elsewhere for the primary if it is not this one; return whether it served all."""
        refusals = [what.refusal for what in outcomes if what.refusal]
        if refusals:
            self.router.refused(shard, node, refusals[-1])
        elif any(what.doubt for what in outcomes):
            self.router.unreachable(shard, node)
        return all(what.done for what in outcomes)

    async def _send(
        self,
        client: int,
        connection: Connection,
        actions: Sequence[Action],
        *,
        patience: float,
        replica: bool = False,
        aside: bool = False,
    ) -> list[Outcome]:
        """Send actions and record what came of them; `aside`: as no client that looks for the primary."""
        commands = [command for action in actions for command in action.commands]
        called = now()
        answers = await connection.call(commands, seconds=patience)
        index = self.router.shards.index(self.router.shard(actions[0].key))
        outcomes: list[Outcome] = []
        for action in actions:
            mine, answers = answers[: len(action.commands)], answers[len(action.commands) :]
            try:
                what = outcome(action, mine)
            except Unexpected as error:
                self.tally.unexpected.append(f"{connection.address}: {error}")
                what = Outcome(doubt="unexpected error")
            outcomes.append(what)
            if not aside:
                self.tally.note(
                    action,
                    what,
                    Write(index, called, mine[-1].at, f"{action.op} {action.key} -> {what.result}"),
                )
            if what.refusal or what.result is NO_NEWS:
                continue
            self.history.record(
                Operation(
                    key=action.key,
                    model=action.model,
                    op=action.op,
                    args=action.args,
                    result=what.result,
                    known=what.done,
                    called=called,
                    returned=mine[-1].at,
                    client=client,
                    node=f"{connection.address[0]}:{connection.address[1]}",
                    replica=replica,
                )
            )
        return outcomes

    # ---- what takes more than one round trip, or waits

    async def _watcher(self, client: int) -> None:
        """Compare and set by WATCH."""
        connections: dict[Address, Connection] = {}
        while not self._stopping.is_set():
            await asyncio.sleep(self.chance.expovariate(1 / (self.pause * 2)))
            key = self.repertoire.keys["swap"].pick(self.chance)
            read = self.repertoire.swap(key, 1.0)
            watch = replace(read, commands=(("WATCH", key), *read.commands))
            shard = self.router.shard(key)
            node = shard.primary
            try:
                connection = await self._connected(connections, node)  # one for both: it holds the watch
                outcomes = await self._send(client, connection, [watch], patience=1.0)
                if self._learn(shard, node, outcomes):
                    outcomes = await self._send(
                        client, connection, [self.repertoire.swap_watched(key)], patience=3.0
                    )
                    self._learn(shard, node, outcomes)
            except NotSent:
                self.router.unreachable(shard, node)
        for connection in connections.values():
            connection.close()

    async def _waiter(self, client: int) -> None:
        """Pop from lists by BLPOP."""
        connections: dict[Address, Connection] = {}
        while not self._stopping.is_set():
            await asyncio.sleep(self.chance.expovariate(1 / (self.pause * 8)))
            action = self.repertoire.blocking_pop(self.repertoire.keys["list"].pick(self.chance))
            await self._attempt(client, connections, [action], patience=2.0)
        for connection in connections.values():
            connection.close()

    # ---- every node, all the time

    async def _reader(self, client: int, shard: Shard, node: Address) -> None:
        """Read from one node with READONLY, whatever its role."""
        connection: Connection | None = None
        while not self._stopping.is_set():
            await asyncio.sleep(self.chance.expovariate(1 / (self.pause * 4)))
            action = self.repertoire.replica_read()
            if self.router.shard(action.key) is not shard:
                continue
            try:
                if connection is None or not connection.open_now:
                    connection = await Connection.open(node)
                    await connection.call([("READONLY",)], seconds=1.0)
                await self._send(client, connection, [action], patience=2.0, replica=True, aside=True)
            except NotSent:
                await asyncio.sleep(0.1)
        if connection is not None:
            connection.close()

    async def _hunt(self, client: int, shard: Shard, node: Address) -> None:
        """Ask one node to read as primary, again and again without waiting for its answers.

        So there are always fresh questions in the socket of a node that was paused; should it wake and answer
        them without a lease, the answers are stale.
        """
        connection: Connection | None = None
        asking: set[asyncio.Task[None]] = set()

        async def ask(connection: Connection, action: Action) -> None:
            with contextlib.suppress(NotSent):
                await self._send(client, connection, [action], patience=30.0, aside=True)

        while not self._stopping.is_set():
            await asyncio.sleep(0.05)
            asking = {task for task in asking if not task.done()}
            if len(asking) >= HUNTING:
                continue
            kind = self.chance.choice(("string", "count"))
            key = self.repertoire.keys[kind].pick(self.chance)
            if self.router.shard(key) is not shard:
                continue
            action: Action = getattr(self.repertoire, kind)(key, 1.0)
            try:
                if connection is None or not connection.open_now:
                    connection = await Connection.open(node, seconds=0.3)
                asking.add(asyncio.create_task(ask(connection, action)))
            except NotSent:
                await asyncio.sleep(0.1)
        if connection is not None:
            connection.close()
        await asyncio.gather(*asking, return_exceptions=True)

    def _probe_key(self, index: int) -> str:
        return f"{{{self.router.shards[index].tag}}}{self.prefix}probe"

    def _probe_read(self, index: int) -> Action:
        return self.repertoire.count(self._probe_key(index), 1.0)

    def _probed(self, index: int) -> bool:
        return self._probe_key(index) in self.history.by_key

    async def _probe(self, client: int, index: int, node: Address) -> None:
        """Ask one node, again and again, to write and to read as primary, and of which epoch it is.

        Two nodes that serve at a time would give one number twice, or show an old one.
        """
        connection: Connection | None = None
        key = self._probe_key(index)
        info = Action("", "", "", (), (("INFO", "txlog"),), read=True)
        while not self._stopping.is_set():
            await asyncio.sleep(0.06)
            kind = self.repertoire.count
            actions = [kind(key, self.chance.choice((0.1, 0.1, 1.0)))]
            try:
                if connection is None or not connection.open_now:
                    connection = await Connection.open(node, seconds=0.3)
                before = await connection.call(info.commands, seconds=1.0)
                called = now()
                what = (await self._send(client, connection, actions, patience=3.0, aside=True))[0]
                returned = now()
                if what.done and not actions[0].read:
                    after = await connection.call(info.commands, seconds=1.0)
                    epochs = {_epoch(before[0].value), _epoch(after[0].value)}
                    epoch = epochs.pop() if len(epochs) == 1 else None
                    self.tally.served.append(Served(index, node, called, returned, epoch))
            except NotSent:
                await asyncio.sleep(0.1)
        if connection is not None:
            connection.close()


def _epoch(info: object) -> int | None:
    if isinstance(info, str):
        for line in info.splitlines():
            name, _, value = line.partition(":")
            if name in {"txlog_epoch", "epoch"}:
                return int(value)
    return None


def two_primaries(served: Iterable[Served]) -> list[str]:
    """Return what shows that more than one node served at a time; empty if nothing does."""
    problems: list[str] = []
    by_shard: dict[int, list[Served]] = defaultdict(list)
    for one in served:
        if one.epoch is not None:
            by_shard[one.shard].append(one)
    for shard, ones in by_shard.items():
        leaders: dict[int, Address] = {}
        for one in ones:
            assert one.epoch is not None
            if leaders.setdefault(one.epoch, one.node) != one.node:
                problems.append(
                    f"shard {shard}: both {leaders[one.epoch]} and {one.node} served in epoch {one.epoch}"
                )
        ended = sorted(ones, key=lambda one: one.returned)
        newest, following = 0, iter(ended)
        head = next(following, None)
        for one in sorted(ones, key=lambda one: one.called):
            while head is not None and head.returned < one.called:
                newest = max(newest, head.epoch or 0)
                head = next(following, None)
            if one.epoch is not None and one.epoch < newest:
                problems.append(
                    f"shard {shard}: {one.node} served in epoch {one.epoch} after {newest} had served"
                )
    return problems
