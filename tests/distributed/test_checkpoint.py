"""A run that goes on from a checkpoint is the run that was never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrate.config import DType, Schedule, ZeroBackend
from tests.distributed.checkpoint_cases import STEPS, train
from tests.distributed.pool import Pool
from tests.equivalence.layouts import GPT, LLAMA, Layout, with_dropout

DS, FSDP = ZeroBackend.deepspeed, ZeroBackend.fsdp2

SAME = [
    Layout(model=with_dropout(GPT)),
    Layout(tp=2, dp=2, sp=True),
    Layout(pp=2, tp=2, model=LLAMA),
    Layout(dp=2, zero=1, engine=DS),
    Layout(pp=2, dp=2, zero=1, engine=DS, dtype=DType.bf16),
    Layout(tp=2, dp=2, sp=True, zero=2, engine=DS, dtype=DType.bf16),
    Layout(tp=2, dp=2, zero=3, engine=DS),
    Layout(dp=2, zero=3, engine=DS, dtype=DType.bf16),
    Layout(pp=2, dp=2, vpp=2, schedule=Schedule.interleaved, zero=1, engine=FSDP),
    Layout(dp=2, zero=2, engine=FSDP, model=LLAMA),
    Layout(tp=2, dp=2, zero=3, engine=FSDP, dtype=DType.bf16, model=with_dropout(GPT)),
]


@pytest.mark.parametrize("layout", SAME, ids=str)
def test_in_the_same_layout_it_goes_on_bit_by_bit(pool: Pool, layout: Layout, tmp_path: Path) -> None:
    whole = pool.run(layout.world, train, layout, str(tmp_path / "whole"), STEPS)
    first = pool.run(layout.world, train, layout, str(tmp_path / "cut"), STEPS // 2)
    second = pool.run(layout.world, train, layout, str(tmp_path / "cut"), STEPS)
    for one, begun, gone_on in zip(whole, first, second, strict=True):
        assert gone_on.start == STEPS // 2
        assert begun.losses + gone_on.losses == one.losses
        assert gone_on.weights == one.weights
        assert not gone_on.notices
