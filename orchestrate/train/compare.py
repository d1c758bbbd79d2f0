"""How far two records of the same training steps lie apart, by quantity and by parameter.

A record maps ``quantity/step/name`` to an array; `orchestrate.train.record` writes them.

The *relative difference* of an array is ``max|a - b| / max|b|``: the largest deviation of any
element, measured against the reference's largest element. Element by element would say nothing:
beside elements of size 1, one of size 1e-9 is rounding error in both runs.

For the same reason an array whose largest element is below a tenth of the tolerance times the
largest of its quantity is measured against the latter. Such an array is zero but for rounding: the
bias of a GPT-2 key, for one, shifts all scores of a query alike, so its true gradient is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

RECORD = "record.safetensors"
"""The file of a run's folder that holds its record."""

Record = Mapping[str, "np.ndarray[Any, Any]"]

LOSS = "loss"
NORM = "gradient norm"
GRADIENT = "gradient"
INITIAL = "initial weights"
WEIGHT = "weights"
COPIES = "copies"
"""Largest relative difference between the ranks that hold the same slice of a parameter."""

QUANTITIES = (INITIAL, LOSS, GRADIENT, NORM, WEIGHT, COPIES)
EXACT = frozenset({INITIAL})
"""Quantities that no layout may change by a single bit."""

_ZERO = 0.1
"""An array is zero but for rounding below this share of tolerance times its quantity's largest."""


def key(quantity: str, step: int, name: str = "") -> str:
    """Where a record holds ``quantity`` after ``step`` optimizer steps (of parameter ``name``)."""
    return f"{quantity}/{step}/{name}"


@dataclass(frozen=True)
class Difference:
    """One array of the record against the reference's."""

    quantity: str
    step: int
    """Optimizer step, from 1; 0 for the initial weights."""
    name: str
    """The parameter; empty for a loss or a norm."""
    relative: float
    """Infinite where one of the two is not finite, or shapes differ."""
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.relative <= self.tolerance


@dataclass(frozen=True)
class Report:
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return all(difference.ok for difference in self.differences)

    def worst(self, quantity: str, name: str | None = None) -> Difference | None:
        """The largest difference of ``quantity`` over all steps (of parameter ``name``); None: no array."""
        found = [d for d in self.differences if d.quantity == quantity and name in (None, d.name)]
        return max(found, key=lambda d: d.relative, default=None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every parameter, in the record's order."""
        return tuple(dict.fromkeys(d.name for d in self.differences if d.name))


def compare(measured: Record, reference: Record, tolerance: float) -> Report:
    """Compare every array of ``measured`` with the same array of ``reference``.

    Raises:
        ValueError: the records do not hold the same arrays.
    """
    only = sorted(measured.keys() ^ reference.keys())
    if only:
        raise ValueError(f"{only[0]} is in one of the two records only ({len(only)} such)")
    largest: dict[str, float] = {}
    for place, array in reference.items():
        quantity = place.split("/", 1)[0]
        largest[quantity] = max(largest.get(quantity, 0.0), _largest(array))
    differences = []
    for place in sorted(reference, key=_order):
        quantity, step, name = place.split("/", 2)
        allowed = 0.0 if quantity in EXACT else tolerance
        a, b = measured[place], reference[place]
        if quantity == COPIES:
            relative = max(_largest(a), _largest(b))
        else:
            relative = relative_difference(a, b, largest[quantity], _ZERO * tolerance)
        differences.append(Difference(quantity, int(step), name, relative, allowed))
    return Report(tuple(differences))


def relative_difference(
    a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], largest: float, zero: float
) -> float:
    """``max|a - b| / max|b|``, or ``/ largest`` where ``max|b| < zero * largest``; see the module."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    apart = _largest(a.astype(np.float64) - b.astype(np.float64))
    if apart == 0.0:
        return 0.0
    own = _largest(b)
    scale = own if own >= zero * largest else largest
    return apart / scale if scale else math.inf


def _largest(array: np.ndarray[Any, Any]) -> float:
    return float(np.abs(array).max()) if array.size else 0.0


def _order(place: str) -> tuple[int, int, list[tuple[int, str]]]:
    """By quantity, step and name, with layer 10 after layer 9."""
    quantity, step, name = place.split("/", 2)
    parts = [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
    return QUANTITIES.index(quantity), int(step), parts
