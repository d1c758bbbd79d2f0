"""Models go to ``transformers`` from any layout, and come back into any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrate.cli import main
from orchestrate.config import ModelConfig, Schedule, ZeroBackend
from tests.distributed.checkpoint_cases import train
from tests.distributed.interchange_cases import logits_here, logits_there, write_there
from tests.distributed.pool import Pool
from tests.equivalence.layouts import GPT, LLAMA, Layout

TIED = replace(LLAMA, kv_heads=1, tied_embeddings=True, bias=True, rope_theta=5e5, name="llama-tied")

TRAINED = [
    Layout(tp=2, dp=2, zero=3, engine=ZeroBackend.deepspeed),
    Layout(tp=2, pp=2, sp=True, model=LLAMA),
    Layout(tp=4, dp=1, model=LLAMA),
    Layout(pp=2, dp=2, vpp=2, schedule=Schedule.interleaved, zero=1, model=TIED),
]


@pytest.mark.parametrize("layout", TRAINED, ids=str)
def test_transformers_has_the_same_logits(pool: Pool, layout: Layout, tmp_path: Path) -> None:
    run, out = str(tmp_path / "run"), str(tmp_path / "hf")
    pool.run(layout.world, train, layout, run, 2)
    assert main(["export", run, f"out={out}", "export.shard_gib=0.00003"]) == 0
    (ours,) = pool.run(1, logits_here, layout.alone, run)
    (theirs,) = pool.run(1, logits_there, out, layout.model)
    assert ours.shape == theirs.shape == (8, 16, 101)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5 * float(np.abs(ours).max()))

    assert main(["export", run, f"out={out}-bf16", "export.dtype=bf16"]) == 0
    (rounded,) = pool.run(1, logits_there, f"{out}-bf16", layout.model)
    np.testing.assert_allclose(rounded, ours, atol=0.05 * float(np.abs(ours).max()))


@pytest.mark.parametrize("model", [GPT, LLAMA, TIED], ids=lambda model: model.name)
def test_a_model_that_transformers_wrote_trains_on(pool: Pool, model: ModelConfig, tmp_path: Path) -> None:
    hf = str(tmp_path / "hf")
    (losses,) = pool.run(1, write_there, hf, model)
    told = {}
    for layout in (
        Layout(model),
        Layout(model, tp=4),
        Layout(model, tp=2, pp=2, sp=True),
        Layout(model, dp=2, zero=1, engine=ZeroBackend.deepspeed),
        Layout(model, dp=2, zero=3),
    ):
        # Training begins in the folder itself, which then holds its checkpoints too.
        run = str(tmp_path / str(layout))
        assert main(["import", hf, f"out={run}"]) == 0
        first, *_ = pool.run(layout.world, train, layout, run, 2)
        assert (first.start, first.notices) == (0, [])
        assert first.losses[0] == pytest.approx(losses[0], rel=1e-5)
        # The first update has begun to fit the model to other words: this is no repetition.
        assert first.losses[1] != pytest.approx(losses[1], rel=1e-6)
        told[str(layout)] = first.losses[1]
    assert max(told.values()) == pytest.approx(min(told.values()), rel=1e-5)
