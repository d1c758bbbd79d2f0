"""The learning-rate schedules: their fixed points, and what holds for every setting."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import Decay, OptimConfig
from orchestrate.train.lr import learning_rate


@st.composite
def schedules(draw: st.DrawFn) -> tuple[OptimConfig, int]:
    steps = draw(st.integers(1, 300))
    optim = OptimConfig(
        lr=draw(st.floats(1e-6, 1.0)),
        min_lr_ratio=draw(st.floats(0.0, 1.0)),
        warmup_steps=draw(st.integers(0, steps)),
        decay=draw(st.sampled_from(Decay)),
        decay_share=draw(st.floats(0.0, 1.0)),
    )
    return optim, steps


def rates(optim: OptimConfig, steps: int) -> list[float]:
    return [learning_rate(optim, step, steps) for step in range(1, steps + 1)]


@given(schedules())
def test_rises_through_the_warm_up_and_never_after(schedule: tuple[OptimConfig, int]) -> None:
    optim, steps = schedule
    curve = rates(optim, steps)
    tolerance = 1e-12 * optim.lr
    rise, rest = curve[: optim.warmup_steps], curve[max(optim.warmup_steps - 1, 0) :]
    assert all(a < b for a, b in itertools.pairwise(rise))
    assert all(a >= b - tolerance for a, b in itertools.pairwise(rest))


@given(schedules())
def test_stays_between_floor_and_peak_once_warm(schedule: tuple[OptimConfig, int]) -> None:
    optim, steps = schedule
    tolerance = 1e-12 * optim.lr
    for rate in rates(optim, steps)[optim.warmup_steps :]:
        assert optim.lr * optim.min_lr_ratio - tolerance <= rate <= optim.lr + tolerance


@given(schedules())
def test_meets_the_peak_at_the_end_of_the_warm_up(schedule: tuple[OptimConfig, int]) -> None:
    optim, steps = schedule
    if optim.warmup_steps:
        assert learning_rate(optim, optim.warmup_steps, steps) == pytest.approx(optim.lr)


@given(schedules())
def test_ends_at_the_floor_and_stays_there(schedule: tuple[OptimConfig, int]) -> None:
    optim, steps = schedule
    last = learning_rate(optim, steps, steps)
    decays = optim.decay is Decay.cosine or (
        optim.decay is Decay.wsd and round(optim.decay_share * steps) > 0
    )
    if decays and optim.warmup_steps < steps:
        assert last == pytest.approx(optim.lr * optim.min_lr_ratio, abs=1e-12 * optim.lr)
    assert learning_rate(optim, steps + 17, steps) == last


def test_cosine_is_half_way_down_half_way_through() -> None:
    optim = OptimConfig(lr=2.0, min_lr_ratio=0.5, warmup_steps=20, decay=Decay.cosine)
    assert learning_rate(optim, 60, 100) == pytest.approx(1.5)


def test_wsd_is_stable_until_its_share_of_the_steps_is_left() -> None:
    optim = OptimConfig(lr=1.0, min_lr_ratio=0.0, warmup_steps=10, decay=Decay.wsd, decay_share=0.2)
    assert rates(optim, 100)[9:80] == [1.0] * 71
    assert learning_rate(optim, 85, 100) == pytest.approx(0.5)


def test_constant_ignores_the_floor() -> None:
    optim = OptimConfig(lr=1.0, min_lr_ratio=0.0, warmup_steps=2, decay=Decay.constant)
    assert rates(optim, 4) == [0.5, 1.0, 1.0, 1.0]


def test_updates_count_from_one() -> None:
    with pytest.raises(ValueError, match="count from 1"):
        learning_rate(OptimConfig(), 0, 10)
