"""The pipeline of one step on devices that share cores: a rank that waits leaves them to the others."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from orchestrate.config import Schedule
from orchestrate.plan.layout import pipeline_rank
from orchestrate.plan.pipeline.actions import Action, Kind, action_list
from orchestrate.plan.pipeline.simulate import StageTimes, input_of

_SAME = 1 + 1e-9
"""What ends within this of the next action ends with it."""


def shared_makespan(
    schedule: Schedule,
    pp: int,
    vpp: int,
    micro_batches: int,
    times: StageTimes,
    handled: Sequence[float],
    crowding: float,
) -> float:
    """Seconds of a step, by processor sharing: ``times`` are of all ``pp`` ranks at work; where only k are,
    each is min(``crowding``, ``pp`` / k) times as quick.

    Args:
        handled: by boundary between stages, the seconds of a crowd for which a message keeps the cores of
            both its sides; for the rest of its time it needs nobody's.
        crowding: how much quicker a rank is alone.

    Raises:
        ValueError: ``vpp`` or the number of micro-batches does not suit the schedule.
    """
    lists = action_list(schedule, pp, vpp, micro_batches)
    rank_of = [pipeline_rank(schedule, pp, stage) for stage in range(pp * vpp)]

    def crossed(stage: int, other: int) -> int | None:
        """The boundary between neighbouring stages of two ranks."""
        apart = 0 <= other < len(rank_of) and rank_of[stage] != rank_of[other]
        return min(stage, other) if apart else None

    def onward(action: Action) -> int | None:
        if action.kind is Kind.weights:
            return None
        return crossed(action.stage, action.stage + (1 if action.kind is Kind.forward else -1))

    def work(action: Action) -> float:
        needed = input_of(action, len(rank_of))
        boundaries = onward(action), None if needed is None else crossed(action.stage, needed[1])
        return times.of(action.kind, action.stage) + sum(handled[b] for b in boundaries if b is not None)

    arrives: dict[tuple[bool, int, int], float] = {}  # by direction, stage and micro-batch of the output
    done = [0] * pp
    left: dict[int, float] = {}  # by rank at work, of a crowd's seconds
    clock = 0.0
    while True:
        later = []
        for rank, mine in enumerate(lists):
            if rank in left or done[rank] == len(mine):
                continue
            action = mine[done[rank]]
            needed = input_of(action, len(rank_of))
            at = 0.0 if needed is None else arrives.get(needed)
            if at is not None and at <= clock:
                left[rank] = work(action)
            elif at is not None:
                later.append(at)
        if not left and not later:
            assert all(count == len(mine) for count, mine in zip(done, lists, strict=True))
            return clock
        quicker = min(crowding, pp / len(left)) if left else 0.0
        passed = min(left.values(), default=inf)
        if later and (min(later) - clock) * quicker < passed:
            passed = (min(later) - clock) * quicker
            clock = min(later)
        else:
            clock += passed / quicker
        ended = [rank for rank, seconds in left.items() if seconds <= passed * _SAME]
        left = {rank: seconds - passed for rank, seconds in left.items() if rank not in ended}
        for rank in ended:
            action = lists[rank][done[rank]]
            done[rank] += 1
            if action.kind is not Kind.weights:
                boundary = onward(action)
                wire = 0.0 if boundary is None else times.send[boundary] - handled[boundary]
                arrives[action.kind is Kind.forward, action.stage, action.micro_batch] = clock + wire
