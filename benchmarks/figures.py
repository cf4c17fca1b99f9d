"""Figures: measured in turn, compared within a round, shown as rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol, TypeVar


class Named(Protocol):
    @property
    def name(self) -> str: ...


S = TypeVar("S", bound=Named)
V = TypeVar("V")


@dataclass
class Goal:
    """What was aimed at, and what came out."""

    text: str
    measured: str
    met: bool


@dataclass
class Section:
    """A table of results."""

    title: str
    how: str
    """What was done, and what the columns mean."""
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    """Every single measurement."""


async def in_turn(
    rounds: int, systems: Sequence[S], measure: Callable[[S], Awaitable[V]]
) -> dict[str, list[V]]:
    """Measure each system once per round, in an order that differs from round to round."""
    found: dict[str, list[V]] = {system.name: [] for system in systems}
    for number in range(rounds):
        turn = number % len(systems)
        for system in [*systems[turn:], *systems[:turn]]:
            found[system.name].append(await measure(system))
    return found


@dataclass(frozen=True)
class Ratio:
    """One system against another, round by round."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        each = [a / b for a, b in zip(ours, theirs, strict=True)]
        return cls(median(each), min(each), max(each))

    def __str__(self) -> str:
        return f"**{short(self.middle)}** ({short(self.least)} to {short(self.most)})"


def short(value: float) -> str:
    """Return three significant digits, or the integer."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def middle(values: Sequence[float]) -> str:
    """Return the median as text."""
    return short(median(values))
