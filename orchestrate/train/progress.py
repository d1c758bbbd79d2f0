"""What the person watching sees while a run trains; in the parent process, no torch here.

On a terminal one live line; elsewhere a plain line now and then.
"""

from __future__ import annotations

import statistics
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrate.train.metrics import MetricsTail, StepRecord
from orchestrate.train.notices import read_notices

_SHARE_PER_LINE = 0.1
_SECONDS_PER_LINE = 30.0
_RECENT = 10


class Progress:
    """Follows the records of the run in ``run_dir``; call `tick` a few times a second.

    As a context manager it takes the live line away at the end, so that what follows starts clean.
    """

    def __init__(self, run_dir: Path, steps: int, processes: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._run_dir = run_dir
        self._tail = MetricsTail(run_dir)
        self._pace = Pace(steps)
        self._view: _Live | _Lines
        if self._console.is_terminal:
            self._view = _Live(self._console, self._pace, processes)
        else:
            self._view = _Lines(self._console, self._pace, processes)
        # Where the run goes on, what it said before has been read, and its pace then says nothing.
        self._notices = len(read_notices(run_dir))
        self._tail.skip()

    def tick(self) -> None:
        """Show what has been recorded since the last call."""
        for record in self._tail.read():
            self._pace.add(record)
            self._view.add(record)
        notices = read_notices(self._run_dir)
        for notice in notices[self._notices :]:
            self._console.print(Text(notice, style="yellow"))
        self._notices = len(notices)
        self._view.refresh()

    def __enter__(self) -> Progress:
        self._view.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.tick()
        self._view.stop()


class Pace:
    """How far the run is, from its records alone."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.step = 0
        self.val_loss: float | None = None
        self._first: StepRecord | None = None
        self._last: StepRecord | None = None
        self._recent: deque[StepRecord] = deque(maxlen=_RECENT)

    def add(self, record: StepRecord) -> None:
        self.step = record.step
        if record.val_loss is not None:
            self.val_loss = record.val_loss
        self._first = self._first or record
        self._last = record
        self._recent.append(record)

    @property
    def step_time_s(self) -> float:
        """Seconds per step, the median of the last few records: one slow step is not the pace."""
        return statistics.median(record.step_time_s for record in self._recent)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second at `step_time_s`."""
        last = self._recent[-1]
        return last.tokens_per_s * last.step_time_s / self.step_time_s

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, evaluations included; None before the first record."""
        if self._first is None or self._last is None:
            return None
        if self._last.step == self._first.step:
            return (self.steps - self.step) * self._last.step_time_s
        spent = (self._last.time - self._first.time) / (self._last.step - self._first.step)
        return (self.steps - self.step) * spent


def figures(record: StepRecord, pace: Pace) -> str:
    """One record in words: ``loss 2.312 · val 2.402 · 12.3k tok/s · 410 ms/step · 1:14 left``."""
    parts = [f"loss {record.loss:.3f}"]
    if pace.val_loss is not None:
        parts.append(f"val {pace.val_loss:.3f}")
    parts += [f"{short(pace.tokens_per_s)} tok/s", f"{seconds(pace.step_time_s)}/step"]
    left = pace.seconds_left
    if left is not None and pace.step < pace.steps:
        parts.append(f"{clock(left)} left")
    return " · ".join(parts)


def short(number: float) -> str:
    """A count with three digits or so: 950, 12.3k, 4.56M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def seconds(value: float) -> str:
    """A short time: 412 ms, 1.3 s."""
    return f"{value * 1e3:.0f} ms" if value < 0.9995 else f"{value:.3g} s"


def clock(value: float) -> str:
    """A longer time: 0:08, 12:30, 3:02:10."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Live:
    """One line that is drawn again and again."""

    def __init__(self, console: Console, pace: Pace, processes: int) -> None:
        self._pace = pace
        self._waiting = Spinner("dots", f" {_starting(processes)}")
        self._live = Live(self._waiting, console=console, transient=True, auto_refresh=False)
        self._record: StepRecord | None = None

    def start(self) -> None:
        self._live.start()
        self._live.refresh()

    def add(self, record: StepRecord) -> None:
        self._record = record

    def refresh(self) -> None:
        self._live.update(self._waiting if self._record is None else self._line(self._record), refresh=True)

    def stop(self) -> None:
        self._live.stop()

    def _line(self, record: StepRecord) -> Table:
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=self._pace.steps, completed=record.step, width=10)
        line.add_row(f"{record.step}/{self._pace.steps}", bar, figures(record, self._pace))
        return line


class _Lines:
    """A line for the first and the last record, each tenth of the run, and twice a minute at least."""

    def __init__(self, console: Console, pace: Pace, processes: int) -> None:
        self._console, self._pace, self._processes = console, pace, processes
        self._printed: StepRecord | None = None
        self._latest: StepRecord | None = None

    def start(self) -> None:
        self._console.print(_starting(self._processes))

    def add(self, record: StepRecord) -> None:
        self._latest = record
        if self._is_due(record):
            self._print(record)

    def refresh(self) -> None:
        """Nothing: lines are printed as records come."""

    def stop(self) -> None:
        if self._latest is not None and self._latest is not self._printed:
            self._print(self._latest)

    def _is_due(self, record: StepRecord) -> bool:
        if self._printed is None or record.step == self._pace.steps:
            return True
        far = record.step - self._printed.step >= _SHARE_PER_LINE * self._pace.steps
        return far or record.time - self._printed.time >= _SECONDS_PER_LINE

    def _print(self, record: StepRecord) -> None:
        self._printed = record
        text = f"step {record.step}/{self._pace.steps} · {figures(record, self._pace)}"
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def _starting(processes: int) -> str:
    return f"starting {processes} process{'es' if processes > 1 else ''}"
