"""What each rank last did, in a file that others can read even when the rank itself answers no more.

A rank writes a few numbers into a memory-mapped file of its own: no system call, no disk, and nothing
that waits. The clock is the machine's monotonic one, the same for all its processes.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

_FORMAT = struct.Struct("<qqqd")


@dataclass(frozen=True)
class Beat:
    """The last sign of life of one process of a run."""

    pid: int
    step: int
    """The optimizer step that it works on; 0 before the first."""
    done: int
    """Steps that it has finished since it started."""
    time: float
    """When that was, seconds of this machine's monotonic clock."""


class Heart:
    """Writes the beats of this process.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, run_dir: Path, process: int) -> None:
        path = beat_file(run_dir, process)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(_pack(0, 0))
        with partial.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FORMAT.size)
        partial.rename(path)

    def beat(self, step: int, done: int) -> None:
        """Note that this process works on ``step`` and has finished ``done`` steps since it started."""
        self._map[:] = _pack(step, done)


def _pack(step: int, done: int) -> bytes:
    return _FORMAT.pack(os.getpid(), step, done, time.monotonic())


def beat_file(run_dir: Path, process: int) -> Path:
    """Where process number ``process`` of a run leaves its beats."""
    return run_dir / "heartbeats" / f"rank-{process}"


def read_beat(run_dir: Path, process: int) -> Beat | None:
    """The last beat of a process; None before its first."""
    try:
        return Beat(*_FORMAT.unpack(beat_file(run_dir, process).read_bytes()))
    except (OSError, struct.error):
        return None


def last_step(run_dir: Path, processes: int) -> int:
    """The furthest optimizer step that any of the processes has begun; 0 where none has."""
    beats = (read_beat(run_dir, process) for process in range(processes))
    return max((beat.step for beat in beats if beat is not None), default=0)


def forget_beats(run_dir: Path) -> None:
    """Remove the beats of an earlier start."""
    for file in (run_dir / "heartbeats").glob("rank-*"):
        file.unlink(missing_ok=True)
