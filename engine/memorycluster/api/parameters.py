"""The engine parameters that a manifest may set.

A list of what is allowed, not of what is forbidden: durability, replication, persistence, networking and
cluster parameters belong to MemoryCluster, and a parameter that is unknown here can't endanger them.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, NamedTuple


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    meaning: str


def _rule(pattern: str, meaning: str) -> _Rule:
    return _Rule(re.compile(pattern, re.ASCII), meaning)


def _one_of(*values: str) -> _Rule:
    return _rule("|".join(map(re.escape, values)), "one of " + ", ".join(values))


_YES_NO = _one_of("yes", "no")
_INTEGER = _rule(r"-?\d{1,18}", "an integer")
_COUNT = _rule(r"\d{1,18}", "an integer, 0 or more")
_BYTES = _rule(r"\d{1,15}(?:b|k|kb|m|mb|g|gb|t|tb)?", "bytes, like 100mb")
_BYTES_OR_PERCENT = _rule(r"\d{1,15}(?:b|k|kb|m|mb|g|gb|t|tb|%)?", "bytes or a percentage, like 100mb or 5%")
_EVENTS = _rule(r"[AKEg$lshzxedtmn]*", "Valkey's letters for keyspace events, like KEA")

_RULES: dict[str, _Rule] = {
    "maxmemory": _BYTES,
    "maxmemory-policy": _one_of(
        "noeviction",
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-random",
        "volatile-lru",
        "volatile-lfu",
        "volatile-random",
        "volatile-ttl",
    ),
    "maxmemory-samples": _COUNT,
    "maxmemory-eviction-tenacity": _COUNT,
    "maxmemory-clients": _BYTES_OR_PERCENT,
    "maxclients": _COUNT,
    "timeout": _COUNT,
    "tcp-backlog": _COUNT,
    "tcp-keepalive": _COUNT,
    "hz": _COUNT,
    "loglevel": _one_of("debug", "verbose", "notice", "warning", "nothing"),
    "notify-keyspace-events": _EVENTS,
    "active-expire-effort": _COUNT,
    "activedefrag": _YES_NO,
    "active-defrag-ignore-bytes": _BYTES,
    "active-defrag-threshold-lower": _COUNT,
    "active-defrag-threshold-upper": _COUNT,
    "active-defrag-cycle-min": _COUNT,
    "active-defrag-cycle-max": _COUNT,
    "active-defrag-max-scan-fields": _COUNT,
    "activerehashing": _YES_NO,
    "lazyfree-lazy-eviction": _YES_NO,
    "lazyfree-lazy-expire": _YES_NO,
    "lazyfree-lazy-server-del": _YES_NO,
    "lazyfree-lazy-user-del": _YES_NO,
    "lazyfree-lazy-user-flush": _YES_NO,
    "lfu-decay-time": _COUNT,
    "lfu-log-factor": _COUNT,
    "hash-max-listpack-entries": _COUNT,
    "hash-max-listpack-value": _COUNT,
    "list-compress-depth": _COUNT,
    "list-max-listpack-size": _INTEGER,
    "set-max-intset-entries": _COUNT,
    "set-max-listpack-entries": _COUNT,
    "set-max-listpack-value": _COUNT,
    "zset-max-listpack-entries": _COUNT,
    "zset-max-listpack-value": _COUNT,
    "stream-node-max-bytes": _BYTES,
    "stream-node-max-entries": _COUNT,
    "hll-sparse-max-bytes": _BYTES,
    "latency-monitor-threshold": _COUNT,
    "latency-tracking": _YES_NO,
    "commandlog-execution-slower-than": _INTEGER,
    "commandlog-slow-execution-max-len": _COUNT,
    "commandlog-request-larger-than": _INTEGER,
    "commandlog-large-request-max-len": _COUNT,
    "commandlog-reply-larger-than": _INTEGER,
    "commandlog-large-reply-max-len": _COUNT,
    "acllog-max-len": _COUNT,
    "tracking-table-max-keys": _COUNT,
    "client-query-buffer-limit": _BYTES,
    "proto-max-bulk-len": _BYTES,
    "cluster-slot-stats-enabled": _YES_NO,
    "extended-redis-compatibility": _YES_NO,
}

_OWNED = re.compile(
    r"txlog-.*|append.*|aof-.*|auto-aof-.*|save|rdb.*|dir|dbfilename|repl-.*|replica.*|slave.*|primary.*|master.*"
    r"|min-(?:replicas|slaves)-.*|cluster-.*|sanitize-dump-payload|shutdown-.*|stop-writes-on-bgsave-error"
    r"|lua-time-limit|busy-reply-threshold|io-threads.*"
)


def check_parameter(name: str, value: object) -> str:
    """Return the text of ``value`` for the engine parameter ``name``.

    :raises ValueError: if a manifest may not set it, or not so; says why.
    """
    rule = _RULES.get(name)
    if rule is None:
        if name.startswith("io-threads"):
            raise ValueError("set spec.engine.ioThreads instead")
        if _OWNED.fullmatch(name):
            raise ValueError("durability stands on this parameter, so MemoryCluster sets it; remove it")
        near = get_close_matches(name, _RULES, n=1)
        hint = f"did you mean {near[0]}?" if near else "remove it"
        raise ValueError(f"not a parameter that can be set here; {hint}")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a string or an integer; put the value in quotes")
    if not rule.pattern.fullmatch(str(value)):
        raise ValueError(f"{value!r} is not {rule.meaning}")
    return str(value)


def list_parameters() -> dict[str, str]:
    """Return the names of all parameters that a manifest may set, each with what its value must be."""
    return {name: rule.meaning for name, rule in sorted(_RULES.items())}


def parameters_schema() -> dict[str, Any]:
    """Return the JSON schema of all parameters that a manifest may set."""
    values = {"x-kubernetes-int-or-string": True, "maxLength": 32}
    properties = {
        name: values
        | {"pattern": f"^({rule.pattern.pattern})$", "x-meaning": rule.meaning}
        | {"description": rule.meaning[0].upper() + rule.meaning[1:] + "."}
        for name, rule in sorted(_RULES.items())
    }
    return {"type": "object", "properties": properties}
