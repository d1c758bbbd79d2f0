"""Which rank holds the others up. No torch here: the summary asks too.

Ranks wait for one another several times a step, so the time of a step is the same on all of them. What
tells them apart is the time that each was busy. Only ranks of one pipeline stage are compared: by plan,
stages may have unequal work.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrate.plan.layout import ParallelDims

NOTABLE, WORTH = 0.1, 0.05
"""To be named, a rank is busier than the median of its stage by this share of that, and costs this share of
the step time: below it is noise."""


@dataclass(frozen=True)
class Straggler:
    """The rank that the others wait for longest."""

    rank: int
    """The logical rank."""
    share: float
    """Of the step time: what the step would be shorter by, were it as quick as the median of its stage."""


def straggler(busy_s: Sequence[float], dims: ParallelDims, step_time_s: float) -> Straggler | None:
    """The slowest rank, where one stands out.

    Args:
        busy_s: seconds per step that each rank was busy, by logical rank.
        step_time_s: seconds per step.
    """
    stages: dict[int, list[int]] = {}
    for rank in range(len(busy_s)):
        stages.setdefault(dims.coordinates(rank).pp, []).append(rank)
    worst: Straggler | None = None
    for ranks in stages.values():
        # Of two, the quicker one is what the other could be.
        usual = statistics.median_low(busy_s[rank] for rank in ranks)
        slowest = max(ranks, key=lambda rank: busy_s[rank])
        excess = busy_s[slowest] - usual
        if usual <= 0 or excess <= NOTABLE * usual:
            continue
        share = min(1.0, excess / step_time_s)
        if share >= WORTH and (worst is None or share > worst.share):
            worst = Straggler(slowest, share)
    return worst
