"""What a search turned down, counted by reason, with the best example of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from orchestrate.plan.choice import Choice, Violation
from orchestrate.plan.plan import Rejection

RULED_OUT = float("inf")
"""How near to being chosen a layout is that a rule forbids: not at all."""


class Tally:
    """Counts by reason. Of the layouts turned down for one reason, the one nearest to being chosen is kept
    as the example."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._nearest: dict[str, float] = {}
        self._examples: dict[str, Callable[[], tuple[str, str]]] = {}

    def forbid(self, choice: Choice, violation: Violation) -> None:
        """Count a rule broken by ``choice``, which may leave things open: it counts once."""
        self.add(violation[0], RULED_OUT, lambda: (str(choice), violation[1]))

    def add(
        self, reason: str, distance: float, example: Callable[[], tuple[str, str]], layouts: int = 1
    ) -> None:
        """Count ``layouts`` alike, ``distance`` (the less the nearer) from being chosen; ``example`` gives
        the name of one and the sentence with its numbers."""
        self._counts[reason] += layouts
        if reason not in self._nearest or distance < self._nearest[reason]:
            self._nearest[reason] = distance
            self._examples[reason] = example

    @property
    def total(self) -> int:
        """Of all reasons."""
        return sum(self._counts.values())

    def rejections(self) -> tuple[Rejection, ...]:
        """One per reason, the commonest first."""
        return tuple(
            Rejection(layout, reason, detail, layouts)
            for reason, layouts in self._counts.most_common()
            for layout, detail in [self._examples[reason]()]
        )
