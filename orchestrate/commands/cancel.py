"""``orchestrate cancel RUN``: its jobs save and end, and it says what was saved. No torch here."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launchers.slurm import client
from launchers.slurm.commands import CommandError
from launchers.slurm.jobs import What, jobs_of, note, was_cancelled
from orchestrate.commands.submitted import active_jobs, config_of, runs_of
from orchestrate.config import Config
from orchestrate.train.checkpoint import found

_POLL_S = 1.0
_MARGIN_S = 60.0
"""Beyond ``launcher.grace_s``: for starting to listen, and for leaving."""


def run(config: Config, overrides: Sequence[str]) -> int:
    """End every job of the runs in ``run.dir``.

    A job that waits is taken out of the queue. One that runs is asked to finish its step and save, and ended
    by force when that takes longer than its ``launcher.grace_s``, or was asked for before.

    Raises:
        ConfigError: nothing was submitted from there, or Slurm refuses.
    """
    runs = runs_of(config, "cancel")
    queue = client.queue([job for run_dir in runs for job in jobs_of(run_dir)])
    jobs = {job: d for d in runs for job in jobs_of(d) if job in queue and queue[job].active}
    asked = {job for job in jobs if was_cancelled(jobs[job], job)}
    for job, run_dir in jobs.items():
        # Before the signals: who restarts a run looks here whether it is wanted.
        note(run_dir, What.cancelled, job)
    # Those that wait come first, or the next of a chain would begin.
    running = [job for job in jobs if queue[job].state != "PENDING" and job not in asked]
    client.cancel([job for job in jobs if job not in running])
    for job in running:
        _ask(job)
    _await({job: jobs[job] for job in running})
    for run_dir in runs:
        for line in _told(run_dir, [job for job in jobs if jobs[job] == run_dir]):
            print(line)
    return 0


def _ask(job: str) -> None:
    try:
        client.signal_batch(job, "TERM")
    except CommandError:
        client.cancel([job])  # it has no shell yet, or none any more


def _await(jobs: Mapping[str, Path]) -> None:
    """Wait until ``jobs`` have ended; end by force those that take too long."""
    if not jobs:
        return
    print(f"{_names(list(jobs))} may finish the step and save; cancel again to end by force", flush=True)
    graces = [config_of(run_dir).launcher.grace_s for run_dir in dict.fromkeys(jobs.values())]
    deadline = time.monotonic() + max(graces) + _MARGIN_S
    left = list(jobs)
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        with contextlib.suppress(CommandError):  # a busy controller ends nothing
            left = [
                job for run_dir in dict.fromkeys(jobs.values()) for job in active_jobs(run_dir) if job in jobs
            ]
    client.cancel(left)


def _told(run_dir: Path, jobs: Sequence[str]) -> Iterator[str]:
    yield f"{_names(jobs)}: cancelled" if jobs else f"{run_dir}: no job of it was under way"
    if not (checkpoints := found(run_dir)):
        yield "it has no checkpoint"
    elif checkpoints[0].step >= config_of(run_dir).train.steps:
        yield f"saved after step {checkpoints[0].step}, its last"
    else:
        again = shlex.join(["orchestrate", "requeue", str(run_dir)])
        yield f"saved after step {checkpoints[0].step}; to go on from there: {again}"


def _names(jobs: Sequence[str]) -> str:
    return f"job{'s' if len(jobs) > 1 else ''} {', '.join(jobs)}"
