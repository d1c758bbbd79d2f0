"""A run that goes on from a checkpoint is the run that was never stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrate.config import DType, Schedule, ZeroBackend
from orchestrate.train.checkpoint import latest, read_state
from tests.distributed.checkpoint_cases import STEPS, pass_on, train
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


@pytest.mark.parametrize("scale", [2.0**40, 1024.0], ids=["overflowing", "growing"])
@pytest.mark.parametrize(
    "layout", [Layout(dp=2), Layout(dp=2, zero=1, engine=DS), Layout(dp=2, zero=2)], ids=str
)
def test_the_loss_scale_goes_on(pool: Pool, layout: Layout, scale: float, tmp_path: Path) -> None:
    layout = replace(layout, dtype=DType.fp16)
    arguments = 2, True, scale
    whole = pool.run(2, train, layout, str(tmp_path / "whole"), STEPS, *arguments)[0]
    pool.run(2, train, layout, str(tmp_path / "cut"), 2, *arguments)
    gone_on = pool.run(2, train, layout, str(tmp_path / "cut"), STEPS, *arguments)[0]
    assert whole.scales == [scale * f for f in ((1, 0.5, 0.25, 0.125) if scale > 2**20 else (1, 1, 2, 2))]
    assert gone_on.scales == whole.scales[2:]
    assert (gone_on.losses, gone_on.weights) == (whole.losses[2:], whole.weights)


CHAINS = {
    "tied embeddings": [
        Layout(pp=2, tp=2),
        Layout(tp=2, dp=2, sp=True, zero=1, engine=DS),
        Layout(dp=4, zero=3, engine=FSDP),
        Layout(pp=2, vpp=2, schedule=Schedule.zbv, order=("pp", "tp", "cp", "dp")),
        Layout(dp=2, zero=3, engine=DS),
        Layout(tp=4),
        Layout(),
    ],
    "key-value heads on several ranks": [
        Layout(LLAMA, tp=4, sp=True),
        Layout(LLAMA, dp=4, zero=2, engine=DS),
        Layout(LLAMA, pp=2, dp=2, zero=1, engine=FSDP, vpp=2, schedule=Schedule.interleaved),
        Layout(LLAMA, pp=4),
        Layout(LLAMA, tp=2, dp=2, zero=2, engine=FSDP),
    ],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_any_layout_goes_on_from_any_other(pool: Pool, chain: Sequence[Layout], tmp_path: Path) -> None:
    model = chain[0].model
    expected = pool.run(1, train, Layout(model), str(tmp_path / "alone"), len(chain))[0].losses
    run_dir = tmp_path / "run"
    losses = pool.run(chain[0].world, train, chain[0], str(run_dir), 1, 1)[0].losses
    for step, layout in enumerate(chain[1:], start=1):
        copy = tmp_path / f"copy-{step}"
        losses += pool.run(layout.world, pass_on, layout, str(run_dir), str(copy))[0].losses
        assert_same_tensors(run_dir / "checkpoints" / f"step-{step:08d}", copy)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert read_state(newest(run_dir)).samples == len(chain) * 8


def newest(folder: Path) -> Path:
    found = latest(folder)
    assert found is not None
    return found.path


def assert_same_tensors(one: Path, folder: Path) -> None:
    from orchestrate.train.checkpoint.read import Tensors

    first, second = Tensors(one), Tensors(newest(folder))
    assert first.shapes == second.shapes
    for name in first.shapes:
        assert first.read(name).equal(second.read(name)), name


def test_torch_alone_reads_it(pool: Pool, tmp_path: Path) -> None:
    """The files are those of torch.distributed.checkpoint, which can do without us."""
    import torch
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    from orchestrate.train.checkpoint.read import Tensors

    pool.run(2, train, Layout(tp=2), str(tmp_path), 1)
    checkpoint = newest(tmp_path)
    dcp_to_torch_save(checkpoint, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    ours = Tensors(checkpoint)
    assert whole.keys() == ours.shapes.keys()
    assert all(values.equal(ours.read(name)) for name, values in whole.items())
    assert whole["model.embedding.word.weight"].shape == (GPT.vocab, GPT.hidden)
