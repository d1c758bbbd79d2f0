"""Fits find the parameters that synthetic measurements were made with."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.calibrate.fit import Fit, Parameter, fit, mean_error, median_error

SIZES = [2.0**power for power in range(8, 27, 2)]


def line(values: Mapping[str, float]) -> list[float]:
    return [values["latency"] + size / values["bandwidth"] for size in SIZES]


def fit_line(measured: list[float], **options: float) -> Fit:
    parameters = [
        Parameter("latency", 1e-4, 1e-8, 1.0),
        Parameter("bandwidth", 1e9, 1e3, 1e15, **options),
    ]
    return fit(line, measured, parameters)


@given(
    latency=st.floats(1e-6, 1e-2),
    bandwidth=st.floats(1e6, 1e12),
    noise=st.floats(0.0, 0.03),
    seed=st.integers(0, 2**32),
)
def test_a_noisy_line_is_found_where_the_sizes_tell_it(
    latency: float, bandwidth: float, noise: float, seed: int
) -> None:
    generator = random.Random(seed)
    truth = {"latency": latency, "bandwidth": bandwidth}
    measured = [seconds * math.exp(generator.gauss(0, noise)) for seconds in line(truth)]
    found = fit_line(measured)
    # Where one term is below a tenth of the other at every size, nothing tells it from noise.
    if latency > 0.3 * SIZES[1] / bandwidth:
        assert found.values["latency"] == pytest.approx(latency, rel=0.02 + 5 * noise)
    if latency < 3 * SIZES[-2] / bandwidth:
        assert found.values["bandwidth"] == pytest.approx(bandwidth, rel=0.02 + 5 * noise)
    assert found.median <= 0.01 + 2 * noise


@given(outlier=st.integers(0, len(SIZES) - 1), factor=st.sampled_from([0.2, 0.5, 3.0, 20.0]))
def test_one_measurement_gone_wrong_moves_little(outlier: int, factor: float) -> None:
    truth = {"latency": 50e-6, "bandwidth": 1e9}
    measured = line(truth)
    measured[outlier] *= factor
    found = fit_line(measured)
    assert found.values["latency"] == pytest.approx(truth["latency"], rel=0.1)
    assert found.values["bandwidth"] == pytest.approx(truth["bandwidth"], rel=0.1)
    assert found.worst > 0.3


def test_bounds_hold() -> None:
    found = fit(lambda values: [1 / values["efficiency"]], [0.5], [Parameter("efficiency", 0.7, 0.01, 1.0)])
    assert found.values["efficiency"] == 1.0
    assert found.after[0] == pytest.approx(math.log(2))


def test_what_measurements_do_not_tell_stays_and_says_so() -> None:
    parameters = [Parameter("used", 1.0, 1e-3, 1e3), Parameter("idle", 3.0, 1e-3, 1e3, spread=1.0)]
    found = fit(lambda values: [values["used"], values["used"] * 2], [5.0, 10.0], parameters)
    assert found.values["used"] == pytest.approx(5)
    assert found.values["idle"] == pytest.approx(3)
    assert found.uncertainty["used"] < 0.01
    assert found.uncertainty["idle"] >= 1.0


def test_prior_knowledge_gives_way_as_measurements_add_up() -> None:
    def found(count: int) -> float:
        parameter = Parameter("rate", 1.0, 1e-3, 1e3, spread=0.05)
        return fit(lambda v: [v["rate"]] * count, [1.05] * count, [parameter], noise=0.05).values["rate"]

    assert 1.0 < found(1) < found(4) < found(64) < 1.05
    assert found(1) == pytest.approx(math.sqrt(1.05), rel=1e-3)


def test_errors_are_relative() -> None:
    residuals = [math.log(1.1), math.log(0.8), 0.0]
    assert median_error(residuals) == pytest.approx(0.1)
    assert mean_error(residuals) == pytest.approx(0.1)
    assert median_error([]) == mean_error([]) == 0.0


def test_four_parameters_of_a_sum() -> None:
    names = ("a", "b", "c", "d")
    rows = [[(row * 7 + column * 3) % 11 + 0.5 for column in range(4)] for row in range(20)]

    def predict(values: Mapping[str, float]) -> list[float]:
        return [sum(weight * values[name] for weight, name in zip(row, names, strict=True)) for row in rows]

    truth = {"a": 0.01, "b": 2.0, "c": 0.3, "d": 1.0}
    found = fit(predict, predict(truth), [Parameter(name, 0.5, 1e-4, 1e4) for name in names])
    assert found.values == pytest.approx(truth, rel=1e-3)
