"""Plots of a few lines, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 380, 70, 60, 50, 20
COLOURS = ("#3b82f6", "#10b981", "#f59e0b", "#ef4444")
STEPS = (1, 2, 5, 10)
TICKS = 6


@dataclass(frozen=True)
class Line:
    """Points, each with the least and the most that was measured there."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    """x, y, least, most."""


def plot(title: str, x: str, y: str, lines: Sequence[Line]) -> str:
    """Return the plot; ``x`` and ``y`` name the axes, which both begin with 0."""
    xs = _ticks(max(point[0] for line in lines for point in line.points))
    ys = _ticks(max(point[3] for line in lines for point in line.points))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(a: float, b: float) -> tuple[str, str]:
        return f"{LEFT + wide * a / xs[-1]:.1f}", f"{TOP + high * (1 - b / ys[-1]):.1f}"

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#334155">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">{title}</text>',
        f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 12}" text-anchor="middle">{x}</text>',
        f'<text transform="translate(18 {TOP + high / 2}) rotate(-90)" text-anchor="middle">{y}</text>',
    ]
    for tick in ys:
        _, level = at(0, tick)
        out.append(f'<path d="M{LEFT} {level}H{WIDTH - RIGHT}" stroke="#e2e8f0"/>')
        out.append(f'<text x="{LEFT - 8}" y="{level}" dy="4" text-anchor="end">{tick:g}</text>')
    for tick in xs:
        where, level = at(tick, 0)
        out.append(f'<text x="{where}" y="{level}" dy="18" text-anchor="middle">{tick:g}</text>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        for one, other in pairwise(line.points):
            (x1, y1), (x2, y2) = at(*one[:2]), at(*other[:2])
            out.append(f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{colour}" stroke-width="2"/>')
        for point in line.points:
            (px, py), (_, low), (_, top) = at(*point[:2]), at(point[0], point[2]), at(point[0], point[3])
            out.append(f'<path d="M{px} {low}V{top}" stroke="{colour}"/>')
            out.append(f'<circle cx="{px}" cy="{py}" r="4" fill="{colour}"/>')
        row = TOP + 16 + 18 * number
        out.append(f'<circle cx="{LEFT + 16}" cy="{row - 4}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{LEFT + 26}" y="{row}">{line.name}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _ticks(most: float) -> list[float]:
    """Return numbers from 0 to ``most`` or just beyond."""
    power = 1.0
    while power * STEPS[-1] * TICKS < most:
        power *= 10
    while power * TICKS >= most and power > 1e-6:
        power /= 10
    step = next(power * each for each in STEPS if power * each * TICKS >= most)
    count = 1
    while step * count < most:
        count += 1
    return [step * number for number in range(count + 1)]
