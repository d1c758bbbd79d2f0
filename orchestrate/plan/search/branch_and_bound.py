"""The best layouts of a space, without looking at all of them: best first, branch and bound.

Of all open nodes of the tree the one with the lowest bound is opened next. Once as many layouts as
wanted are known and the lowest bound of what is left lies above the worst of them, nothing left can be
better (Land and Doig 1960): the rest is counted, not looked at.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from orchestrate.plan.choice import Layout
from orchestrate.plan.plan import MemoryEstimate
from orchestrate.plan.search.bounds import ROUNDING, Bounds
from orchestrate.plan.search.candidate import Candidate, Models, peak, running_out
from orchestrate.plan.search.space import Space, TreeNode
from orchestrate.plan.search.tally import Tally
from orchestrate.plan.units import gib

SLOWER = "slower"
SLOWER_BY_BOUND = "slower, by a bound"
TOO_LARGE = "does not fit the memory"
TOO_RISKY = "too likely to run out of memory"
PAUSE = 64
"""Nodes between two reports of progress."""


@dataclass(frozen=True)
class Progress:
    """How far a search is."""

    nodes: int
    """Opened so far."""
    open: int
    """Known and not opened."""
    best: float | None
    """Seconds of the fastest layout so far."""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Search:
    """What a search works with. ``risk`` is the largest probability of running out of memory that a layout
    may have; ``tally`` hears of every layout that is not returned."""

    space: Space
    models: Models
    bounds: Bounds
    tally: Tally
    risk: float
    report: Report | None = None

    def fastest(self, wanted: int) -> list[Candidate]:
        """The ``wanted`` fastest layouts, the fastest first; fewer where no more are allowed."""
        found: list[Candidate] = []

        def beaten(bound: float) -> bool:
            return len(found) == wanted and bound > found[-1].time.step

        def keep(node: TreeNode, bound: float) -> bool:
            if (least := self.bounds.bytes(node)) > self.models.capacity:
                self._too_large(node, least)
                return False
            if beaten(bound):
                self._too_slow(node, bound)
                return False
            return True

        queue = _Queue(self.bounds.seconds, keep)
        queue.push(child for root in self.space.roots() for child in self.space.children(root))
        for opened, (bound, node, tightened) in enumerate(queue):
            if self.report is not None and opened % PAUSE == 0:
                self.report(Progress(opened, len(queue), found[0].time.step if found else None))
            if beaten(bound):
                self._too_slow(node, bound)
            elif not node.complete:
                queue.push(self.space.children(node))
            elif not tightened:
                queue.tighten(node, max(bound, ROUNDING * self.models.least(self.space.layout(node))))
            elif (candidate := self._candidate(node)) is not None:
                insort(found, candidate, key=lambda one: one.preference)
                if len(found) > wanted:
                    self._slower(found.pop(), found[0])
        for other in found[1:]:
            self._slower(other, found[0])
        return found

    def leanest(
        self, enough: Callable[[MemoryEstimate], bool] | None = None
    ) -> tuple[Layout, MemoryEstimate] | None:
        """The layout whose fullest rank holds the least, and what it holds, whether it fits or not; None
        where the rules allow none. The first to be found that is lean ``enough`` will do."""
        best: tuple[Layout, MemoryEstimate] | None = None
        queue = _Queue(self.bounds.bytes, lambda _node, least: best is None or least < best[1].total)
        queue.push(child for root in self.space.roots() for child in self.space.children(root))
        for least, node, _tightened in queue:
            if best is not None and (least >= best[1].total or (enough is not None and enough(best[1]))):
                break
            if not node.complete:
                queue.push(self.space.children(node))
                continue
            layout = self.space.layout(node)
            fullest = peak(self.models.memory(layout))
            if best is None or fullest.total < best[1].total:
                best = layout, fullest
        return best

    def _candidate(self, node: TreeNode) -> Candidate | None:
        layout = self.space.layout(node)
        memory = self.models.memory(layout)
        if (reason := turned_down(memory, self.risk)) is None:
            return self.models.candidate(layout, memory)
        fullest = peak(memory)
        rank = memory.index(fullest)
        self.tally.add(
            reason,
            fullest.total / fullest.capacity,
            lambda: (str(layout), _amount(fullest, rank, reason)),
        )
        return None

    def _too_large(self, node: TreeNode, least: float) -> None:
        capacity = self.models.capacity
        self.tally.add(
            TOO_LARGE,
            least / capacity,
            lambda: (
                str(self.space.choice(node)),
                f"needs at least {gib(least)} GiB of {gib(capacity)} GiB",
            ),
            self.space.count(node),
        )

    def _too_slow(self, node: TreeNode, bound: float) -> None:
        self.tally.add(
            SLOWER_BY_BOUND,
            bound,
            lambda: (str(self.space.choice(node)), f"takes at least {bound:.3g} s a step"),
            self.space.count(node),
        )

    def _slower(self, other: Candidate, best: Candidate) -> None:
        step, least = other.time.step, best.time.step
        self.tally.add(
            SLOWER,
            step,
            lambda: (
                str(other.layout),
                f"{step:.3g} s a step, {step / least - 1:.1%} over the chosen one",
            ),
        )


class _Queue:
    """Open nodes, the one with the lowest bound first."""

    def __init__(self, bound: Callable[[TreeNode], float], keep: Callable[[TreeNode, float], bool]) -> None:
        self._bound, self._keep = bound, keep
        self._heap: list[tuple[float, int, TreeNode, bool]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[tuple[float, TreeNode, bool]]:
        """The lowest bound, its node, and whether it was tightened."""
        while self._heap:
            bound, _pushed, node, tightened = heapq.heappop(self._heap)
            yield bound, node, tightened

    def push(self, nodes: Iterable[TreeNode]) -> None:
        for node in nodes:
            bound = self._bound(node)
            if self._keep(node, bound):
                self._push(node, bound, tightened=False)

    def tighten(self, node: TreeNode, bound: float) -> None:
        """Put back ``node``, of which a better ``bound`` is now known."""
        if self._keep(node, bound):
            self._push(node, bound, tightened=True)

    def _push(self, node: TreeNode, bound: float, *, tightened: bool) -> None:
        # Of equal bounds the latest is the deepest: that finds complete layouts early.
        self._pushed -= 1
        heapq.heappush(self._heap, (bound, self._pushed, node, tightened))


def turned_down(memory: tuple[MemoryEstimate, ...], risk: float) -> str | None:
    """Why the memory forbids a layout, if it does."""
    fullest = peak(memory)
    if not fullest.fits:
        return TOO_LARGE
    return TOO_RISKY if running_out(memory) > risk else None


def _amount(fullest: MemoryEstimate, rank: int, reason: str) -> str:
    needs = f"stage {rank} needs {gib(fullest.total)} GiB of {gib(fullest.capacity)} GiB"
    if reason == TOO_LARGE:
        return needs
    return f"{needs}: runs out with a probability of {running_out((fullest,)):.0%}"
