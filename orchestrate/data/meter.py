"""A progress bar that shows only for work that lasts."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PATIENCE_S = 2.0
"""Seconds of work before the bar appears."""


class Meter:
    """Counts ``total`` bytes of work; draws on ``console`` (None: nowhere) once it takes a while."""

    def __init__(self, label: str, total: int, console: Console | None) -> None:
        self._label = label
        self._total = total
        self._console = console
        self._done = 0
        self._since = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    def advance(self, amount: int) -> None:
        """Record ``amount`` more bytes as done."""
        self._done += amount
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=self._done)
        elif self._console is not None and time.monotonic() - self._since > PATIENCE_S:
            self._bar = self._start(self._console)

    def _start(self, console: Console) -> tuple[Progress, TaskID]:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        progress.start()
        return progress, progress.add_task(self._label, total=self._total, completed=self._done)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()
