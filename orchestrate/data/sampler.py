"""Which tokens make up global sample n: a function of the seed and n, and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrate.data.permutation import shuffled
from orchestrate.data.stream import View

PERIOD = 1 << 16
"""Samples after which the interleaving of a blend repeats; weights are met to one part in so many."""


class Sampler(Protocol):
    seq: int
    """Tokens per sample that are predicted; a sample has one more."""
    windows: int
    """Different samples there are; later ones repeat them."""

    def sample(self, n: int) -> NDArray[np.int64]:
        """Tokens [seq + 1] of global sample ``n`` (0 and up, without end)."""
        ...


class WindowSampler:
    """Windows of seq + 1 tokens of ``view``, neighbours sharing one token, each once per epoch.

    ``key`` picks the order. With ``reshuffle`` every epoch has its own, otherwise all have the first's.
    """

    def __init__(self, view: View, seq: int, key: str, *, reshuffle: bool) -> None:
        self.seq = seq
        self.windows = max(0, (view.tokens - 1) // seq)
        self._view = view
        self._key = key
        self._reshuffle = reshuffle

    def window(self, n: int) -> int:
        """The window (0 … windows - 1, in the order of the tokens) that sample ``n`` is."""
        epoch, index = divmod(n, self.windows)
        return shuffled(index, self.windows, f"{self._key}/{epoch if self._reshuffle else 0}")

    def sample(self, n: int) -> NDArray[np.int64]:
        return self._view.read(self.window(n) * self.seq, self.seq + 1)


class BlendSampler:
    """Samples of several samplers, evenly interleaved in the ratio of ``weights``."""

    def __init__(self, samplers: Sequence[Sampler], weights: Sequence[float]) -> None:
        self.seq = samplers[0].seq
        self.windows = sum(sampler.windows for sampler in samplers)
        self._samplers = tuple(samplers)
        self._counts = shares(weights)
        self._sources, self._earlier = _interleave(self._counts)

    def locate(self, n: int) -> tuple[int, int]:
        """The source that sample ``n`` comes from, and which of that source's samples it is."""
        period, position = divmod(n, PERIOD)
        source = int(self._sources[position])
        return source, period * self._counts[source] + int(self._earlier[position])

    def sample(self, n: int) -> NDArray[np.int64]:
        source, index = self.locate(n)
        return self._samplers[source].sample(index)


def shares(weights: Sequence[float]) -> list[int]:
    """Samples of a period that each source gives: in the ratio of ``weights`` (any scale), at least one."""
    assert len(weights) <= PERIOD, "a source per sample at most"
    exact = [weight / sum(weights) * PERIOD for weight in weights]
    counts = [max(1, int(value)) for value in exact]
    # What rounding left over or took too much goes to the sources furthest from their due.
    while (missing := PERIOD - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        candidates = [i for i, count in enumerate(counts) if count + step >= 1]
        counts[max(candidates, key=lambda i: (exact[i] - counts[i]) * step)] += step
    return counts


def _interleave(counts: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The source of each sample in a period [PERIOD], and how many of that source came before [PERIOD]."""
    # The k-th of a source's c samples is due at (k + 1/2) / c of the period; samples go in order of time.
    times = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    sources = np.concatenate([np.full(count, i, dtype=np.int32) for i, count in enumerate(counts)])
    ordinals = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    order = np.argsort(times, kind="stable")
    return sources[order], ordinals[order]
