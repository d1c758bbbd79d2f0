"""Cutting the layers into contiguous virtual stages of as equal cost as whole layers allow."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import accumulate, pairwise

from orchestrate.plan.plan import StageLayers


def split_layers(
    layers: int, stages: int, layer: float, first: float = 0.0, last: float = 0.0
) -> tuple[StageLayers, ...]:
    """Cut ``layers`` equal layers into ``stages`` so that the costliest stage is as cheap as can be.

    Costs share any unit: ``layer`` of one layer, ``first`` and ``last`` of what else the first and
    the last stage do (embedding; head and loss). Every stage gets at least one layer. Where two
    stages would cost the same, the later one gets the layer, because earlier stages of a pipeline
    hold more activations.

    Raises:
        ValueError: fewer layers than stages.
    """
    if layers < stages:
        raise ValueError(f"{layers} layers cannot fill {stages} stages")
    extra = [0.0] * stages
    extra[0] += first
    extra[-1] += last
    sizes = [1] * stages
    # All layers cost the same, so giving each to the stage that stays cheapest is optimal.
    heap = [(extra[s] + 2 * layer, -s) for s in range(stages)]
    heapq.heapify(heap)
    for _ in range(layers - stages):
        cost, stage = heap[0]
        sizes[-stage] += 1
        heapq.heapreplace(heap, (cost + layer, stage))
    return from_sizes(sizes)


def from_sizes(sizes: Sequence[int]) -> tuple[StageLayers, ...]:
    """Stages of ``sizes`` layers each, first to last."""
    return tuple(StageLayers(a, b) for a, b in pairwise(accumulate(sizes, initial=0)))
