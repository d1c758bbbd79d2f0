"""What a refit finds: the figures that changed, how well they predict, what could not be measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from orchestrate.calibrate.fit import Fit, Parameter, fit, mean_error

NOISE = 0.1
"""Relative standard deviation of one measurement: what repeats differ by while other processes run."""
_LEAST_SCATTER = 0.05
_LEAST_SHARE, _MOST_LATENCY_US, _LEAST_LATENCY_US = 1e-3, 1e6, 1e-2


@dataclass(frozen=True)
class Change:
    """One figure of the profile, before and after."""

    key: str
    """As people type it: ``device.matmul_efficiency``."""
    before: float
    after: float
    source: str
    """What it was fitted to."""
    uncertainty: float | None = None
    """Relative standard error; None where it was read, not fitted."""


@dataclass(frozen=True)
class Quality:
    """How well the profile predicts one kind of measurement."""

    kind: str
    count: int
    before: float
    """Mean relative error with the profile as it was."""
    after: float
    median: float
    worst: float


@dataclass
class Findings:
    """Gathered while a refit goes on."""

    changes: list[Change] = field(default_factory=list)
    qualities: list[Quality] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def record(
        self, key: str, before: float, after: float, source: str, uncertainty: float | None = None
    ) -> None:
        """The figure ``key`` is now ``after``; a later finding about it takes the place of an earlier one."""
        self.changes = [change for change in self.changes if change.key != key]
        self.changes.append(Change(key, before, after, source, uncertainty))

    def rate(self, kind: str, before: Sequence[float], cases: Sequence[Any], after: Sequence[float]) -> None:
        """Seconds predicted ``before`` for what was measured, and residuals of the fit ``after``."""
        old = [math.log(value / case.seconds) for value, case in zip(before, cases, strict=True)]
        sizes = [abs(math.expm1(residual)) for residual in after]
        self.qualities.append(
            Quality(kind, len(cases), mean_error(old), mean_error(after), median(sizes), max(sizes))
        )


def fitted(
    predict: Callable[[Mapping[str, float]], list[float]], cases: Sequence[Any], of: list[Parameter]
) -> Fit:
    """The fit of ``of`` to the seconds of ``cases``."""
    return fit(predict, [case.seconds for case in cases], of, NOISE)


def scatter(found: Fit) -> float:
    """What single cases scatter around a profile's figure, as a logarithm: never nothing."""
    return max(_LEAST_SCATTER, found.scatter)


def share(name: str, start: float, spread: float = math.inf) -> Parameter:
    """A share of a whole: at most 1."""
    return Parameter(name, min(max(start, _LEAST_SHARE), 1.0), _LEAST_SHARE, 1.0, spread)


def latency(name: str, start: float, spread: float = math.inf) -> Parameter:
    """Microseconds."""
    low, high = _LEAST_LATENCY_US, _MOST_LATENCY_US
    return Parameter(name, min(max(start, low), high), low, high, spread)


def positive(name: str, start: float, spread: float = math.inf) -> Parameter:
    """Anything above nothing."""
    return Parameter(name, start, start * 1e-4, start * 1e4, spread)
