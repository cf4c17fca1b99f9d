"""Kubernetes' quantities: told equal when they mean the same."""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(r"([+-]?[0-9]+(?:\.[0-9]*)?)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?")
_FACTORS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(1000)}
_FACTORS |= {letter: Decimal(1000) ** power for power, letter in enumerate("MGTPE", 2)}
_FACTORS |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}


def parse(value: object) -> Decimal | None:
    """Return what a quantity (``500m``, ``1.5Gi``, ``1e3``, 2) stands for, or None if it is none."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        return None
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _FACTORS:
        return number * _FACTORS[suffix]
    return number * Decimal(f"1{suffix}") if suffix else number


def same(one: object, other: object) -> bool:
    """Whether both are the same quantity."""
    amount = parse(one)
    return one == other or (amount is not None and amount == parse(other))


def canonical(value: object) -> str:
    """Return one text for all ways to write a quantity; what is none stays as it is."""
    amount = parse(value)
    return str(value) if amount is None else f"{amount.normalize():f}"
