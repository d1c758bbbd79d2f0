"""Fitting a few positive parameters of a model to measurements that span orders of magnitude.

Residuals are logarithms of predicted over measured, so that being 10 % off counts the same for a
microsecond as for a second. Outliers weigh less than others (Huber 1964), and a parameter may be
held near its start as far as the measurements allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Predict = Callable[[Mapping[str, float]], Sequence[float]]
"""Predictions for all measurements at given values of the parameters, all positive."""

_HUBER = 1.345
"""Standard deviations beyond which a residual counts as an outlier: 95 % as efficient as least squares
where there are none (Huber 1981, Robust Statistics)."""
_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_STEP = 1e-5
_ROUNDS = 100
_LEAST_NOISE = 1e-3
"""Relative error below which residuals are taken for equally good, so that exact data do not divide by 0."""


@dataclass(frozen=True)
class Parameter:
    """One thing to find, with the physical bounds of its value."""

    name: str
    start: float
    low: float
    high: float
    spread: float = math.inf
    """Standard deviation of the value's logarithm around `start`, where it is known beforehand; infinite:
    only the bounds hold it."""

    def __post_init__(self) -> None:
        assert 0 < self.low <= self.start <= self.high, f"{self.name}: {self.start} outside its bounds"
        assert self.spread > 0, f"{self.name}: spread {self.spread}"


@dataclass(frozen=True)
class Fit:
    """The values found, and how far the predictions lie from the measurements."""

    values: dict[str, float]
    uncertainty: dict[str, float]
    """Relative standard error by name; infinite where nothing tells the value."""
    before: tuple[float, ...]
    """Logarithm of predicted over measured, by measurement, at the start."""
    after: tuple[float, ...]
    """The same at `values`."""

    @property
    def median(self) -> float:
        """Median relative error after."""
        return median_error(self.after)

    @property
    def scatter(self) -> float:
        """Standard deviation of the logarithms after, by their median: outliers do not count."""
        return _MAD * float(np.median(np.abs(self.after))) if self.after else 0.0

    @property
    def worst(self) -> float:
        """Largest relative error after."""
        return max(map(_relative, self.after), default=0.0)


def median_error(residuals: Sequence[float]) -> float:
    """Median relative error of logarithms of predicted over measured; 0 for none."""
    return float(np.median([_relative(r) for r in residuals])) if residuals else 0.0


def mean_error(residuals: Sequence[float]) -> float:
    """Mean relative error (MAPE, as a share) of logarithms of predicted over measured; 0 for none."""
    return float(np.mean([_relative(r) for r in residuals])) if residuals else 0.0


def _relative(residual: float) -> float:
    return abs(math.expm1(residual))


def fit(
    predict: Predict, measured: Sequence[float], parameters: Sequence[Parameter], noise: float = 0.05
) -> Fit:
    """The values of ``parameters`` at which ``predict`` comes closest to ``measured``.

    Levenberg-Marquardt on logarithms of the parameters, with Huber's weights; bounds are kept by
    projection. Deterministic.

    Args:
        measured: positive.
        noise: relative standard deviation of a measurement, against which the parameters' ``spread``
            is weighed; residuals beyond it, as they turn out, are outliers.
    """
    assert parameters
    assert all(value > 0 for value in measured)
    problem = _Problem(predict, np.log(np.asarray(measured, dtype=float)), tuple(parameters), noise)
    start = np.log([p.start for p in parameters])
    theta = min((problem.descend(begin) for begin in problem.beginnings(start)), key=problem.cost)
    return Fit(
        values=problem.values(theta),
        uncertainty=problem.uncertainty(theta),
        before=tuple(map(float, problem.residuals(start))),
        after=tuple(map(float, problem.residuals(theta))),
    )


@dataclass(frozen=True)
class _Problem:
    predict: Predict
    logs: Any
    parameters: tuple[Parameter, ...]
    noise: float

    def values(self, theta: Any) -> dict[str, float]:
        # The logarithm of a bound may come back a rounding error beyond it.
        return {
            p.name: min(max(math.exp(t), p.low), p.high) for p, t in zip(self.parameters, theta, strict=True)
        }

    def residuals(self, theta: Any) -> Any:
        predicted = np.asarray(self.predict(self.values(theta)), dtype=float)
        assert predicted.shape == self.logs.shape, "one prediction per measurement"
        return np.log(np.maximum(predicted, np.finfo(float).tiny)) - self.logs

    def beginnings(self, start: Any) -> list[Any]:
        """``start``, and the best point of a coarse grid around it: far below a sum's other terms the slope
        of one is flat, and a descent from there goes nowhere."""
        if len(self.parameters) > 3:
            return [start]
        axes = [
            [t, *(math.log(v) for v in (p.start / 8, p.start * 8, p.start * 64))]
            for p, t in zip(self.parameters, start, strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        return [start, min(map(self._clip, grid), key=self.cost)]

    def cost(self, theta: Any) -> float:
        """Huber's loss of the residuals plus how far the parameters strayed from what is known of them."""
        size = np.abs(self.residuals(theta)) / self.noise
        losses = np.where(size <= _HUBER, 0.5 * size**2, _HUBER * (size - 0.5 * _HUBER))
        return float(losses.sum() + 0.5 * (self._prior(theta) ** 2).sum())

    def descend(self, theta: Any) -> Any:
        damping, cost = 1e-2, self.cost(theta)
        for _ in range(_ROUNDS):
            gradient, curvature = self._normal(theta)
            # A parameter that its bound stops, and that wants beyond it, takes no part in the step.
            low, high = self._bounds()
            free = ~(((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0)))
            if not free.any():
                break
            matrix = curvature[np.ix_(free, free)]
            scaled = matrix + damping * np.diag(np.maximum(np.diag(matrix), 1e-12))
            step = np.zeros_like(theta)
            step[free] = np.clip(-np.linalg.lstsq(scaled, gradient[free], rcond=None)[0], -2.0, 2.0)
            candidate = self._clip(theta + step)
            lower = self.cost(candidate)
            if lower < cost:
                done = cost - lower < 1e-7 * cost or bool(np.abs(candidate - theta).max() < 1e-6)
                theta, cost, damping = candidate, lower, max(damping / 5, 1e-9)
                if done:
                    break
            elif damping > 1e9:
                break
            else:
                damping *= 4
        return theta

    def uncertainty(self, theta: Any) -> dict[str, float]:
        residuals = self.residuals(theta)
        spare = max(len(residuals) - len(self.parameters), 1)
        scale = _MAD * float(np.median(np.abs(residuals))) * math.sqrt(len(residuals) / spare)
        beforehand = np.diag([1 / p.spread**2 for p in self.parameters])
        told = self._normal(theta)[1] - beforehand
        information = told * (self.noise / max(scale, _LEAST_NOISE)) ** 2 + beforehand
        # What moves no prediction has no information: its error is infinite, not that of a pseudo-inverse.
        known = np.diag(information) > 1e-9
        errors = np.full(len(self.parameters), math.inf)
        if known.any():
            inverse = np.linalg.pinv(information[np.ix_(known, known)])
            errors[known] = np.sqrt(np.maximum(np.diag(inverse), 0.0))
        return {p.name: float(e) for p, e in zip(self.parameters, errors, strict=True)}

    def _normal(self, theta: Any) -> tuple[Any, Any]:
        """Gradient and approximate second derivatives of `cost`."""
        residuals = self.residuals(theta)
        jacobian = self._jacobian(theta, residuals)
        size = np.abs(residuals) / self.noise
        weights = np.where(size <= _HUBER, 1.0, _HUBER / np.maximum(size, _HUBER)) / self.noise**2
        prior, spreads = self._prior(theta), np.array([p.spread for p in self.parameters])
        gradient = jacobian.T @ (weights * residuals) + prior / spreads
        curvature = (jacobian * weights[:, None]).T @ jacobian + np.diag(1 / spreads**2)
        return gradient, curvature

    def _jacobian(self, theta: Any, here: Any) -> Any:
        """Slopes of the residuals, which are ``here`` at ``theta``: towards the inside of the bounds."""
        low, high = self._bounds()
        columns = []
        for index in range(len(theta)):
            aside = theta.copy()
            aside[index] += _STEP if theta[index] + _STEP <= high[index] else -_STEP
            width = np.clip(aside, low, high)[index] - theta[index]
            if width == 0:  # low == high: nothing to find
                columns.append(np.zeros_like(self.logs))
                continue
            aside[index] = theta[index] + width
            columns.append((self.residuals(aside) - here) / width)
        return np.stack(columns, axis=1)

    def _prior(self, theta: Any) -> Any:
        return np.array(
            [(t - math.log(p.start)) / p.spread for p, t in zip(self.parameters, theta, strict=True)]
        )

    def _bounds(self) -> tuple[Any, Any]:
        return np.log([p.low for p in self.parameters]), np.log([p.high for p in self.parameters])

    def _clip(self, theta: Any) -> Any:
        return np.clip(theta, *self._bounds())
