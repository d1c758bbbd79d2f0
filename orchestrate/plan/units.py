"""Numbers as people write them."""

from __future__ import annotations

GIB = 2**30
_ROUNDING_S = 1e-10
"""Less than any clock tells: what is left of a difference of sums that are equal."""


def seconds(value: float) -> str:
    """``1,235 s``, ``34.9 s``, ``4.00 s``, ``1.66 ms`` or ``20.0 µs``."""
    if value < _ROUNDING_S:
        return "0 ms"
    if value >= 999.5:
        return f"{value:,.0f} s"
    # What rounds to a thousand is one of the next unit.
    scale, unit = next(
        (s, u) for s, u in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if value * s >= 0.9995 or s == 1e6
    )
    return f"{value * scale:#.3g}".removesuffix(".") + f" {unit}"


def count(number: float) -> str:
    """``8.54k``, ``175B``."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def gib(size: float) -> str:
    """Bytes in GiB: ``71.3``, ``0.37``."""
    return f"{size / GIB:.1f}" if size >= 10 * GIB else f"{size / GIB:.2f}"


def chance(probability: float) -> str:
    """``1.3%``, ``<0.1%``."""
    return "<0.1%" if probability < 1e-3 else f"{probability:.1%}"
