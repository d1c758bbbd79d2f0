"""Waiting for Slurm jobs to end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launchers.slurm import client
from launchers.slurm.commands import CommandError
from launchers.slurm.jobs import What, read_events

_FIRST_S, _LONGEST_S = 1.0, 15.0
"""Between two looks at the queue; each wait is half as long again as the one before."""
_MISSED = 40
"""Looks in a row that Slurm may leave unanswered, about ten minutes, before that is an error."""


def wait_for(jobs: Mapping[str, Path]) -> dict[str, int]:
    """Wait until all ``jobs``, each with its run's folder, have ended for good; their exit statuses.

    A job that was put back into the queue has not ended.

    Raises:
        CommandError: Slurm gives no answer any more.
    """
    pause, missed = _FIRST_S, 0
    while True:
        try:
            waiting = active(list(jobs))
            missed = 0
        except CommandError:
            missed += 1
            if missed > _MISSED:
                raise
            waiting = list(jobs)
        if not waiting:
            return {job: status(job, run_dir) for job, run_dir in jobs.items()}
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_S)


def active(jobs: Sequence[str]) -> list[str]:
    """Those of ``jobs`` that have yet to end.

    Raises:
        CommandError: as `client.queue`.
    """
    found = client.queue(jobs)
    return [job for job in jobs if job in found and found[job].active]


def status(job: str, run_dir: Path) -> int:
    """The exit status of a job that has ended: from the run's record, or Slurm; 1 where neither knows."""
    ends = [e.status for e in read_events(run_dir) if e.job == job and e.what is What.ended]
    known = ends[-1] if ends and ends[-1] is not None else client.exit_status(job)
    return 1 if known is None else known
