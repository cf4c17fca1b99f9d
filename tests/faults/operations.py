"""What the clients of the workload do: operations on keys of several kinds, each of which a model judges."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tests.faults.resp import LOST, Answer, Command

SET = "return redis.call('SET', KEYS[1], ARGV[1])"
INCR = "return redis.call('INCR', KEYS[1])"
COMPARE_AND_SET = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1"""
WRITE_BUNDLE = """
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[1])
return redis.call('INCR', KEYS[3])"""
READ_BUNDLE = "return redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])"

REFUSALS = frozenset(
    ["MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "TXLOGFULL", "READONLY", "MASTERDOWN", "UNBLOCKED"]
)
"""Codes of errors by which a server says that it has not run a command."""


@dataclass(frozen=True, slots=True)
class Action:
    """An operation of the history, and the commands that do it."""

    key: str
    model: str
    op: str
    args: tuple[str, ...]
    commands: tuple[Command, ...]
    result: Callable[[Any], Any] = lambda reply: reply
    """From the last command's reply to what the checker reads."""
    read: bool = False

    def changed(self, result: Any) -> bool:
        """Whether this write, having given `result`, has changed something; if not, it is a mere read."""
        return result is not NO_NEWS and (self.op not in {"pop", "del", "cas"} or bool(result))


NO_NEWS = object()
"""The result of an operation that did nothing and tells nothing."""


class Unexpected(Exception):
    """A reply that no correct server gives here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action: done with a result, refused (not applied), or unknown."""

    done: bool = False
    result: Any = None
    refusal: str = ""
    """The error by which it was refused."""
    doubt: str = ""
    """Why the outcome is unknown."""


def outcome(action: Action, answers: Sequence[Answer]) -> Outcome:
    """Return what the answers to the action's commands say.

    :raises Unexpected: if they are none that a correct server gives.
    """
    replies = [answer.value for answer in answers]
    last = replies[-1]
    if last is LOST:
        return Outcome(doubt="no answer")
    if not isinstance(last, Exception):
        if isinstance(last, list) and (wrong := [item for item in last if isinstance(item, Exception)]):
            raise Unexpected(f"{action.commands} -> {wrong[0]}")
        return Outcome(done=True, result=action.result(last))
    message = str(last)
    code = message.split(" ", 1)[0]
    if code == "EXECABORT":  # the reason was given for a queued command, or stands behind the code
        reasons = [str(reply) for reply in replies[:-1] if isinstance(reply, Exception)]
        return Outcome(refusal=reasons[0] if reasons else message)
    half_done = " script: " in message  # a script that stops in the middle leaves what it has done
    if code in REFUSALS and not half_done:
        return Outcome(refusal=message)
    if code == "UNCERTAIN":
        return Outcome(doubt=message)
    raise Unexpected(f"{action.commands} -> {message}")


def pairs(reply: Sequence[str]) -> dict[str, str]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def number(reply: str | None) -> int:
    return int(reply or 0)


def reading(reply: Sequence[str | None]) -> list[Any]:
    a, b, n = reply
    return [a, b, int(n or 0)]


def entries(reply: Sequence[Any]) -> list[list[str]]:
    return [[entry_id, fields[1]] for entry_id, fields in reply]


def affirmed(reply: Any) -> None:
    if reply != "OK":
        raise Unexpected(f"SET -> {reply!r}")


def last_of_bundle(reply: Sequence[Any]) -> Any:
    return reply[2]


@dataclass(slots=True)
class Keys:
    """The keys of one kind: a few are in use, each for a limited number of operations, then only read."""

    kind: str
    prefix: str
    width: int = 3
    limit: int = 400
    tags: Sequence[str] = ()
    """Hash tags to draw from; empty: the key's own name is the tag."""
    retired: list[str] = field(default_factory=list)
    _uses: dict[str, int] = field(default_factory=dict)
    _names: count[int] = field(default_factory=count)

    def pick(self, chance: random.Random) -> str:
        """Return a key to operate on, and count the use."""
        while len(self._uses) < self.width:
            serial = next(self._names)
            tag = self.tags[serial % len(self.tags)] if self.tags else f"{self.prefix}{self.kind}{serial}"
            self._uses[f"{{{tag}}}{self.prefix}{self.kind}{serial}"] = 0
        key = chance.choice(list(self._uses))
        self._uses[key] += 1
        if self._uses[key] >= self.limit:
            del self._uses[key]
            self.retired.append(key)
        return key

    @property
    def all(self) -> list[str]:
        return [*self.retired, *self._uses]


class Repertoire:
    """Draws random actions, with values that nobody else writes."""

    def __init__(self, chance: random.Random, prefix: str, **keys: Any) -> None:
        self.chance = chance
        kinds = ("string", "swap", "count", "list", "hash", "zset", "stream", "bundle")
        self.keys = {kind: Keys(kind, prefix, **keys) for kind in kinds}
        self._values = count(1)
        self._last_seen: dict[str, str] = {}

    def value(self) -> str:
        return str(next(self._values))

    def draw(self) -> Action:
        """Return a random action on a random key."""
        kind = self.chance.choice(list(self.keys))
        key = self.keys[kind].pick(self.chance)
        action: Action = getattr(self, kind)(key, self.chance.random())
        return action

    def final_reads(self) -> list[Action]:
        """Return an action for each key that reads all of it."""
        return [getattr(self, kind)(key, 1.0) for kind, keys in self.keys.items() for key in keys.all]

    def replica_read(self) -> Action:
        """Return a read of a kind whose order can be judged on a replica."""
        kind = self.chance.choice(("stream", "count", "bundle", "string"))
        key = self.chance.choice(self.keys[kind].all or [self.keys[kind].pick(self.chance)])
        if kind == "bundle":
            return self.read_bundle(key, 0.5)
        action: Action = getattr(self, kind)(key, 1.0)
        return action

    # Each kind: below a threshold of `dice` it writes, at 1.0 it reads all that there is.

    def string(self, key: str, dice: float) -> Action:
        if dice < 0.5:
            value = self.value()
            command: Command = ("SET", key, value) if dice < 0.35 else ("EVAL", SET, 1, key, value)
            return Action(key, "register", "set", (value,), (command,), affirmed)
        return Action(key, "register", "get", (), (("GET", key),), read=True)

    def swap(self, key: str, dice: float) -> Action:
        def seen(reply: str | None) -> str | None:
            self._last_seen[key] = reply or ""
            return reply

        if dice < 0.5:
            old, new = self._last_seen.get(key, ""), self.value()
            script: Command = ("EVAL", COMPARE_AND_SET, 1, key, old, new)
            return Action(key, "register", "cas", (old, new), (script,), bool)
        return Action(key, "register", "get", (), (("GET", key),), seen, read=True)

    def swap_watched(self, key: str) -> Action:
        """Return what follows WATCH and GET: set it, if nobody has set it since."""
        old, new = self._last_seen.get(key, ""), self.value()
        block: tuple[Command, ...] = (("MULTI",), ("SET", key, new), ("EXEC",))

        def swapped(reply: Any) -> Any:
            return NO_NEWS if reply is None else reply == ["OK"]

        return Action(key, "register", "cas", (old, new), block, swapped)

    def blocking_pop(self, key: str) -> Action:
        """Return a pop that waits for an element."""

        def popped(reply: Any) -> Any:
            return NO_NEWS if reply is None else reply[1]

        return Action(key, "list", "pop", (), (("BLPOP", key, "0.3"),), popped)

    def count(self, key: str, dice: float) -> Action:
        if dice < 0.5:
            command: Command = ("INCR", key) if dice < 0.35 else ("EVAL", INCR, 1, key)
            return Action(key, "counter", "incr", (), (command,))
        return Action(key, "counter", "get", (), (("GET", key),), number, read=True)

    def list(self, key: str, dice: float) -> Action:
        if dice < 0.5:
            value = self.value()
            return Action(key, "list", "push", (value,), (("RPUSH", key, value),))
        if dice < 0.65:
            return Action(key, "list", "pop", (), (("LPOP", key),))
        if dice < 0.8:
            return Action(key, "list", "len", (), (("LLEN", key),), read=True)
        return Action(key, "list", "read", (), (("LRANGE", key, 0, -1),), read=True)

    def hash(self, key: str, dice: float) -> Action:
        name = self.chance.choice("abc")
        if dice < 0.4:
            value = self.value()
            return Action(key, "map", "set", (name, value), (("HSET", key, name, value),))
        if dice < 0.5:
            return Action(key, "map", "del", (name,), (("HDEL", key, name),))
        if dice < 0.8:
            return Action(key, "map", "get", (name,), (("HGET", key, name),), read=True)
        return Action(key, "map", "read", (), (("HGETALL", key),), pairs, read=True)

    def zset(self, key: str, dice: float) -> Action:
        name = self.chance.choice("abc")
        if dice < 0.4:
            value = self.value()
            return Action(key, "map", "set", (name, value), (("ZADD", key, value, name),))
        if dice < 0.5:
            return Action(key, "map", "del", (name,), (("ZREM", key, name),))
        if dice < 0.8:
            return Action(key, "map", "get", (name,), (("ZSCORE", key, name),), read=True)
        return Action(key, "map", "read", (), (("ZRANGE", key, 0, -1, "WITHSCORES"),), pairs, read=True)

    def stream(self, key: str, dice: float) -> Action:
        if dice < 0.5:
            value = self.value()
            return Action(key, "stream", "push", (value,), (("XADD", key, "*", "v", value),))
        if dice < 0.7:
            return Action(key, "stream", "len", (), (("XLEN", key),), read=True)
        return Action(key, "stream", "read", (), (("XRANGE", key, "-", "+"),), entries, read=True)

    def bundle(self, key: str, dice: float) -> Action:
        a, b, n = key, key + ".b", key + ".n"
        if dice < 0.25:
            value = self.value()
            block: tuple[Command, ...] = (
                ("MULTI",),
                ("SET", a, value),
                ("SET", b, value),
                ("INCR", n),
                ("EXEC",),
            )
            return Action(key, "bundle", "write", (value,), block, last_of_bundle)
        if dice < 0.5:
            value = self.value()
            return Action(key, "bundle", "write", (value,), (("EVAL", WRITE_BUNDLE, 3, a, b, n, value),))
        return self.read_bundle(key, dice)

    def read_bundle(self, key: str, dice: float) -> Action:
        a, b, n = key, key + ".b", key + ".n"
        if dice < 0.65:
            commands: tuple[Command, ...] = (("MGET", a, b, n),)
        elif dice < 0.8:
            commands = (("EVAL_RO", READ_BUNDLE, 3, a, b, n),)
        else:
            commands = (("MULTI",), ("GET", a), ("GET", b), ("GET", n), ("EXEC",))
        return Action(key, "bundle", "read", (), commands, reading, read=True)
