"""Initial weights are the same bits however a parameter is cut."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.model import init
from orchestrate.model.init import initialise
from orchestrate.model.sharding import Sharding


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from([4, 12, 24]),
    columns=st.sampled_from([4, 8, 20]),
    dim=st.sampled_from([0, 1]),
    ranks=st.sampled_from([1, 2, 4]),
    blocks=st.sampled_from([1, 2]),
)
def test_slices_of_all_ranks_are_the_whole_parameter(
    rows: int, columns: int, dim: int, ranks: int, blocks: int
) -> None:
    shape = (rows * blocks, columns) if dim == 0 else (rows, columns * blocks)
    whole = torch.empty(shape)
    initialise(whole, "layers.0.mlp.up.weight", Sharding(shape, init_std=0.02), seed=7)
    block = shape[dim] // blocks
    length = block // ranks
    assembled = torch.full(shape, math.nan)
    for rank in range(ranks):
        segments = tuple((b * block + rank * length, length) for b in range(blocks))
        sharding = Sharding(shape, dim, segments, init_std=0.02)
        local = torch.empty(sharding.local_shape)
        initialise(local, "layers.0.mlp.up.weight", sharding, seed=7)
        assert torch.equal(local, sharding.take(whole))
        sharding.put(local, assembled)
    assert torch.equal(assembled, whole)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_parameter_of_several_blocks_of_rows_is_cut_alike(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "_BLOCK_ELEMENTS", 64)  # so that 40 x 8 takes five draws
    shape = (40, 8)
    whole = torch.empty(shape)
    initialise(whole, "w", Sharding(shape, init_std=1.0), seed=0)
    for start in range(0, shape[dim], shape[dim] // 4):
        sharding = Sharding(shape, dim, ((start, shape[dim] // 4),), init_std=1.0)
        local = torch.empty(sharding.local_shape)
        initialise(local, "w", sharding, seed=0)
        assert torch.equal(local, sharding.take(whole))


def test_padding_is_zero_and_never_written_back() -> None:
    sharding = Sharding((10, 4), 0, ((8, 2),), padding=2, init_std=1.0)
    local = torch.empty(sharding.local_shape)
    initialise(local, "w", sharding, seed=0)
    assert local.shape == (4, 4)
    assert torch.equal(local[2:], torch.zeros(2, 4))
    full = torch.zeros(10, 4)
    sharding.put(local, full)
    assert torch.equal(full[8:], local[:2])
    assert not full[:8].any()


def test_names_and_seeds_draw_different_values_of_the_asked_deviation() -> None:
    def draw(name: str, seed: int) -> torch.Tensor:
        parameter = torch.empty(512, 256)
        initialise(parameter, name, Sharding((512, 256), init_std=0.02), seed)
        return parameter

    first = draw("a", 0)
    assert torch.equal(first, draw("a", 0))
    assert not torch.equal(first, draw("b", 0))
    assert not torch.equal(first, draw("a", 1))
    assert abs(first.std().item() / 0.02 - 1) < 0.01  # five standard errors of 131,072 draws
