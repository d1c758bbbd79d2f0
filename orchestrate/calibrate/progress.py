"""How far a calibration is: written by one rank, shown by the parent process."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

_FILE = "progress.json"
_SECONDS_PER_LINE = 10.0


def write_progress(folder: Path, done: int, total: int, label: str) -> None:
    """Say that ``done`` of ``total`` have been measured and that ``label`` is next."""
    partial = folder / f"{_FILE}.partial"
    partial.write_text(json.dumps([done, total, label]), encoding="utf-8")
    partial.rename(folder / _FILE)


class Progress:
    """One live line on a terminal, elsewhere a plain line now and then; call `tick` a few times a second."""

    def __init__(self, folder: Path, processes: int, console: Console) -> None:
        self._folder, self._console = folder, console
        self._starting = f"starting {processes} processes"
        self._live = Live(console=console, transient=True) if console.is_terminal else None
        self._printed = time.monotonic() - _SECONDS_PER_LINE

    def tick(self) -> None:
        """Show what is being measured."""
        try:
            done, total, label = json.loads((self._folder / _FILE).read_text(encoding="utf-8"))
            line = f"measuring {done + 1}/{total}: {label}"
        except FileNotFoundError:
            line = self._starting
        if self._live is not None:
            self._live.update(Text(line))
        elif time.monotonic() - self._printed >= _SECONDS_PER_LINE:
            self._console.print(line, highlight=False, soft_wrap=True)
            self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
