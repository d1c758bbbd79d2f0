"""Where nothing may differ by a bit: recomputation, repetition, initial weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrate.config import Recompute
from orchestrate.train.compare import INITIAL
from tests.distributed.pool import Pool
from tests.equivalence.cases import DEEPSPEED, DROPOUT_GPT, DROPOUT_LLAMA, FSDP2, INTERLEAVED, ZBV
from tests.equivalence.layouts import GPT, LLAMA, Layout, run


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    assert a.keys() == b.keys()
    return [place for place in a if not np.array_equal(a[place], b[place])]


@pytest.mark.parametrize(
    "layout",
    [
        Layout(GPT, micro_batch=2),
        Layout(DROPOUT_GPT, tp=2, sp=True, micro_batch=2),
        Layout(DROPOUT_LLAMA, tp=2, pp=2, sp=True, micro_batch=2),
        Layout(DROPOUT_LLAMA, pp=2, vpp=2, schedule=ZBV),
        Layout(LLAMA, dp=2, zero=3, engine=FSDP2),
        Layout(GPT, dp=2, zero=3, engine=DEEPSPEED),
    ],
    ids=str,
)
def test_recomputation_changes_no_bit(pool: Pool, layout: Layout) -> None:
    kept = pool.run(layout.world, run, layout)[0]
    for how in (
        {"recompute": Recompute.selective},
        {"recompute": Recompute.full},
        {"recompute": Recompute.full, "recompute_layers": 1},
    ):
        recomputed = pool.run(layout.world, run, replace(layout, **how))[0]  # type: ignore[arg-type]
        assert differing(recomputed, kept) == []


@pytest.mark.parametrize(
    "layout",
    [
        Layout(DROPOUT_GPT, tp=2, pp=2, dp=2, sp=True, zero=1, engine=DEEPSPEED),
        Layout(DROPOUT_LLAMA, tp=2, pp=2, dp=2, sp=True, vpp=2, schedule=ZBV, zero=2, engine=FSDP2),
        Layout(LLAMA, tp=4, pp=2, sp=True, vpp=2, schedule=INTERLEAVED, micro_batch=2),
        Layout(GPT, dp=4, zero=3, engine=DEEPSPEED),
    ],
    ids=str,
)
def test_two_runs_are_the_same_bits(pool: Pool, layout: Layout) -> None:
    first, second = (pool.run(layout.world, run, layout)[0] for _ in range(2))
    assert differing(first, second) == []


def test_initial_weights_depend_on_the_seed_and_the_name_alone(pool: Pool) -> None:
    """`test_layouts` compares them between layouts; here between parameters."""
    record = pool.run(1, run, Layout(), 0)[0]
    drawn = {
        place: array
        for place, array in record.items()
        if place.startswith(f"{INITIAL}/") and array.min() != array.max()
    }
    flat = sorted((array.ravel()[:64].tobytes(), place) for place, array in drawn.items())
    assert len({start for start, _ in flat}) == len(flat) > 20, "two parameters share their values"
