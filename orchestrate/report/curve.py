"""Tokens per second and efficiency over the number of nodes, as two small pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrate.plan.units import count
from orchestrate.report.inputs import ScalingPoint
from orchestrate.report.text import percent, plural

WIDTH, HEIGHT = 540.0, 260.0
"""Pixels, as all lengths here."""
LEFT, RIGHT, TOP, BOTTOM = 58.0, 24.0, 16.0, 42.0
INSET = 14.0
"""From the axes to the first point."""
MARKS = 6
"""Most numbers along the other axis."""
LABELS = 9
"""Most numbers along the axis of nodes."""


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    tip: str
    chosen: bool


@dataclass(frozen=True)
class Mark:
    """A place on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    title: str
    dots: tuple[Dot, ...]
    ideal: str
    """The path of perfect scaling."""
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM

    @property
    def path(self) -> str:
        return _path([(dot.x, dot.y) for dot in self.dots])


@dataclass(frozen=True)
class _Axis:
    """From values to pixels, each doubling equally wide."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        span = math.log2(self.high / self.low) or 1.0
        return round(self.start + math.log2(value / self.low) / span * (self.end - self.start), 1)


def curves(points: Sequence[ScalingPoint], nodes: int) -> tuple[Curve, Curve]:
    """Speed against perfect scaling from the first of ``points``, and efficiency; the point of ``nodes``
    nodes is marked."""
    first, last = points[0], points[-1]
    across = _Axis(first.nodes, last.nodes, LEFT + INSET, WIDTH - RIGHT - INSET)
    marks = tuple(Mark(across.at(point.nodes), f"{point.nodes:,}") for point in _some(points))
    each = first.tokens_per_second / first.devices
    most = max(max(point.tokens_per_second, each * point.devices) for point in points)
    least = min(point.tokens_per_second for point in points)
    speed = _Axis(least, most, HEIGHT - BOTTOM - INSET, TOP)
    ideal = [(across.at(point.nodes), speed.at(each * point.devices)) for point in points]
    top = max(1.0, *(point.efficiency for point in points))

    def share(efficiency: float) -> float:
        return round(HEIGHT - BOTTOM - efficiency / top * (HEIGHT - BOTTOM - TOP), 1)

    def dots(y: Sequence[float]) -> tuple[Dot, ...]:
        return tuple(
            Dot(across.at(point.nodes), at, _tip(point), point.nodes == nodes)
            for point, at in zip(points, y, strict=True)
        )

    return (
        Curve(
            "Tokens per second",
            dots([speed.at(point.tokens_per_second) for point in points]),
            _path(ideal),
            marks,
            tuple(Mark(speed.at(value), count(value)) for value in _round(least, most)),
        ),
        Curve(
            "Efficiency per device",
            dots([share(point.efficiency) for point in points]),
            _path([(LEFT, share(1.0)), (WIDTH - RIGHT, share(1.0))]),
            marks,
            tuple(Mark(share(part), f"{part:.0%}") for part in (0.0, 0.25, 0.5, 0.75, 1.0)),
        ),
    )


def _tip(point: ScalingPoint) -> str:
    lines = [
        f"{plural(point.nodes, 'node')}, {plural(point.devices, 'device')}",
        f"{count(point.tokens_per_second)} tokens/s, efficiency {percent(point.efficiency)}",
    ]
    return "\n".join([*lines, point.layout] if point.layout else lines)


def _some(points: Sequence[ScalingPoint]) -> Sequence[ScalingPoint]:
    """``points`` whose numbers fit beside one another along the axis, the first and the last among them."""
    if len(points) <= LABELS:
        return points
    return [points[round(at * (len(points) - 1) / (LABELS - 1))] for at in range(LABELS)]


def _round(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``: as few kinds of them as make three, if any do."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(tenth / 10 for tenth in range(10, 100))):
        found = [value for power in powers for step in steps if low <= (value := step * 10.0**power) <= high]
        if len(found) >= 3:
            break
    return found[:: -(-len(found) // MARKS)] if found else []


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
