"""A small line plot in text. No torch, no colour, no terminal needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float]

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a Braille character (Unicode block 2800) by column and row of its 2 x 4 dots."""
_BRAILLE = 0x2800


def plot(
    line: Sequence[Point],
    marks: Sequence[Point] = (),
    *,
    width: int = 78,
    height: int = 12,
    ascii_only: bool = False,
) -> str:
    """Draw ``line`` as dots and ``marks`` as ``o`` over common axes, in ``width`` columns.

    Where several points of the line fall into one column, it spans from the lowest to the highest, so
    noise stays visible. Points that are not finite are left out. Empty where nothing is left.
    """
    line, marks = _finite(line), _finite(marks)
    everything = [*line, *marks]
    if not everything:
        return ""
    left, right = min(x for x, _ in everything), max(x for x, _ in everything)
    bottom, top = min(y for _, y in everything), max(y for _, y in everything)
    labels = [f"{value:.4g}" for value in (top, bottom)]
    margin = max(map(len, labels))
    columns = max(width - margin - 2, 1)
    across, down = (1, 1) if ascii_only else (2, 4)

    def x_dot(x: float, dots: int) -> int:
        return round((x - left) / (right - left) * (dots - 1)) if right > left else 0

    def y_dot(y: float, dots: int) -> int:
        return round((top - y) / (top - bottom) * (dots - 1)) if top > bottom else 0

    cells = [[0] * columns for _ in range(height)]
    for column, row in _joined([(x_dot(x, columns * across), y_dot(y, height * down)) for x, y in line]):
        cells[row // down][column // across] |= 1 if ascii_only else _DOTS[column % across][row % down]
    drawn = [[_cell(bits, ascii_only) for bits in row] for row in cells]
    for x, y in marks:
        drawn[y_dot(y, height)][x_dot(x, columns)] = "o"
    return "\n".join(_framed(drawn, labels, margin, (left, right), ascii_only))


def _finite(points: Iterable[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _joined(dots: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """``dots`` and the straight steps between neighbours."""
    yield from dots[:1]
    for (x0, y0), (x1, y1) in itertools.pairwise(dots):
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(1, count + 1):
            yield round(x0 + (x1 - x0) * i / count), round(y0 + (y1 - y0) * i / count)


def _cell(bits: int, ascii_only: bool) -> str:
    if not bits:
        return " "
    return "." if ascii_only else chr(_BRAILLE + bits)


def _framed(
    rows: list[list[str]], labels: list[str], margin: int, ends: tuple[float, float], ascii_only: bool
) -> Iterable[str]:
    side, corner, floor = ("|", "+", "-") if ascii_only else ("│", "└", "─")
    for i, row in enumerate(rows):
        label = labels[0] if i == 0 else labels[1] if i == len(rows) - 1 else ""
        yield f"{label:>{margin}} {side}{''.join(row)}".rstrip()
    columns = len(rows[0])
    yield f"{'':{margin}} {corner}{floor * columns}"
    first, last = (f"{end:g}" for end in ends)
    middle = "step"
    gap = columns - len(first) - len(last)
    between = f"{middle:^{gap}}" if gap > len(middle) + 1 else " " * max(gap, 1)
    yield f"{'':{margin + 2}}{first}{between}{last if last != first else ''}".rstrip()
