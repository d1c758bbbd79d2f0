"""Sample n depends on the seed and n alone, and an epoch has every window once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.data.loader import Loader
from orchestrate.data.permutation import shuffled
from orchestrate.data.sampler import PERIOD, BlendSampler, WindowSampler, shares
from orchestrate.data.stream import FEWEST_DOCUMENTS, Part, Stream, View, split


def stream_of(lengths: list[int], parts: int = 1) -> Stream:
    """Documents of ``lengths`` over ``parts`` arrays; the token at offset i is i."""
    made, first = [], 0
    for chunk in np.array_split(np.array(lengths, dtype=np.int64), parts):
        offsets = np.concatenate([[0], np.cumsum(chunk)]).astype(np.int64)
        made.append(Part(np.arange(first, first + offsets[-1], dtype=np.int32), offsets))
        first += int(offsets[-1])
    return Stream(made)


def whole(tokens: int) -> View:
    return View(stream_of([tokens]), np.array([0]), np.array([tokens]))


@given(size=st.integers(1, 3000), key=st.text(max_size=8))
def test_a_shuffle_is_a_permutation(size: int, key: str) -> None:
    assert sorted(shuffled(i, size, key) for i in range(size)) == list(range(size))


def test_a_shuffle_works_for_sizes_no_array_could_have() -> None:
    size = 10**15
    places = [shuffled(i, size, "seed") for i in range(2000)]
    assert len(set(places)) == 2000
    # Evenly spread: each tenth of the range gets its 200 but for five standard deviations.
    assert all(abs(n - 200) < 5 * 200**0.5 for n in Counter(p * 10 // size for p in places).values())


def test_keys_give_every_order() -> None:
    orders = {tuple(shuffled(i, 4, str(key)) for i in range(4)) for key in range(400)}
    assert len(orders) == 24


def test_a_shuffle_is_pinned() -> None:
    """Runs must go on over new versions of this package with the data they began with."""
    assert [shuffled(i, 10, "train/0/0/0") for i in range(10)] == [6, 9, 8, 7, 3, 0, 5, 4, 2, 1]


@given(
    tokens=st.integers(3, 400), seq=st.integers(1, 40), seed=st.integers(0, 2**63), epoch=st.integers(0, 5)
)
def test_an_epoch_has_every_window_once(tokens: int, seq: int, seed: int, epoch: int) -> None:
    if tokens < seq + 1:
        return
    sampler = WindowSampler(whole(tokens), seq, f"train/{seed}", reshuffle=True)
    n = sampler.windows
    assert n == (tokens - 1) // seq
    samples = [sampler.sample(i) for i in range(epoch * n, (epoch + 1) * n)]
    assert sorted(int(s[0]) for s in samples) == [i * seq for i in range(n)]
    assert all((np.diff(s) == 1).all() and len(s) == seq + 1 for s in samples)


def test_epochs_and_seeds_differ_and_validation_repeats() -> None:
    view = whole(1001)
    a, b = (WindowSampler(view, 10, f"train/{seed}", reshuffle=True) for seed in (0, 1))
    fixed = WindowSampler(view, 10, "validation", reshuffle=False)
    first = [a.window(i) for i in range(100)]
    assert first != [a.window(i) for i in range(100, 200)]
    assert first != [b.window(i) for i in range(100)]
    assert [fixed.window(i) for i in range(100)] == [fixed.window(i) for i in range(100, 200)]


@given(
    share=st.integers(1, 4),
    layouts=st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=4),
    seed=st.integers(0, 100),
)
def test_replicas_together_read_the_global_samples(share: int, layouts: list[int], seed: int) -> None:
    """A run that changes its dp degree from step to step reads what a run of one replica reads."""
    sampler = WindowSampler(whole(500), 7, f"train/{seed}", reshuffle=True)
    batch = 12 * share
    for step, dp in enumerate(layouts):
        parts = [Loader(sampler, batch, rank, dp).batch(step) for rank in range(dp)]
        assert torch.cat([p.samples for p in parts]).tolist() == list(range(step * batch, (step + 1) * batch))
        expected = np.stack([sampler.sample(n) for n in range(step * batch, (step + 1) * batch)])
        assert torch.equal(torch.cat([p.tokens for p in parts]), torch.from_numpy(expected))


@given(steps=st.lists(st.integers(0, 30), min_size=1, max_size=12), workers=st.integers(0, 3))
def test_reading_ahead_changes_nothing(steps: list[int], workers: int) -> None:
    """Whatever steps are asked for in whatever order: a restart, a step again, a jump back."""
    sampler = WindowSampler(whole(300), 5, "train/3", reshuffle=True)
    plain = Loader(sampler, 8, 1, 2)
    with Loader(sampler, 8, 1, 2, workers) as ahead:
        for step in steps:
            got, expected = ahead.batch(step), plain.batch(step)
            assert torch.equal(got.tokens, expected.tokens)
            assert torch.equal(got.samples, expected.samples)
            assert got.tokens.dtype == got.samples.dtype == torch.int64
            assert got.tokens.shape == (4, 6)


def test_an_error_while_reading_ahead_arrives() -> None:
    class Broken:
        seq, windows = 4, 1

        def sample(self, n: int) -> np.ndarray:
            raise RuntimeError(f"sample {n}")

    with Loader(Broken(), 2, 0, 1, workers=1) as loader, pytest.raises(RuntimeError, match="sample 0"):
        loader.batch(0)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=150),
    parts=st.integers(1, 4),
    fraction=st.floats(0.001, 0.9),
)
def test_a_split_is_all_of_the_stream_and_shares_nothing(
    lengths: list[int], parts: int, fraction: float
) -> None:
    stream = stream_of(lengths, parts)
    train, validation = split(stream, fraction)
    seen = [train.read(0, train.tokens), validation.read(0, validation.tokens)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(sum(lengths)))
    assert all((np.diff(s) > 0).all() for s in seen), "in the order of the stream"
    if int(len(lengths) * fraction) >= FEWEST_DOCUMENTS:
        ends = np.cumsum(lengths)
        for tokens in seen:  # whole documents: a document's first token brings all the others
            documents = Counter(np.searchsorted(ends, tokens, side="right").tolist())
            assert all(lengths[document] == count for document, count in documents.items())


@given(
    data=st.data(), lengths=st.lists(st.integers(0, 20), min_size=80, max_size=120), parts=st.integers(1, 3)
)
def test_a_view_reads_across_segments_and_parts(data: st.DataObject, lengths: list[int], parts: int) -> None:
    train, _ = split(stream_of(lengths, parts), 0.25)
    everything = train.read(0, train.tokens)
    start = data.draw(st.integers(0, train.tokens))
    count = data.draw(st.integers(0, train.tokens - start))
    assert train.read(start, count).tolist() == everything[start : start + count].tolist()


def test_a_tenth_of_the_documents_is_a_tenth() -> None:
    _, validation = split(stream_of([5] * 1000), 0.1)
    assert validation.tokens == 500
    assert [start // 5 % 10 for start, _ in validation.segments] == [9] * 100


@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_a_blend_meets_its_weights_and_skips_no_sample(weights: list[float]) -> None:
    samplers = [WindowSampler(whole(100), 4, str(i), reshuffle=True) for i in range(len(weights))]
    mixed = BlendSampler(samplers, weights)
    assert sum(shares(weights)) == PERIOD
    seen = Counter[int]()
    for n in range(300):
        source, index = mixed.locate(n)
        assert index == seen[source], "a source's samples come one by one"
        seen[source] += 1
        # At every prefix, not only over a whole period.
        due = weights[source] / sum(weights) * (n + 1)
        assert abs(seen[source] - due) <= len(weights) + n * 2 / PERIOD


@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5), period=st.integers(1, 3))
def test_a_blend_goes_on_over_its_period(weights: list[float], period: int) -> None:
    mixed = BlendSampler([WindowSampler(whole(100), 4, "x", reshuffle=True)] * len(weights), weights)
    seen = {source: count * period for source, count in enumerate(shares(weights))}
    for n in range(period * PERIOD, period * PERIOD + 50):
        source, index = mixed.locate(n)
        assert index == seen[source]
        seen[source] += 1


def test_a_tiny_weight_is_not_forgotten() -> None:
    assert shares([1.0, 1e-9]) == [PERIOD - 1, 1]
    assert shares([3, 1]) == [PERIOD * 3 // 4, PERIOD // 4]
