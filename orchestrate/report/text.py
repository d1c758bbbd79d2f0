"""Numbers and lists as a page writes them, beyond what `orchestrate.plan.units` has."""

from __future__ import annotations

from collections.abc import Sequence


def flops(rate: float) -> str:
    """``rate`` floating-point operations per second."""
    for unit, size in (("P", 1e15), ("T", 1e12)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}FLOP/s"
    return f"{rate / 1e9:.3g} GFLOP/s"


def percent(share: float) -> str:
    """``share`` as a percentage; what is almost nothing, or almost all, says so."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    digits = 0 if share in (0, 1) else 1
    return f"{share:.{digits}%}"


def plural(number: int, noun: str, ending: str = "s") -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number:,} {noun}" + ("" if number == 1 else ending)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole ``numbers`` with their runs joined: ``0–3, 8``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)
