"""Applications: threads that use valkey-py and redis-py as anybody does, through the one Service name."""

from __future__ import annotations

import importlib
import random
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Any

from tests.faults.history import History, Operation, now
from tests.faults.operations import Action
from tests.faults.resp import Address
from tests.faults.workload import Shard, Write

WIDTH = 6
"""Keys that an application writes at a time."""
LIMIT = 300
"""Operations on one key."""
PATIENCE = {"socket_timeout": 5, "socket_connect_timeout": 2}
"""The rest are the libraries' defaults. Without these, connections to a node that has vanished hang long."""


class Application(threading.Thread):
    """One client object of a library, and what it was told.

    The libraries repeat commands by themselves, so it does only what may be done twice: it sets keys that
    nobody else writes to values that nobody else writes. After an error it leaves the keys it was writing.
    """

    def __init__(
        self,
        library: str,
        service: Address,
        *,
        depth: int,
        number: int,
        prefix: str,
        seed: int,
        history: History,
        shards: Sequence[Shard],
        pause: float = 0.05,
    ) -> None:
        """
        :param depth: commands of one pipeline at most; 1: none is pipelined.
        :param number: the client in the history.
        """
        name = f"{library}-py" + (", pipelined" if depth > 1 else "")
        super().__init__(name=name, daemon=True)
        self._library = importlib.import_module(library)
        self._service = service
        self._depth = depth
        self._number = number
        self._chance = random.Random(seed)
        self._history = history
        self._shards = shards
        self._pause = pause
        self._stem = f"{prefix}app{number}-"
        self._serials = count()
        self._values = count(1)
        self._uses: Counter[str] = Counter()
        self._keys = [self._new_key() for _ in range(WIDTH)]
        self._retired: list[str] = []
        self._stopping = threading.Event()
        self.others: Sequence[Application] = ()
        """Whose keys it reads."""
        self.writes: list[Write] = []
        self.errors: Counter[str] = Counter()
        self.last_error = ""
        self.failed: BaseException | None = None
        """What ended it early, and is no error of the library."""

    @property
    def keys(self) -> list[str]:
        """All keys that it has ever written."""
        return self._retired + self._keys

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            client = self._connect()
            while not self._stopping.is_set():
                self._try(client, [self._draw() for _ in range(self._chance.randint(1, self._depth))])
                self._stopping.wait(self._chance.expovariate(1 / self._pause))
            for key in self.keys:
                while not self._try(client, [self._read(key)]):
                    self._stopping.wait(0.2)
        except BaseException as error:
            self.failed = error
            raise

    @property
    def _known_errors(self) -> tuple[type[Exception], ...]:
        errors, name = self._library.exceptions, self._library.__name__.capitalize()
        return (getattr(errors, f"{name}Error"), getattr(errors, f"{name}ClusterException"), OSError)

    def _connect(self) -> Any:
        kind = getattr(self._library, f"{self._library.__name__.capitalize()}Cluster")
        while True:
            try:
                return kind(*self._service, decode_responses=True, **PATIENCE)
            except self._known_errors as error:
                self._note(error)
                if self._stopping.wait(0.2):
                    raise

    def _note(self, error: Exception) -> None:
        self.last_error = f"{type(error).__name__}: {error}"[:160]
        self.errors[self.last_error] += 1

    # ---- what it does

    def _new_key(self) -> str:
        serial = next(self._serials)
        shard = self._shards[serial % len(self._shards)]
        return f"{{{shard.tag}}}{self._stem}{serial}"

    def _retire(self, key: str) -> None:
        if key in self._keys:
            self._keys[self._keys.index(key)] = self._new_key()
            self._retired.append(key)

    def _draw(self) -> Action:
        if self._chance.random() < 0.4:
            return self._read(self._chance.choice(self._chance.choice((self, *self.others)).keys))
        key = self._chance.choice(self._keys)
        value = f"{self._number}.{next(self._values)}"
        return Action(key, "register", "set", (value,), (("SET", key, value),))

    def _read(self, key: str) -> Action:
        return Action(key, "register", "get", (), (("GET", key),), read=True)

    def _try(self, client: Any, actions: Sequence[Action]) -> bool:
        """Do actions in one pipeline, and record what came of them; return whether all succeeded."""
        called = now()
        try:
            replies = self._send(client, [action.commands[0] for action in actions])
        except self._known_errors as error:
            replies = [error] * len(actions)
        returned = now()
        for action, reply in zip(actions, replies, strict=True):
            known = not isinstance(reply, Exception)
            if isinstance(reply, Exception):
                self._note(reply)
            self._record(action, reply, known, called, returned)
        return not any(isinstance(reply, Exception) for reply in replies)

    def _send(self, client: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self._depth == 1 or len(commands) == 1:
            return [client.execute_command(*command) for command in commands]
        pipe = client.pipeline()
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = pipe.execute(raise_on_error=False)
        return replies

    def _record(self, action: Action, reply: Any, known: bool, called: int, returned: int) -> None:
        key = action.key
        self._uses[key] += 1
        self._history.record(
            Operation(
                key=key,
                model=action.model,
                op=action.op,
                args=action.args,
                result=reply if known and action.read else None,
                known=known,
                called=called,
                returned=returned,
                client=self._number,
                node=self.name,
            )
        )
        if action.read:
            return
        if known:
            shard = next(i for i, shard in enumerate(self._shards) if f"{{{shard.tag}}}" in key)
            self.writes.append(Write(shard, called, returned, f"{action.op} {key}"))
        if not known or self._uses[key] >= LIMIT:
            self._retire(key)
