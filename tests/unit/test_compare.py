"""The comparison that judges every layout: what it measures, and that it misses nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.train.compare import (
    COPIES,
    GRADIENT,
    INITIAL,
    LOSS,
    NORM,
    WEIGHT,
    compare,
    key,
    relative_difference,
)

TOLERANCE = 1e-5


def record() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {key(COPIES, 0): np.float64(0), key(COPIES, 2): np.float64(0)}
    for name in ("layers.2.up.weight", "layers.10.up.weight", "head.weight"):
        arrays[key(INITIAL, 0, name)] = draw.normal(size=(6, 4)).astype("f4")
        arrays[key(WEIGHT, 2, name)] = draw.normal(size=(6, 4)).astype("f4")
        for step in (1, 2):
            arrays[key(GRADIENT, step, name)] = draw.normal(size=(6, 4)).astype("f4")
    for step in (1, 2):
        arrays[key(LOSS, step)] = np.array(4.5 - step / 10)
        arrays[key(NORM, step)] = np.array(1.0 + step)
    return {place: np.asarray(array) for place, array in arrays.items()}


def test_equal_records_differ_by_nothing() -> None:
    report = compare(record(), record(), TOLERANCE)
    assert report.ok
    assert {d.relative for d in report.differences} == {0.0}
    assert report.parameters == ("head.weight", "layers.2.up.weight", "layers.10.up.weight")


@pytest.mark.parametrize("place", [place for place in record() if not place.startswith(COPIES)])
def test_one_wrong_element_anywhere_is_beyond_tolerance(place: str) -> None:
    measured = record()
    measured[place].reshape(-1)[-1] += 1e-4 * np.abs(measured[place]).max()
    report = compare(measured, record(), TOLERANCE)
    beyond = [d for d in report.differences if not d.ok]
    assert [key(d.quantity, d.step, d.name) for d in beyond] == [place]
    assert beyond[0].relative == pytest.approx(1e-4, rel=0.1)


@pytest.mark.parametrize("place", list(record()))
def test_what_is_not_finite_is_beyond_tolerance(place: str) -> None:
    measured = record()
    measured[place].reshape(-1)[0] = np.nan
    assert not compare(measured, record(), TOLERANCE).ok


def test_initial_weights_must_be_the_same_bits() -> None:
    measured = record()
    place = key(INITIAL, 0, "head.weight")
    measured[place] = np.nextafter(measured[place], np.float32(np.inf))
    assert not compare(measured, record(), TOLERANCE).ok


def test_copies_that_drift_apart_are_beyond_tolerance() -> None:
    measured = record()
    measured[key(COPIES, 2)] = np.array(2 * TOLERANCE)
    assert not compare(measured, record(), TOLERANCE).ok


def test_records_of_different_things_are_refused() -> None:
    measured = record()
    del measured[key(LOSS, 2)]
    with pytest.raises(ValueError, match=r"loss/2/ is in one of the two records only"):
        compare(measured, record(), TOLERANCE)


def test_other_shapes_differ_without_limit() -> None:
    assert relative_difference(np.ones((2, 3)), np.ones((3, 2)), 1.0, 1e-6) == math.inf


def test_rounding_around_zero_is_measured_against_its_quantity() -> None:
    noise, other_noise = np.array([1e-9, -2e-9]), np.array([-1e-9, 1e-9])
    assert relative_difference(noise, other_noise, largest=1e-9, zero=1e-6) == pytest.approx(3.0)
    assert relative_difference(noise, other_noise, largest=0.1, zero=1e-6) == pytest.approx(3e-8)


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    scale=st.floats(1.0, 2.0, exclude_min=True),
)
def test_a_wrong_factor_is_its_own_relative_difference(values: list[float], scale: float) -> None:
    reference = np.array(values)
    found = relative_difference(reference * scale, reference, np.abs(reference).max(), 1e-6)
    assert found == (pytest.approx(scale - 1, abs=1e-9) if reference.any() else 0.0)
