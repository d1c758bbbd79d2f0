"""What a pipeline schedule implies: its rounds, and how many micro-batches are alive.

Closed forms of the schedules in ``torch.distributed.pipelining`` (torch 2.13), whose actions
`orchestrate.plan.pipeline.actions` has one by one.
"""

from __future__ import annotations

from orchestrate.config import Schedule


def interleaved_rounds(micro_batches: int, pp: int) -> int:
    """Rounds into which the interleaved schedule cuts the micro-batches; it must divide them."""
    return max(1, micro_batches // pp)


def in_flight(schedule: Schedule, pp: int, vpp: int, rank: int, micro_batches: int) -> tuple[float, ...]:
    """Most micro-batches whose activations pipeline ``rank`` holds at once, by its local virtual stage.

    - GPipe: all of them.
    - 1F1B: one for each rank from here to the end (Narayanan et al. 2021, arXiv:2104.04473, section 2.2).
    - Interleaved: the warm-up's forward passes and one more, shared over the local stages, the earlier
      ones first (ibid.).
    - ZBV: ``2 pp - 1 - rank`` on the way down the V and ``rank + 1`` on the way up, ``2 pp`` together
      (Qi et al. 2023, arXiv:2401.10241, section 6).
    """
    m = micro_batches
    if schedule is Schedule.gpipe or pp == 1:
        return (float(m if pp > 1 else 1),) * vpp
    if schedule is Schedule.one_f_one_b:
        return (float(min(m, pp - rank)),)
    if schedule is Schedule.interleaved:
        per_round = m // interleaved_rounds(m, pp)
        alive = min((vpp - 1) * per_round + 2 * (pp - 1 - rank) + 1, m * vpp)
        return _share_rounds(alive, per_round, vpp)
    return float(min(m, 2 * pp - 1 - rank)), float(min(m, rank + 1))


def _share_rounds(alive: int, per_round: int, stages: int) -> tuple[float, ...]:
    """``alive`` forward passes dealt to the local ``stages``, ``per_round`` to each in turn."""
    laps, rest = divmod(alive, per_round * stages)
    return tuple(
        float(laps * per_round + min(max(rest - stage * per_round, 0), per_round)) for stage in range(stages)
    )
