"""What predictions are scored by: relative errors, rank correlation, regret, and a confusion of failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, sqrt
from statistics import mean, median


@dataclass(frozen=True)
class Errors:
    """Relative errors of predictions: 0.1 is a tenth too high."""

    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def mean(self) -> float:
        """Of the absolute errors (MAPE)."""
        return mean(map(abs, self.values))

    @property
    def median(self) -> float:
        """Of the absolute errors."""
        return median(map(abs, self.values))

    @property
    def bias(self) -> float:
        """Mean with sign: above 0 where predictions are too high."""
        return mean(self.values)

    @property
    def worst(self) -> int:
        """Index of the largest absolute error."""
        return max(range(len(self.values)), key=lambda i: abs(self.values[i]))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            found[index] = (start + 1 + end) / 2
        start = end
    return found


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation of ``a`` and ``b``: Pearson's of their ranks. None where either has
    fewer than two different values, and so no order."""
    assert len(a) == len(b)
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    x, y = ranks(a), ranks(b)
    centre = (len(a) + 1) / 2
    together = sum((p - centre) * (q - centre) for p, q in zip(x, y, strict=True))
    return together / sqrt(sum((p - centre) ** 2 for p in x) * sum((q - centre) ** 2 for q in y))


def regret(measured: Sequence[float], predicted: Sequence[float]) -> float:
    """How much slower the configuration predicted to be fastest is than the fastest one, relatively.

    Where several are predicted to be equally fast, any may be picked: their mean.
    """
    least = min(predicted)
    picked = [m for m, p in zip(measured, predicted, strict=True) if isclose(p, least, rel_tol=1e-9)]
    return mean(picked) / min(measured) - 1


@dataclass(frozen=True)
class Confusion:
    """How predictions of what fits compare with what happened, in runs."""

    fit: int = 0
    """Ran, and was predicted to."""
    false_alarm: int = 0
    """Ran, but was predicted to run out of memory."""
    hit: int = 0
    """Ran out of memory, as predicted."""
    miss: int = 0
    """Ran out of memory, but was predicted to fit."""
    failed_full: int = 0
    """Failed for an unknown reason, and was predicted to run out of memory."""
    failed_fit: int = 0
    """Failed for an unknown reason, and was predicted to fit: a miss, or another failure."""

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def known(self) -> int:
        """Runs of which it is known whether they fitted."""
        return self.fit + self.false_alarm + self.hit + self.miss

    @property
    def right(self) -> float | None:
        """Share of the `known` that were predicted right."""
        return (self.fit + self.hit) / self.known if self.known else None
