"""The norm of many numbers, the clip coefficient, and the dynamic loss scale."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import DType, PrecisionConfig
from orchestrate.parallel.gradients import clip_coefficient, local_norm, norm_over
from orchestrate.parallel.zero.scaler import LossScaler
from orchestrate.plan.buckets import bucket_elements


@pytest.mark.parametrize("elements", [1, 70_000, 6_000_000])
def test_the_norm_of_many_fp32_numbers_is_exact_to_fp32(elements: int) -> None:
    numbers = torch.randn(elements, generator=torch.Generator().manual_seed(elements)) * 1e-3
    expected = numbers.double().norm().item()
    assert local_norm([numbers]).item() == pytest.approx(expected, rel=3e-7)
    assert norm_over(local_norm(numbers.chunk(3)), None) == pytest.approx(expected, rel=3e-7)


def test_the_norm_of_what_is_not_contiguous() -> None:
    matrix = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    assert local_norm([matrix.t()]).item() == pytest.approx(matrix.norm().item(), rel=1e-6)


def test_gradients_are_never_scaled_up() -> None:
    assert clip_coefficient(0.5, 1.0) == 1.0
    assert clip_coefficient(4.0, 1.0) == pytest.approx(0.25)
    assert clip_coefficient(1e9, 0.0) == 1.0


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_the_loss_scale_halves_on_overflow_and_doubles_after_a_window_without(
    finite: list[bool], window: int
) -> None:
    scaler = LossScaler(PrecisionConfig(DType.fp16, 256.0, window))
    expected, good = 256.0, 0
    for step in finite:
        assert scaler.update(step) is not step
        good = good + 1 if step else 0
        if not step:
            expected = max(1.0, expected / 2)
        elif good == window:
            expected, good = expected * 2, 0
        assert scaler.scale == expected


@pytest.mark.parametrize("dtype", [DType.bf16, DType.fp32, DType.fp64])
def test_without_fp16_nothing_is_scaled_but_steps_that_are_not_finite_are_skipped(dtype: DType) -> None:
    scaler = LossScaler(PrecisionConfig(dtype))
    assert [scaler.update(math.isfinite(norm)) for norm in (1.0, math.inf, 2.0)] == [False, True, False]
    assert scaler.scale == 1.0


@given(st.integers(1, 10**12))
def test_buckets_are_no_larger_than_the_model_nor_than_useful(parameters: int) -> None:
    assert 1 <= bucket_elements(parameters) <= min(parameters, 25 << 20)
