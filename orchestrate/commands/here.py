"""The processes of a run that live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from launchers.heartbeat import read_beats


def processes_here(run_dir: Path) -> dict[int, int]:
    """The processes of the run in ``run_dir`` that live on this machine, by number: their ids."""
    count = len(list((run_dir / "heartbeats").glob("rank-*")))
    beats = read_beats(run_dir, count)
    return {process: beat.pid for process, beat in beats.items() if _is_ours(beat.pid, run_dir)}


def _is_ours(pid: int, run_dir: Path) -> bool:
    """Whether process ``pid`` was started for ``run_dir``: its number may have passed on to another."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    wanted = os.path.realpath(run_dir)
    return any(os.path.realpath(os.fsdecode(word)) == wanted for word in words[1:] if word)
