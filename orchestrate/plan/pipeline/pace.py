"""How long a program of rounds takes, without running every round.

The end of an action is the later of two earlier ends, plus a constant. Once every action ends a fixed
time later than it did some rounds before, and wherever one of two ends decides it is the same one, the
rounds ahead are the last ones moved on: until the other end, if it gains, has caught up. So rounds
are skipped up to the first such moment, and run again from there. What is skipped is exact but for
rounding (the theory: Baccelli et al. 1992, Synchronization and Linearity, chapter 3).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrate.plan.pipeline.rounds import Node, Program, Repeat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Cost = tuple[float, float, float]
"""Seconds between the end of the rank's last action and this one, of its input's way, of the action."""

ROUNDING = 1e-13
"""Of the time so far: what two times may differ by and count as one. Several hundred roundings."""

LONGEST_CYCLE = 128
"""Rounds after which the pace may repeat: with slow sends a micro-batch and its gradient go round a
pipeline of that many stages before the next can start."""


def last_end(program: Program, times: int, costs: Sequence[Cost], blocking: bool) -> float:
    """The end of the last action when each repeat comes ``times`` more times.

    Args:
        costs: by `Program.turns` if ``blocking``, else by `Program.work`.
    """
    ends = [0.0]  # before the first action stands the start of the step
    done = 0
    for repeat in program.repeats if times else ():
        _run(program.nodes[done : repeat.at], ends, costs, blocking)
        _repeat(repeat, times, ends, costs, blocking)
        done = repeat.at
    _run(program.nodes[done:], ends, costs, blocking)
    return max(ends)


def _run(nodes: Sequence[Node], ends: list[float], costs: Sequence[Cost], blocking: bool) -> None:
    add = ends.append
    if blocking:
        for rank, source, _, turn in nodes:
            gap, send, work = costs[turn]
            free, there = ends[rank] + gap, ends[source] + send
            add((free if free > there else there) + work)
    else:
        for rank, source, code, _ in nodes:
            _, send, work = costs[code]
            free, there = ends[rank], ends[source] + send
            add((free if free > there else there) + work)


def _repeat(repeat: Repeat, times: int, ends: list[float], costs: Sequence[Cost], blocking: bool) -> None:
    """Adds the ends of ``times`` rounds; of those that are skipped, only what later ones look back to."""
    length = len(repeat.nodes)
    since = repeat.settled - repeat.at + len(ends)  # from here on ``ends`` are of rounds that are alike
    keep = -(-max(repeat.within, repeat.after) // length)
    while times:
        pace = _pace(repeat, ends[since:], costs, blocking)
        if pace is not None:
            skipped = min(times, pace.holds * pace.rounds)
            shown = min(skipped, keep)
            if shown < skipped:
                since = len(ends)
            for cycle, position in (divmod(r, pace.rounds) for r in range(skipped - shown, skipped)):
                ends.extend((pace.last[position] + (cycle + 1) * pace.growth[position]).tolist())
            times -= skipped
        # Looking costs about as much as running a few hundred actions.
        rounds = min(times, max(1, 256 // length, (len(ends) - since) // (4 * length)))
        for _ in range(rounds):
            _run(repeat.nodes, ends, costs, blocking)
        times -= rounds


@dataclass(frozen=True)
class _Pace:
    """Over the last ``rounds`` rounds every end has grown as over those before."""

    rounds: int
    last: NDArray[np.float64]
    """Their ends, by round and action."""
    growth: NDArray[np.float64]
    """How much later each is than ``rounds`` rounds before."""
    holds: int
    """How often it will go on so, until another end decides somewhere."""


def _pace(repeat: Repeat, history: Sequence[float], costs: Sequence[Cost], blocking: bool) -> _Pace | None:
    """The pace that the ends in ``history`` have fallen into, if they have."""
    import numpy as np

    length, back = len(repeat.nodes), repeat.within
    cycles = min((len(history) - back) // (2 * length), LONGEST_CYCLE)
    if cycles < 1:
        return None
    ends = np.array(history[-(2 * cycles * length + back) :])
    same = ROUNDING * ends[-1]
    for cycle in range(1, cycles + 1):
        span = cycle * length
        growth = ends[span:] - ends[:-span]
        # A quick look first: what the last actions look back to has grown as it did a cycle before.
        if abs(growth[-1] - growth[-1 - span]) > same:
            continue
        if np.abs(growth[-back:] - growth[-back - span : -span]).max() > same:
            continue
        holds = _holds(repeat, ends, growth, span, costs, blocking)
        if holds:
            by_round = cycle, length
            return _Pace(cycle, ends[-span:].reshape(by_round), growth[-span:].reshape(by_round), holds)
    return None


def _holds(
    repeat: Repeat,
    ends: NDArray[np.float64],
    growth: NDArray[np.float64],
    span: int,
    costs: Sequence[Cost],
    blocking: bool,
) -> int:
    """How often the last ``span`` ends will grow as they did; ``growth`` lacks the first ``span``."""
    import numpy as np

    nodes = np.tile(np.array(repeat.nodes), (span // len(repeat.nodes), 1))
    cost = np.array(costs)[nodes[:, 3 if blocking else 2]]
    place = np.arange(len(ends) - span, len(ends))
    rank, source = place + nodes[:, 0], place + nodes[:, 1]
    lead = ends[rank] + (cost[:, 0] if blocking else 0.0) - ends[source] - cost[:, 1]
    by_rank, by_source, own = growth[rank - span], growth[source - span], growth[place - span]
    same = ROUNDING * ends[-1]
    level = np.abs(lead) <= same
    decides = np.where(level, np.maximum(by_rank, by_source), np.where(lead > 0, by_rank, by_source))
    if np.abs(own - decides).max() > same:
        return 0
    gain = np.where(lead > 0, by_source - by_rank, by_rank - by_source)
    gaining = (gain > same) & ~level
    if not gaining.any():
        return sys.maxsize
    return int((np.abs(lead[gaining]) / gain[gaining]).min())
