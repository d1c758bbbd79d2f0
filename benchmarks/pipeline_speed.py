"""How long the planner takes to predict a pipeline.

    python benchmarks/pipeline_speed.py

Prints a table of processor times: of the first call for a schedule and its sizes, which puts its actions
in order; of further calls, with other stage times; of the full simulation; and of the lower bound. The
stages differ by up to 2 %, the first and the last by more, and sends take 1 % of a forward pass.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

from orchestrate.config import Schedule
from orchestrate.plan.pipeline.bound import lower_bound
from orchestrate.plan.pipeline.rounds import forget_programs
from orchestrate.plan.pipeline.simulate import StageTimes, makespan, simulate

CASES = (
    (Schedule.gpipe, 16, 1, 256),
    (Schedule.one_f_one_b, 8, 1, 64),
    (Schedule.one_f_one_b, 16, 1, 256),
    (Schedule.one_f_one_b, 64, 1, 512),
    (Schedule.interleaved, 8, 4, 64),
    (Schedule.interleaved, 16, 4, 256),
    (Schedule.interleaved, 64, 2, 512),
    (Schedule.zbv, 16, 2, 256),
)
REPETITIONS = 15


def uneven(stages: int, seed: int) -> StageTimes:
    draw = random.Random(seed)
    forward = [draw.uniform(1, 1.02) for _ in range(stages)]
    forward[0] *= 1.05
    forward[-1] *= 1.2
    return StageTimes(tuple(forward), tuple(2 * f for f in forward), tuple(forward), (0.01,) * (stages - 1))


def least(calls: list[Callable[[], object]]) -> float:
    """Milliseconds of the quickest of ``calls``."""
    took = []
    for call in calls:
        start = time.process_time()
        call()
        took.append(time.process_time() - start)
    return 1e3 * min(took)


def row(schedule: Schedule, pp: int, vpp: int, m: int) -> tuple[float, ...]:
    """Milliseconds of the four."""
    sizes = schedule, pp, vpp, m
    times = [uneven(pp * vpp, seed) for seed in range(REPETITIONS)]

    def first() -> None:
        forget_programs()
        makespan(*sizes, times[0])

    return (
        least([first] * 3),
        least([partial(makespan, *sizes, t) for t in times]),
        least([partial(simulate, *sizes, times[0])]),
        least([partial(lower_bound, *sizes, t) for t in times] * REPETITIONS),
    )


def main() -> None:
    print("| schedule | pp | vpp | micro-batches | first call | further calls | `simulate` | `lower_bound` |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for schedule, *sizes in CASES:
        figures = row(schedule, *sizes)
        shown = " | ".join(f"{ms:.3g} ms" if ms >= 0.1 else f"{1e3 * ms:.0f} µs" for ms in figures)
        print(f"| {schedule.value} | {' | '.join(map(str, sizes))} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
