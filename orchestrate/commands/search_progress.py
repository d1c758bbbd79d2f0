"""A sign of life from searches that take more than a moment."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from orchestrate.plan.search.branch_and_bound import Progress

PATIENCE_S = 2.0
"""A search that is done by then says nothing."""
PAUSE_S = 0.5


class SearchProgress:
    """Writes one line to the standard error, over and over where that is a terminal."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PATIENCE_S
        self._shown = False

    def __enter__(self) -> SearchProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def report(self, progress: Progress) -> None:
        """Take note of how far a search is."""
        now = time.monotonic()
        if now < self._next:
            return
        best = "nothing fits so far" if progress.best is None else f"best step so far {progress.best:.3g} s"
        line = f"searching: {progress.nodes:,} branches looked at, {progress.open:,} open, {best}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._next = now + PAUSE_S
        elif not self._shown:
            # A log wants to know that it takes long, not how long.
            print(line, file=sys.stderr, flush=True)
        self._shown = True
