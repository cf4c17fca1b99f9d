"""What the operator counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

API_CALLS = Counter(
    "memorycluster_api_calls_total",
    "Requests to the API server, but for the watches; code is the HTTP status, or 0 without an answer.",
    ["verb", "kind", "code"],
)
PASSES = Counter(
    "memorycluster_passes_total",
    "Times that a cluster was looked at; result is ok or error.",
    ["result"],
)
PASS_SECONDS = Histogram(
    "memorycluster_pass_seconds",
    "How long looking at a cluster and doing what had to be done took.",
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
REACTION_SECONDS = Histogram(
    "memorycluster_reaction_seconds",
    "From the first news of a cluster to the end of the pass that took it in.",
    buckets=(0.01, 0.05, 0.2, 0.5, 1, 2, 5, 10, 60),
)
ACTIONS = Counter(
    "memorycluster_actions_total",
    "What was done; result is done, refused or failed.",
    ["action", "result"],
)
CLUSTERS = Gauge("memorycluster_clusters", "MemoryClusters that are looked after.")
LEADING = Gauge("memorycluster_leading", "1 if this process holds the lease, 0 if it stands by.")


@contextmanager
def api_call(verb: str, kind: str) -> Iterator[None]:
    """Count a request to the API server."""
    code = "0"
    try:
        yield
        code = "200"
    except Exception as error:
        code = str(getattr(error, "status", None) or 0)
        raise
    finally:
        API_CALLS.labels(verb, kind, code).inc()


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Record how long the block took."""
    began = time.monotonic()
    try:
        yield
    finally:
        histogram.observe(time.monotonic() - began)
