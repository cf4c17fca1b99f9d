"""Durations and quantities as Kubernetes writes them: ``5s``, ``1m30s``, ``4Gi``."""

from __future__ import annotations

import re
from decimal import Decimal

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([kMGTP]|[KMGTP]i)?")
_BYTES = {"": 1} | {
    prefix + suffix: base**power
    for suffix, base, prefixes in (("", 1000, "kMGTP"), ("i", 1024, "KMGTP"))
    for power, prefix in enumerate(prefixes, 1)
}


def parse_duration(text: str) -> float:
    """Return the seconds in ``text``. Raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write it like 5s, 500ms or 1m30s")
    parts = re.findall(r"([\d.]+)(ms|s|m|h)", text)
    return float(sum(Decimal(number) * _SECONDS[unit] for number, unit in parts))


def parse_quantity(text: str) -> int:
    """Return the bytes in ``text``. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a quantity of bytes: write it like 4Gi or 512Mi")
    return int(Decimal(match[1]) * _BYTES[match[2] or ""])


def format_bytes(count: int) -> str:
    """Return ``count`` bytes for people: ``1.5 GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
