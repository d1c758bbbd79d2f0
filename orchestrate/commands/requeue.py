"""``orchestrate requeue RUN``: back into the queue, to go on from the newest checkpoint. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launchers.slurm import client
from launchers.slurm.jobs import What, jobs_of, note, read_events
from launchers.slurm.script import SCRIPT_FILE
from orchestrate.commands.submitted import config_of, runs_of
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.train.checkpoint import found

_OF_A_START = (What.started, What.requeued, What.cancelled)
"""Not its submission, which the login node may note when the job has begun already."""


def run(config: Config, overrides: Sequence[str]) -> int:
    """Requeue every run in ``run.dir``: one that runs is asked to save and to put itself back into the queue,
    as before its time limit; one that has ended is submitted again as it was.

    Raises:
        ConfigError: nothing was submitted from there, the run may not be requeued, or Slurm refuses.
    """
    for run_dir in runs_of(config, "requeue"):
        print(_requeue(run_dir), flush=True)
    return 0


def _requeue(run_dir: Path) -> str:
    """Requeue one run; what was done."""
    jobs = [job for job in client.queue(jobs_of(run_dir)).values() if job.active]
    running = [job for job in jobs if job.state != "PENDING"]
    if not jobs:
        checkpoints, steps = found(run_dir), config_of(run_dir).train.steps
        if checkpoints and checkpoints[0].step >= steps:
            return f"{run_dir}: all {steps} steps are made; submit it again with more train.steps to go on"
        job = _submit_again(run_dir)
        note(run_dir, What.submitted, job)
        return f"{run_dir}: submitted again as job {job}"
    if not running:
        return f"{run_dir}: job {jobs[0].job} is in the queue already ({jobs[0].reason})"
    if not config_of(run_dir).launcher.requeue:
        raise ConfigError(
            f"{run_dir} was submitted with launcher.requeue=false: orchestrate cancel it, then requeue it"
        )
    job = running[0].job
    told = [event.what for event in read_events(run_dir) if event.job == job and event.what in _OF_A_START]
    if told and told[-1] is What.cancelled:
        raise ConfigError(f"{run_dir}: job {job} was cancelled and is saving: requeue it once it has ended")
    if told and told[-1] is What.started:
        client.signal_batch(job, "USR1")
        return f"{run_dir}: job {job} saves and goes back into the queue"
    client.requeue(job)
    return f"{run_dir}: job {job}, which had only begun, is back in the queue"


def _submit_again(run_dir: Path) -> str:
    if (run_dir / SCRIPT_FILE).exists():
        return client.submit(run_dir / SCRIPT_FILE)
    script = run_dir.parent / SCRIPT_FILE  # of the job array
    if not script.exists():
        raise ConfigError(f"{run_dir} has no {SCRIPT_FILE}: submit it with run.dir={run_dir}")
    return f"{client.submit(script, f'--array={run_dir.name}')}_{run_dir.name}"
