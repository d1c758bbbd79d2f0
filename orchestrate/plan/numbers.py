"""Whole numbers: what divides, and what is closest."""

from __future__ import annotations

import math
from collections.abc import Iterable


def divisors(n: int) -> list[int]:
    """Divisors of ``n``, ascending."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def nearest(value: float, choices: Iterable[int]) -> int:
    """The choice closest to ``value``; the smaller of two equally close."""
    return min(choices, key=lambda choice: (abs(choice - value), choice))
