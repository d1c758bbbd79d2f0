"""What each ZeRO stage cuts over the replicas is really not there."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch

from orchestrate.config import ZeroBackend
from orchestrate.parallel.zero import fsdp2
from orchestrate.plan.layout import ParallelDims
from orchestrate.train.checkpoint.parts import HostCopy, written
from orchestrate.train.setup import Replica
from tests.distributed.pool import Pool
from tests.distributed.zero_cases import MODEL, Case, batch_of, build

WIDE = replace(MODEL, hidden=64, ffn_hidden=256)
"""Large enough that activations and buffers of one micro-batch do not matter."""


def held(case: Case) -> float:
    """What live tensors hold between a backward and its update, in copies of the whole weights."""
    replica, seen = build(case), 0
    for step in range(2):
        replica.pipeline.run(batch_of(case, replica, step))
        if step == 1:
            seen = live()
        replica.zero.step(0.01)
    return seen / weights(replica)


def live() -> int:
    """Bytes of all tensors of this process."""
    gc.collect()
    seen = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)]
    seen += [found.grad for found in seen if found.is_leaf and type(found.grad) is torch.Tensor]
    there = [found.untyped_storage() for found in seen if found.device.type == "cpu"]
    return sum({storage._cdata: storage.nbytes() for storage in there}.values())


def weights(replica: Replica) -> int:
    """Bytes of the whole weights of this rank's stages."""
    return sum(value.nbytes for value in replica.zero.parameters().values())


@pytest.mark.parametrize(
    ("dims", "engine", "stages"),
    [
        (ParallelDims(dp=4), ZeroBackend.fsdp2, (0, 1, 2, 3)),
        (ParallelDims(dp=2, pp=2), ZeroBackend.fsdp2, (1, 2, 3)),
        (ParallelDims(dp=4), ZeroBackend.deepspeed, (1, 2, 3)),
    ],
)
def test_each_stage_holds_what_it_says(
    pool: Pool, dims: ParallelDims, engine: ZeroBackend, stages: tuple[int, ...]
) -> None:
    # Weights, gradients, two moments; where weights stand whole, an fp32 master of a share besides.
    share = 1 / dims.dp
    expected = [4, 2 + 3 * share, 1 + 4 * share, 4 * share]
    if engine is ZeroBackend.deepspeed:
        expected[3] += share  # its own masters, in fp32 too
    for stage in stages:  # each in a call of its own: DeepSpeed keeps its last engine alive
        for found in pool.run(4, held, Case(dims, stage=stage, engine=engine, model=WIDE)):
            assert found == pytest.approx(expected[stage], rel=0.06), f"ZeRO {stage}"


def copied(case: Case) -> float:
    """What a checkpoint is copied into on this rank, in copies of the whole weights of its stage."""
    replica = build(case)
    replica.pipeline.run(batch_of(case, replica, 0))
    replica.zero.step(0.01)
    copies = HostCopy().take(written(replica.zero.fragments()))
    return sum(copy.values.nbytes for copy in copies) / weights(replica)


@pytest.mark.parametrize("engine", ZeroBackend)
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_an_asynchronous_checkpoint_copies_a_replicas_share(
    pool: Pool, engine: ZeroBackend, stage: int
) -> None:
    # Masters and two moments, over dp (`ModelState.saved`); which of the replicas saves what can differ.
    case = Case(ParallelDims(dp=4), stage=stage, engine=engine, model=WIDE)
    assert sum(pool.run(4, copied, case)) == pytest.approx(3)
    assert max(pool.run(4, copied, case)) == pytest.approx(3 / 4, rel=0.1)


def while_built(case: Case) -> float:
    """The most that live tensors hold before any part of the stage is filled, in whole weights."""
    seen, fill = [], fsdp2.fill

    def watched(*arguments: Any) -> None:
        seen.append(live())
        fill(*arguments)

    before = live()
    try:
        fsdp2.fill = watched
        replica = build(case)
    finally:
        fsdp2.fill = fill
    return (max(seen) - before) / weights(replica)


def test_fsdp_never_holds_a_whole_stage_while_it_is_built(pool: Pool) -> None:
    case = Case(ParallelDims(dp=4), stage=3, engine=ZeroBackend.fsdp2, model=replace(WIDE, layers=8))
    assert max(pool.run(4, while_built, case)) == pytest.approx(1 / 4, rel=0.1)
