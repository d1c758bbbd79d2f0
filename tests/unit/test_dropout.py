"""Dropout is a function of place, sample and position, whoever computes it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.model.dropout import dropout, keep_mask, site_key


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    seq_parts=st.sampled_from([1, 2, 4]),
    micro=st.sampled_from([1, 2, 4]),
    p=st.sampled_from([0.1, 0.5]),
)
def test_parts_of_the_sequence_and_batch_get_their_part_of_the_whole_mask(
    seed: int, seq_parts: int, micro: int, p: float
) -> None:
    s, b, features = 8, 4, 6
    x = torch.ones(s, b, features)
    samples = torch.arange(100, 100 + b)
    key = site_key(seed, "layers.3.mlp_dropout")
    whole = dropout(x, p, key, samples, 0, s)
    length = s // seq_parts
    for part in range(seq_parts):
        for start in range(0, b, micro):
            rows, columns = slice(part * length, (part + 1) * length), slice(start, start + micro)
            piece = dropout(x[rows, columns], p, key, samples[columns], part * length, s)
            assert torch.equal(piece, whole[rows, columns])


def test_the_kept_share_and_scale_leave_the_mean_alone() -> None:
    x = torch.ones(256, 8, 64)
    y = dropout(x, 0.3, site_key(1, "here"), torch.arange(8), 0, 256)
    kept = (y != 0).float().mean().item()
    # 131,072 draws: five standard deviations of the mean are 0.0063.
    assert abs(kept - 0.7) < 0.0064
    assert torch.allclose(y[y != 0], torch.tensor(1 / 0.7))


def test_places_seeds_and_samples_draw_independently() -> None:
    counters = torch.arange(1 << 16)
    masks = [
        keep_mask(0.5, site_key(seed, name), counters + offset)
        for seed, name, offset in [(0, "a", 0), (0, "b", 0), (1, "a", 0), (0, "a", 1 << 20)]
    ]
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            agreement = (one == other).float().mean().item()
            assert abs(agreement - 0.5) < 0.01  # five standard deviations of 65,536 fair draws


def test_neighbouring_elements_are_uncorrelated() -> None:
    kept = keep_mask(0.5, site_key(0, "a"), torch.arange(1 << 16)).float() - 0.5
    for lag in (1, 2, 64, 1024):
        assert abs((kept[:-lag] * kept[lag:]).mean().item()) < 0.25 * 5 / 256
