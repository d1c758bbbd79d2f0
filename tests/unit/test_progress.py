"""What is shown while a run trains: on a terminal one line, in a file a few."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from orchestrate.train.metrics import MetricsFile
from orchestrate.train.notices import Notices
from orchestrate.train.progress import Pace, Progress, clock, figures, seconds, short
from tests.unit import train_samples as samples


def follow(run_dir: Path, console: Console, every_tick: int = 1) -> None:
    """Write the records of a run of 20 steps with a tick after every few."""
    with MetricsFile(run_dir) as write, Progress(run_dir, 20, 4, console) as progress:
        progress.tick()
        for i, record in enumerate(samples.records(), 1):
            write(record)
            if i % every_tick == 0:
                progress.tick()


def plain(**options: object) -> Console:
    return Console(file=io.StringIO(), width=80, **options)  # type: ignore[arg-type]


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_file_gets_a_line_for_each_tenth_of_the_run(tmp_path: Path) -> None:
    console = plain()
    follow(tmp_path, console)
    lines = text(console).splitlines()
    assert lines[0] == "starting 4 processes"
    assert [line.split(" ")[1] for line in lines[1:]] == [f"{n}/20" for n in [*range(1, 20, 2), 20]]
    assert lines[-1] == "step 20/20 · loss 2.555 · val 2.655 · 1.71k tok/s · 300 ms/step"
    assert "\x1b" not in text(console)


def test_a_file_gets_the_same_lines_however_often_somebody_looked(tmp_path: Path) -> None:
    often, seldom = plain(), plain()
    for name, console, every in (("a", often, 1), ("b", seldom, 7)):
        (tmp_path / name).mkdir()
        follow(tmp_path / name, console, every)
    assert text(often) == text(seldom)


def test_a_slow_run_gets_a_line_twice_a_minute(tmp_path: Path) -> None:
    console = plain()
    with MetricsFile(tmp_path) as write, Progress(tmp_path, 10_000, 4, console) as progress:
        for step in range(1, 8):
            write(samples.step_record(step=step, step_time_s=12.0))
            progress.tick()
    assert [line.split(" ")[1] for line in text(console).splitlines()[1:]] == [
        "1/10000",
        "4/10000",
        "7/10000",
    ]


def test_a_run_that_stops_early_shows_how_far_it_came(tmp_path: Path) -> None:
    console = plain()
    with MetricsFile(tmp_path) as write, Progress(tmp_path, 1000, 4, console):
        for step in (1, 2, 3):
            write(samples.step_record(step=step))
    assert text(console).splitlines()[-1].startswith("step 3/1000")


def test_a_terminal_gets_one_live_line_that_goes_away(tmp_path: Path) -> None:
    console = plain(force_terminal=True, color_system=None)
    follow(tmp_path, console)
    shown = text(console)
    assert "starting 4 processes" in shown
    assert "20/20" in shown
    assert "loss 2.555 · val 2.655" in shown
    assert shown.count("\n") <= 1  # one line, drawn over again
    drawings = re.split(r"\r|\x1b\[2K|\x1b\[1A", shown)
    assert max(len(drawing) for drawing in drawings) <= 80 + len("\x1b[?25l")


def test_notices_are_shown_once(tmp_path: Path) -> None:
    console = plain()
    with Progress(tmp_path, 20, 4, console) as progress:
        Notices(tmp_path)("something\nto know")
        progress.tick()
        progress.tick()
    assert text(console).splitlines() == ["starting 4 processes", "warning: something to know"]


def test_a_run_that_goes_on_does_not_say_it_all_again(tmp_path: Path) -> None:
    Notices(tmp_path)("said before")
    with MetricsFile(tmp_path) as metrics:
        metrics(samples.step_record(step=4))
        console = plain()
        with Progress(tmp_path, 20, 4, console):
            metrics(samples.step_record(step=5))
    shown = text(console)
    assert "said before" not in shown
    assert "step 4/20" not in shown
    assert "step 5/20" in shown


def test_time_left_counts_evaluations_too() -> None:
    pace = Pace(10)
    assert pace.seconds_left is None
    pace.add(samples.step_record(step=1, time=100.0, step_time_s=3.0))
    assert pace.seconds_left == 27.0
    pace.add(samples.step_record(step=3, time=110.0, step_time_s=3.0))
    assert pace.seconds_left == 35.0


def test_the_last_validation_stays_in_sight() -> None:
    pace = Pace(10)
    pace.add(samples.step_record(step=1, val_loss=4.25))
    record = samples.step_record(step=2)
    pace.add(record)
    assert "val 4.250" in figures(record, pace)


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (short, 950.0, "950"),
        (short, 12_345.0, "12.3k"),
        (short, 4.56e6, "4.56M"),
        (seconds, 0.0123, "12 ms"),
        (seconds, 0.9996, "1 s"),
        (seconds, 2.345, "2.35 s"),
        (clock, 7.6, "0:08"),
        (clock, 3730.0, "1:02:10"),
    ],
)
def test_figures_are_short(function: object, value: float, expected: str) -> None:
    assert callable(function)
    assert function(value) == expected
