"""The summary after a run, and the plot in it."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrate.config import TrackingMode
from orchestrate.train import summary
from orchestrate.train.metrics import MetricsFile, StepRecord
from orchestrate.train.plot import plot
from tests.unit import train_samples as samples

points = st.lists(
    st.tuples(st.integers(0, 10**6), st.floats(0, 1e7).map(lambda y: round(y, 3)) | st.just(math.nan)),
    max_size=30,
)
"""Steps and losses, some of them diverged."""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    write_records(tmp_path, samples.records())
    return tmp_path


def write_records(run_dir: Path, records: list[StepRecord]) -> None:
    with MetricsFile(run_dir) as write:
        for record in records:
            write(record)


def render(run_dir: Path, *, ascii_only: bool = False) -> str:
    return summary.render(
        samples.plan(),
        samples.config(),
        run_dir,
        ["experiment=quickstart", "run.dir=here"],
        ascii_only=ascii_only,
    )


def values(text: str) -> dict[str, str]:
    """What stands after each name."""
    return {
        line[2:20].strip(): line[20:] for line in text.splitlines() if line[:2] == "  " and line[2:3] != " "
    }


def test_it_says_how_the_loss_fell(run_dir: Path) -> None:
    shown = values(render(run_dir))
    assert shown["train loss"] == "4.956 → 2.555"
    assert shown["validation loss"] == "3.704 → 2.655 · perplexity 14.22"
    assert shown["steps"] == "20 of 20 in 0:08 · 10.2k tokens"


def test_a_long_run_ends_with_a_mean(tmp_path: Path) -> None:
    losses = [5.0] * 30 + [3.0, 4.0] * 5
    write_records(tmp_path, [samples.step_record(step=i, loss=loss) for i, loss in enumerate(losses, 1)])
    assert values(render(tmp_path))["train loss"] == "5.000 → 3.500 (mean of the last 10 records)"


def test_measured_stands_beside_predicted(run_dir: Path) -> None:
    shown = {name: value.split() for name, value in values(render(run_dir)).items()}
    assert shown["step time"] == ["300", "ms", "300", "ms", "equal"]
    assert shown["memory, stage 0"] == ["512", "MiB", "500", "MiB", "+2", "%"]
    assert shown["memory, stage 1"] == ["640", "MiB", "620", "MiB", "+3", "%"]


def test_what_happens_once_is_no_step_time() -> None:
    records = samples.records()
    assert records[0].step_time_s == 2.0
    assert summary.step_time(records) == 0.3
    assert summary.step_time(records[:1]) == 2.0


def test_without_predictions_the_measured_figures_stand_alone(tmp_path: Path) -> None:
    bare = [
        dataclasses.replace(r, predicted_step_time_s=None, predicted_memory_mib=None)
        for r in samples.records()
    ]
    write_records(tmp_path, bare)
    shown = values(render(tmp_path))
    assert shown["step time"].split() == ["300", "ms", "-"]
    assert shown["memory, stage 1"].split() == ["640", "MiB", "-"]


def test_next_steps_can_be_typed(run_dir: Path) -> None:
    text = render(run_dir)
    assert "\n    orchestrate verify experiment=quickstart\n" in text
    assert f"\n    wandb sync {run_dir}/wandb/offline-run-*" in text
    untracked = summary.render(samples.plan(), samples.config(TrackingMode.off), run_dir)
    assert "wandb" not in untracked
    assert "verify" not in untracked, "nobody said what was typed"


def test_it_fits_eighty_columns_without_colour(run_dir: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    summary.show(samples.plan(), samples.config(), run_dir, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\x1b" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if str(run_dir) not in line)


def test_it_can_do_with_ascii(run_dir: Path) -> None:
    assert render(run_dir, ascii_only=True).replace(str(run_dir), "").isascii()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_run_that_went_wrong_is_still_summed_up(tmp_path: Path, loss: float) -> None:
    write_records(tmp_path, [samples.step_record(step=1, loss=loss)])
    assert "train loss" in render(tmp_path)


def test_no_record_is_said_plainly(tmp_path: Path) -> None:
    assert render(tmp_path).startswith("No step was recorded.")


@given(points, points, st.integers(40, 100), st.integers(8, 20), st.booleans())
def test_a_plot_keeps_to_its_size(
    line: list[tuple[float, float]],
    marks: list[tuple[float, float]],
    width: int,
    height: int,
    ascii_only: bool,
) -> None:
    drawn = plot(line, marks, width=width, height=height, ascii_only=ascii_only)
    if not any(abs(y) < 1e6 for _, y in [*line, *marks]):
        assert drawn == ""
        return
    rows = drawn.splitlines()
    assert len(rows) == height
    assert all(len(row) <= width for row in rows)
    assert drawn.isascii() or not ascii_only


def test_a_falling_line_is_drawn_falling() -> None:
    drawn = plot([(x, -x) for x in range(1, 41)], width=60, height=12, ascii_only=True)
    columns = [row.rindex(".") for row in drawn.splitlines()[1:9]]
    assert columns == sorted(columns)
    assert columns[0] < columns[-1]


def test_a_mark_stands_at_its_place() -> None:
    rows = plot([(0, 0.0), (10, 1.0)], [(10, 0.0)], width=60, height=12, ascii_only=True).splitlines()
    marked = [row for row in rows if row.rstrip("|").endswith("o")]
    assert len(marked) == 1
    assert "0.00" in marked[0]


def test_the_axis_counts_whole_steps() -> None:
    drawn = plot([(step, 3.0 - step / 40) for step in range(1, 31)])
    axis = drawn.splitlines()[-2].split()
    assert axis == ["1", "8", "16", "23", "30"]
    assert plot([(7, 1.0)]).splitlines()[-2].split() == ["7"]
