"""Every ZeRO engine and stage trains as one process does, and twice the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from orchestrate.config import Activation, DType, Norm, Position, Recompute, Schedule, ZeroBackend
from orchestrate.plan.layout import ParallelDims
from tests.distributed.pool import Pool
from tests.distributed.zero_cases import MODEL, Case, Told, differences, train, train_all

ALONE = Case()
UNBIASED = replace(
    MODEL, bias=False, norm=Norm.rmsnorm, activation=Activation.swiglu, position=Position.rotary, init_std=0.1
)
"""For fp32: a key bias has no gradient but rounding, and nothing to be relative to."""

LAYOUTS = {
    "dp2": Case(ParallelDims(dp=2)),
    "dp3, one more than divides the layers' rows": Case(ParallelDims(dp=3), global_batch=9),
    "tp2 dp2": Case(ParallelDims(tp=2, dp=2), sequence_parallel=True),
    "tp4, twice the key-value heads": Case(ParallelDims(tp=4), sequence_parallel=True),
    "pp2 dp2, gpipe": Case(ParallelDims(pp=2, dp=2), schedule=Schedule.gpipe),
    "pp2 dp2, 1f1b": Case(ParallelDims(pp=2, dp=2), schedule=Schedule.one_f_one_b),
    "pp2 dp2, interleaved": Case(ParallelDims(pp=2, dp=2, vpp=2), schedule=Schedule.interleaved),
    "pp2 dp2, zbv": Case(ParallelDims(pp=2, dp=2, vpp=2), schedule=Schedule.zbv),
    "tp2 pp2": Case(ParallelDims(tp=2, pp=2), sequence_parallel=True),
    "dp2, full recompute": Case(ParallelDims(dp=2), recompute=Recompute.full),
}
"""Tied embeddings throughout: on two ranks under gpipe, 1f1b and interleaved, on one under zbv."""


def assert_equal(told: Told, expected: Told, tolerance: float, name: str) -> None:
    found = differences(told, expected)
    assert max(found.values()) < tolerance, f"{name}: {found}"


@pytest.mark.parametrize(
    ("stage", "engine"), [(0, ZeroBackend.deepspeed), *((stage, ZeroBackend.fsdp2) for stage in (1, 2, 3))]
)
def test_plain_and_fsdp2_train_as_one_process_does(pool: Pool, stage: int, engine: ZeroBackend) -> None:
    expected: dict[int, Told] = {}
    for name, layout in LAYOUTS.items():
        case = replace(layout, stage=stage, engine=engine, dtype=DType.fp64)
        if case.global_batch not in expected:
            alone = replace(ALONE, dtype=DType.fp64, global_batch=case.global_batch)
            expected[case.global_batch] = pool.run(1, train, alone)[0]
        for told in pool.run(case.dims.world, train, case):
            assert_equal(told, expected[case.global_batch], 1e-10, name)


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        (1, ["tp2 dp2", "pp2 dp2, 1f1b", "pp2 dp2, interleaved", "pp2 dp2, zbv"]),
        (2, ["tp2 dp2", "tp4, twice the key-value heads"]),
        (3, ["tp2 dp2", "tp4, twice the key-value heads"]),
    ],
)
def test_deepspeed_trains_as_one_process_does(pool: Pool, stage: int, names: list[str]) -> None:
    expected = pool.run(1, train, replace(ALONE, model=UNBIASED))[0]
    cases = [replace(LAYOUTS[name], stage=stage, model=UNBIASED) for name in names]
    for told in pool.run(4, train_all, cases):
        for name, one in zip(names, told, strict=True):
            assert_equal(one, expected, 1e-5, name)
            assert differences(one, expected)["norm"] < 1e-6


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_clipping_is_by_the_norm_of_the_whole_model(pool: Pool, clip: float) -> None:
    alone = replace(ALONE, dtype=DType.fp64, clip=clip, steps=2)
    expected = pool.run(1, train, alone)[0]
    assert min(expected.norms) > 0.5  # so that a limit of 0.5 bites
    for stage in (0, 3):
        case = replace(
            alone,
            dims=ParallelDims(tp=2, dp=2),
            stage=stage,
            engine=ZeroBackend.fsdp2,
            sequence_parallel=True,
        )
        assert_equal(pool.run(4, train, case)[0], expected, 1e-10, f"ZeRO {stage}")


@pytest.mark.parametrize(
    ("stage", "engine"),
    [
        (0, ZeroBackend.fsdp2),
        (1, ZeroBackend.fsdp2),
        (3, ZeroBackend.fsdp2),
        (1, ZeroBackend.deepspeed),
        (3, ZeroBackend.deepspeed),
    ],
)
def test_two_runs_are_the_same_bits(pool: Pool, stage: int, engine: ZeroBackend) -> None:
    pipelined = engine is ZeroBackend.fsdp2 or stage < 2
    dims = ParallelDims(dp=2, pp=2) if pipelined else ParallelDims(dp=2, tp=2)
    case = Case(dims, stage=stage, engine=engine, steps=2)
    first, second = pool.run(4, train_all, [case, case])[0]
    assert first.losses == second.losses
    assert first.norms == second.norms
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.mark.parametrize(
    ("stage", "engine"),
    [
        (0, ZeroBackend.fsdp2),
        (1, ZeroBackend.fsdp2),
        (3, ZeroBackend.fsdp2),
        (1, ZeroBackend.deepspeed),
        (2, ZeroBackend.deepspeed),
        (3, ZeroBackend.deepspeed),
    ],
)
def test_fp16_skips_overflows_on_all_ranks_and_scales_again(
    pool: Pool, stage: int, engine: ZeroBackend
) -> None:
    pipelined = engine is ZeroBackend.fsdp2 or stage < 2
    dims = ParallelDims(dp=2, pp=2) if pipelined else ParallelDims(dp=2, tp=2)
    fp16 = Case(dims, stage=stage, engine=engine, dtype=DType.fp16, steps=4)
    # The first scale overflows whatever the gradients; 2**10 none of them. The window is two steps.
    overflowing, fitting = (
        replace(fp16, initial_loss_scale=2.0**40),
        replace(fp16, initial_loss_scale=2.0**10),
    )
    for skipping, training in pool.run(4, train_all, [replace(overflowing, steps=2), fitting]):
        assert skipping.skipped == [True, True]
        assert skipping.scales == [2.0**40, 2.0**39]
        assert training.skipped == [False] * 4
        assert training.scales == [2.0**10, 2.0**10, 2.0**11, 2.0**11]
    untrained = pool.run(1, train, replace(ALONE, dtype=DType.fp16, steps=0))[0]
    assert all(torch.equal(skipping.weights[name], untrained.weights[name]) for name in untrained.weights)
