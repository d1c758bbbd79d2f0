"""Which fault comes when: drawn once by a seed, so that a campaign can be repeated and continued."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

LAYOUT = "half"
"""The kind that changes the layout: up to there, losses have to be the same bits."""


@dataclass(frozen=True)
class Planned:
    number: int
    kind: str
    step: int
    """It comes while this step or one soon after is made."""
    delay_s: float
    """So long after that step began."""


def schedule(counts: Mapping[str, int], seed: int, first: int, gap: int) -> list[Planned]:
    """So many faults of each kind, in random order, one in each ``gap`` steps from step ``first`` on.

    Those that change the layout come in the last third.
    """
    rng = random.Random(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count) if kind != LAYOUT]
    rng.shuffle(kinds)
    for _ in range(counts.get(LAYOUT, 0)):
        kinds.insert(rng.randint(2 * len(kinds) // 3, len(kinds)), LAYOUT)
    return [
        Planned(number, kind, first + number * gap + rng.randrange(gap), rng.uniform(0.0, 0.5))
        for number, kind in enumerate(kinds)
    ]
