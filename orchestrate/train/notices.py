"""Short remarks that ranks have for the person watching; no torch here.

Ranks write their output to log files, so what somebody should read goes through the run's folder to
the process that owns the terminal.
"""

from __future__ import annotations

import sys
from pathlib import Path


class Notices:
    """Adds one line per remark to ``logs/notices.txt``."""

    def __init__(self, run_dir: Path) -> None:
        self._path = _path(run_dir)

    def __call__(self, message: str) -> None:
        line = f"warning: {' '.join(message.split())}"
        print(line, file=sys.stderr, flush=True)
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_notices(run_dir: Path) -> list[str]:
    """All remarks of the run so far, oldest first."""
    path = _path(run_dir)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _path(run_dir: Path) -> Path:
    return run_dir / "logs" / "notices.txt"
