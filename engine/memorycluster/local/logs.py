"""The logs of a cluster on this machine, for who is not an agent."""

from __future__ import annotations

from memorycluster.local.plan import log_port_numbers, stream_name
from memorycluster.local.ports import HOST
from memorycluster.local.state import Secrets, State
from memorycluster.log.nats import NatsLog


def log_urls(state: State) -> list[str]:
    """Return where clients connect to the servers of the log."""
    return [f"nats://{HOST}:{log_port_numbers(state, zone)[0]}" for zone in state.zones]


def shard_log(state: State, secrets: Secrets, shard: int) -> NatsLog:
    """Return the log of a shard, not connected yet."""
    return NatsLog(
        log_urls(state),
        stream_name(state.cluster, shard),
        user=secrets.log_user,
        password=secrets.log_password.get_secret_value(),
    )
