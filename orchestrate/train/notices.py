"""Short remarks that ranks have for the person watching; no torch here.

Ranks write their output to log files, so what somebody should read goes through the run's folder to
the process that owns the terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

_RESERVE = 1 << 14
"""Bytes kept free for what is to be said when the disk is full."""


class Notices:
    """Adds one line per remark to ``logs/notices.txt``, also where the disk is full."""

    def __init__(self, run_dir: Path) -> None:
        self._path = _path(run_dir)
        self._path.parent.mkdir(exist_ok=True)
        self._reserve = self._path.with_name(".room-for-notices")
        self._keep_room()

    def __call__(self, message: str) -> None:
        line = f"warning: {' '.join(message.split())}\n"
        with contextlib.suppress(OSError):
            print(line, end="", file=sys.stderr, flush=True)
        try:
            self._append(line)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._append(line)
        else:
            self._keep_room()

    def _append(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def _keep_room(self) -> None:
        if not self._reserve.exists():
            with contextlib.suppress(OSError):
                self._reserve.write_bytes(os.urandom(_RESERVE))  # bytes that no file system makes smaller


def read_notices(run_dir: Path) -> list[str]:
    """All remarks of the run so far, oldest first."""
    path = _path(run_dir)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _path(run_dir: Path) -> Path:
    return run_dir / "logs" / "notices.txt"
