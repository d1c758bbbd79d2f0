"""``orchestrate logs RUN``: the end of a log of a run, and what is added to it. No torch here."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launchers.slurm.commands import CommandError
from orchestrate.commands.here import processes_here
from orchestrate.commands.submitted import active_jobs, any_runs_of
from orchestrate.config import Config
from orchestrate.errors import ConfigError

_POLL_S = 0.5
_QUEUE_S = 4.0
"""Between two looks at Slurm's queue while following."""


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print the end of the log that ``logs`` asks for; with ``logs.follow`` go on until the run's jobs and
    its processes on this machine have ended.

    Raises:
        ConfigError: there is no such run, or no such log.
    """
    runs = any_runs_of(config, "logs")
    if len(runs) > 1:
        raise ConfigError(f"run.dir={config.run.dir} holds {len(runs)} runs: give one of them, as {runs[0]}")
    (run_dir,) = runs
    follow = config.logs.follow
    log = _log(run_dir, config.logs.rank)
    if log is None and (not follow or not _goes_on(run_dir)):
        raise ConfigError(_absent(run_dir, config.logs.rank))
    reader = _Reader()
    if log is not None:
        reader.open(log, config.logs.lines)
    looked = time.monotonic()
    while follow:
        if (newest := _log(run_dir, config.logs.rank)) is not None and newest != reader.path:
            reader.open(newest, 0)  # of the next job
        if reader.read():
            continue
        if time.monotonic() - looked > _QUEUE_S:
            looked = time.monotonic()
            if not _goes_on(run_dir) and not reader.read():
                break
        time.sleep(_POLL_S)
    return 0


def _goes_on(run_dir: Path) -> bool:
    if processes_here(run_dir):
        return True
    try:
        return bool(active_jobs(run_dir))
    except CommandError:
        return True  # a busy controller ends nothing


def _log(run_dir: Path, rank: int | None) -> Path | None:
    """The log of a process, or of the newest job."""
    pattern = "slurm-*.log" if rank is None else f"rank-{rank}.log"
    return max((run_dir / "logs").glob(pattern), key=lambda file: file.stat().st_mtime, default=None)


def _absent(run_dir: Path, rank: int | None) -> str:
    status = shlex.join(["orchestrate", "status", str(run_dir)])
    ranks = sorted(int(f.stem[5:]) for f in (run_dir / "logs").glob("rank-*.log") if f.stem[5:].isdecimal())
    if rank is None:
        if ranks:
            return f"{run_dir} has no log of a job: logs.rank={ranks[0]} shows that of a rank"
        return f"{run_dir} has no log of a job yet: {status} says whether one has begun"
    known = f"its ranks are {ranks[0]} to {ranks[-1]}" if ranks else f"none has begun: {status}"
    return f"logs.rank={rank}: no log of that rank; {known}"


class _Reader:
    """Prints a file from some line on, then what is added to it."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._at = 0

    def open(self, path: Path, lines: int) -> None:
        """Go to ``path``, and print its last ``lines`` lines, or all for 0."""
        self.path, self._at = path, 0
        if lines:
            content = path.read_bytes()
            self._at = len(content) - len(b"".join(content.splitlines(keepends=True)[-lines:]))
        self.read()

    def read(self) -> bool:
        """Print what is new; whether there was anything."""
        if self.path is None:
            return False
        with self.path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        self._at += len(new)
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
        return bool(new)
