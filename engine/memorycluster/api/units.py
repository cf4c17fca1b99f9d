"""Durations and quantities as Kubernetes writes them: ``5s``, ``1m30s``, ``4Gi``."""

from __future__ import annotations

import re
from decimal import Decimal

DURATION = r"^([0-9]{1,6}(\.[0-9]{1,6})?(ms|s|m|h))+$"
QUANTITY = r"^[0-9]{1,15}(\.[0-9]{1,6})?([kMGTP]|[KMGTP]i)?$"
MEANING = {
    DURATION: "a duration: write it like 5s, 500ms or 1m30s",
    QUANTITY: "a quantity of bytes: write it like 4Gi or 512Mi",
}
"""What a text that matches a pattern is, and how to write it."""
MAX_LENGTH = 16
"""Characters of a duration or a quantity at most."""

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_BYTES = {"": 1} | {
    prefix + suffix: base**power
    for suffix, base, prefixes in (("", 1000, "kMGTPE"), ("i", 1024, "KMGTPE"))
    for power, prefix in enumerate(prefixes, 1)
}


def parse_duration(text: str) -> float:
    """Return the seconds in ``text``. Raises ValueError."""
    if len(text) > MAX_LENGTH or not re.fullmatch(DURATION, text):
        raise ValueError(f"{text!r} is not {MEANING[DURATION]}")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    return float(sum(Decimal(number) * _SECONDS[unit] for number, unit in parts))


def format_duration(seconds: float) -> str:
    """Return ``seconds`` as Kubernetes writes them: ``5s``, ``1500ms``."""
    if seconds < 1000 and seconds != int(seconds) and seconds * 1000 == int(seconds * 1000):
        return f"{int(seconds * 1000)}ms"
    if seconds >= 10**6:  # seven digits are too many
        hours, rest = divmod(seconds, 3600)
        return f"{hours:.0f}h" + (format_duration(rest) if rest else "")
    return f"{seconds:f}".rstrip("0").rstrip(".") + "s"


def parse_quantity(text: str) -> int:
    """Return the bytes in ``text``. Raises ValueError."""
    if len(text) > MAX_LENGTH or not re.fullmatch(QUANTITY, text):
        raise ValueError(f"{text!r} is not {MEANING[QUANTITY]}")
    number = text.rstrip("kKMGTPi")
    return int(Decimal(number) * _BYTES[text.removeprefix(number)])


def parse_amount(text: str) -> Decimal:
    """Return what ``text`` says of CPU or the like, as far as Kubernetes writes it so: ``500m``, ``4Gi``."""
    number = text.rstrip("mkKMGTPEi")
    suffix = text.removeprefix(number)
    return Decimal(number) * (Decimal("0.001") if suffix == "m" else _BYTES[suffix])


def format_quantity(count: int) -> str:
    """Return ``count`` bytes exactly, as Kubernetes writes them: ``5Gi``."""
    power = max((power for power in range(6) if count % 1024**power == 0), default=0) if count else 0
    return f"{count // 1024**power}{('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi')[power]}"


def format_bytes(count: int) -> str:
    """Return ``count`` bytes for people: ``1.5 GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
