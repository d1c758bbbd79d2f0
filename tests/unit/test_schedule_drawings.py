"""The drawings in docs/schedules.md are what the simulation draws."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from orchestrate.config import Schedule
from orchestrate.plan.pipeline.actions import Kind
from orchestrate.plan.pipeline.simulate import StageTimes, Timeline, simulate

DOCS = Path(__file__).parents[2] / "docs" / "schedules.md"
LETTERS = {
    Kind.forward: string.digits,
    Kind.backward: string.ascii_lowercase,
    Kind.inputs: string.ascii_lowercase,
    Kind.weights: string.ascii_uppercase,
}


def draw(timeline: Timeline) -> str:
    """A row for each pipeline rank, a letter for each second."""
    rows = []
    for events in timeline.actions:
        row = ["."] * round(timeline.seconds)
        for event in events:
            for second in range(round(event.start), round(event.end)):
                row[second] = LETTERS[event.kind][event.micro_batch]
        rows.append("    " + "".join(row))
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("schedule", "vpp"),
    [(Schedule.gpipe, 1), (Schedule.one_f_one_b, 1), (Schedule.interleaved, 2), (Schedule.zbv, 2)],
)
def test_drawings_are_those_of_the_simulation(schedule: Schedule, vpp: int) -> None:
    stages = 4 * vpp
    times = StageTimes((1.0,) * stages, (2.0,) * stages, (1.0,) * stages, (0.0,) * (stages - 1))
    assert f"\n\n{draw(simulate(schedule, 4, vpp, 8, times))}\n\n" in DOCS.read_text()
