"""What each rank last did, in a file that others can read even when the rank itself answers no more.

A rank writes a few numbers into a memory-mapped file of its own: no system call, no disk, and nothing
that waits. Where somebody on another machine reads it, a thread sends what is new to the file system.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_FORMAT = struct.Struct("<qqqq?d")
FLUSH_S = 2.0


@dataclass(frozen=True)
class Beat:
    """The last sign of life of one process of a run."""

    pid: int
    step: int
    """The optimizer step that it works on; 0 before the first."""
    first: int
    """The first optimizer step since it started; 0 before that."""
    done: int
    """Steps that it has finished since it started."""
    leaving: bool
    """Whether all its steps are made, so that nothing more is to be expected of it."""
    time: float
    """When that was, seconds since the epoch by its machine's clock."""


class Heart:
    """Writes the beats of this process.

    Args:
        remote: whether they are read on another machine.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, run_dir: Path, process: int, remote: bool = False) -> None:
        path = beat_file(run_dir, process)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(_pack(0, 0, 0))
        with partial.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FORMAT.size)
        partial.rename(path)
        self._first = self._done = 0
        if remote:
            threading.Thread(target=self._flush, name="heartbeat", daemon=True).start()

    def begin(self, step: int) -> None:
        """Note that this process begins ``step``."""
        self._first = self._first or step
        self._map[:] = _pack(step, self._first, self._done)

    def end(self, step: int) -> None:
        """Note that this process has finished ``step``."""
        self._done += 1
        self._map[:] = _pack(step, self._first, self._done)

    def leave(self, step: int) -> None:
        """Note that this process has made all its steps, ``step`` the last, and is about to end."""
        self._map[:] = _pack(step, self._first, self._done, leaving=True)

    def _flush(self) -> None:
        known = b""
        while True:
            if self._map[:] != known:
                known = self._map[:]
                # A network file system that is away for a while comes back, or the rank is ended.
                with contextlib.suppress(OSError):
                    self._map.flush()
            time.sleep(FLUSH_S)


def _pack(step: int, first: int, done: int, leaving: bool = False) -> bytes:
    return _FORMAT.pack(os.getpid(), step, first, done, leaving, time.time())


def beat_file(run_dir: Path, process: int) -> Path:
    """Where process number ``process`` of a run leaves its beats."""
    return run_dir / "heartbeats" / f"rank-{process}"


def read_beat(run_dir: Path, process: int) -> Beat | None:
    """The last beat of a process; None before its first."""
    try:
        return Beat(*_FORMAT.unpack(beat_file(run_dir, process).read_bytes()))
    except (OSError, struct.error):
        return None


def read_beats(run_dir: Path, processes: int) -> dict[int, Beat]:
    """The last beat of every process that has left one."""
    beats = ((process, read_beat(run_dir, process)) for process in range(processes))
    return {process: beat for process, beat in beats if beat is not None}


def forget_beats(run_dir: Path) -> None:
    """Remove the beats of an earlier start."""
    for file in (run_dir / "heartbeats").glob("rank-*"):
        file.unlink(missing_ok=True)
