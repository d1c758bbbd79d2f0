"""The least that a pipeline can take, from sums alone: enough to tell that a layout cannot win."""

from __future__ import annotations

from functools import lru_cache
from operator import add, sub

from orchestrate.config import Schedule
from orchestrate.plan.pipeline.schedule import in_flight
from orchestrate.plan.pipeline.simulate import StageTimes


def lower_bound(
    schedule: Schedule, pp: int, vpp: int, micro_batches: int, times: StageTimes, *, blocking: bool = False
) -> float:
    """Seconds that `makespan` is never below.

    A rank does all its work after the first micro-batch has come to it and before the last gradient
    goes on to the ranks before it; and from its first backward pass on, what is then left to do, after
    the first micro-batch has come back. The first, the last and the slowest rank are looked at: others
    seldom tell more. GPipe's is exact where sends do not block.
    """
    m, forward, backward, sends = micro_batches, times.forward, times.backward, times.send
    if pp == 1:
        return m * (forward[0] + backward[0])
    there = sum(forward) + sum(sends)
    if schedule is Schedule.gpipe and not blocking:
        return there + sum(backward) + sum(sends) + (m - 1) * (max(forward) + max(backward))
    vee, back = schedule is Schedule.zbv, backward
    busy = list(map(add, forward, backward))
    if vee:
        back = tuple(map(sub, backward, times.weight))
        there -= sends[pp - 1]  # the turn of the V is on one rank
        sends = (*sends[: pp - 1], 0.0, *sends[pp:])
        busy = list(map(add, busy[:pp], busy[: pp - 1 : -1]))
    elif vpp > 1:
        busy = [sum(busy[rank::pp]) for rank in range(pp)]
    slowest = pp - 1 - busy[::-1].index(max(busy))
    ahead = _ahead(schedule, pp, vpp, m)
    best = 0.0
    for rank in {0, slowest, pp - 1}:
        held = (rank, 2 * pp - 1 - rank) if vee else range(rank, pp * vpp, pp)
        top = held[-1]
        # Until micro-batch 0 comes, and comes back; from the last gradient here to the end.
        comes = sum(forward[:rank]) + sum(sends[:rank])
        comes_back = there + sum(back[top + 1 :]) + sum(sends[top:])
        goes = sum(back[:rank]) + sum(sends[:rank])
        whole = comes + m * busy[rank]
        rest = comes_back + m * busy[rank]
        for stage, started in zip(held, ahead[rank], strict=True):
            rest -= started * forward[stage]
        if blocking:
            # Whatever else comes from another rank keeps this one waiting, or its sends do.
            for stage, started in zip(held, ahead[rank], strict=True):
                below = sends[stage - 1] if stage > 0 else 0.0
                above = sends[stage] if stage < len(sends) else 0.0
                whole += m * (below + above)
                rest += (m - started) * below + m * above
            whole -= sends[rank - 1] if rank > 0 else 0.0
            rest -= sends[top] if top < len(sends) else 0.0
        least = max(whole, rest)
        if vee:
            # Some weight gradients are left for after the last input gradient.
            left = min(m, rank + 1) * times.weight[rank] + min(m, rank) * times.weight[top]
            least = max(least, least - left + goes + times.weight[0])
        else:
            least += goes
        if schedule is Schedule.one_f_one_b:
            # A micro-batch goes to the end and back before the one pp - rank after it can start.
            laps, more = divmod(m - 1, pp - rank)
            lap = comes_back - comes + back[rank]
            least = max(least, comes + (laps + 1) * lap + more * back[rank] + goes)
        best = max(best, least)
    return best


@lru_cache(maxsize=4096)
def _ahead(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> tuple[tuple[float, ...], ...]:
    """By rank and local stage, the forward passes that start before the first backward pass."""
    return tuple(in_flight(schedule, pp, vpp, rank, micro_batches) for rank in range(pp))
