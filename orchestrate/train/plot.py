"""A small line plot in text. No torch, no colour, no terminal needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Point = tuple[float, float]

_LARGEST = 1e6
_INTERVALS = 4
"""Between the ticks of the steps."""
_PLAIN = str.maketrans("┌┐└┘┬┴├┤─│", "++++++++-|")


def plot(
    line: Sequence[Point],
    marks: Sequence[Point] = (),
    *,
    width: int = 78,
    height: int = 14,
    ascii_only: bool = False,
) -> str:
    """Draw ``line`` as dots and ``marks`` as ``o`` over common axes, in ``width`` columns.

    Points beyond a million, as of a loss that has diverged, are left out: no scale would show both them
    and the rest. Empty where nothing is left.
    """
    import plotext

    line, marks = _drawable(line), _drawable(marks)
    if not line and not marks:
        return ""
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)  # the caller knows the width, also where there is no terminal
    plotext.plot_size(width, height)
    plotext.xlabel("step")
    plotext.xticks(_ticks([x for x, _ in (*line, *marks)]))
    if line:
        plotext.plot(*zip(*line, strict=True), marker="." if ascii_only else "braille")
    if marks:
        plotext.scatter(*zip(*marks, strict=True), marker="o")
    drawn = plotext.uncolorize(plotext.build())
    if ascii_only:
        drawn = drawn.translate(_PLAIN)
    return "\n".join(row.rstrip() for row in drawn.splitlines())


def _drawable(points: Iterable[Point]) -> list[Point]:
    return [(x, y) for x, y in points if abs(y) < _LARGEST]


def _ticks(steps: Sequence[float]) -> list[int]:
    """Whole steps, as evenly spread as they can be."""
    first, last = min(steps), max(steps)
    return sorted({round(first + (last - first) * part / _INTERVALS) for part in range(_INTERVALS + 1)})
