"""How a job ends: its run is over, or goes on with the next job, or this one goes back into the queue."""

from __future__ import annotations

import signal

from launchers.attempt import MISTAKE
from launchers.exits import REQUEUE
from launchers.footing import TooFew
from launchers.restart import Ended
from launchers.slurm import client, jobs
from launchers.slurm.commands import CommandError
from launchers.slurm.jobs import What
from launchers.slurm.launcher import Slurm
from launchers.slurm.requeue import requeue
from orchestrate.commands.job_log import JobLog
from orchestrate.commands.job_nodes import NotTheNodes
from orchestrate.config import Config
from orchestrate.errors import UserError
from orchestrate.topology.discover.hostlist import compress
from orchestrate.train import summary


def conclude(log: JobLog, config: Config, ended: Ended, launcher: Slurm) -> int:
    """What follows from how the run ``ended``; the exit status of the job."""
    if ended.signal is not None or ended.status == REQUEUE:
        return stopped(log, config, ended.signal, saved=ended.status == REQUEUE)
    if ended.message:
        log.say(f"given up: {ended.message}")
    if ended.failure is not None:
        log.console.print(ended.failure.text, soft_wrap=True)
    gone = launcher.down() - launcher.unfit if ended.status else frozenset()
    if gone and config.launcher.requeue and log.restart < config.faults.tries:
        return _back(log, f"{compress(sorted(gone))} is gone")
    if ended.status == 0:
        summary.show(ended.plan, config, log.run_dir, log.console)
    elif not (gone or ended.too_few):
        _end_chain(log)
    return _over(log, ended.status, ended.message)


def refused(log: JobLog, error: UserError) -> None:
    """The same for a run that ``error`` kept from starting its ranks."""
    log.note(What.ended, status=MISTAKE, text=str(error))
    if not isinstance(error, NotTheNodes | TooFew):  # others may be given better ones
        _end_chain(log)


def stopped(log: JobLog, config: Config, number: int | None, saved: bool) -> int:
    """The same for a run that signal ``number`` stopped; None: somebody told its ranks.

    SIGUSR1 comes from Slurm before the time limit, and from `orchestrate requeue`.
    """
    text = f"{'saved' if saved else 'not saved'} {'after' if saved else 'since'} step {log.last_step}"
    if number == signal.SIGUSR1 and not log.cancelled:
        if waiting := _waiting(log):
            log.say(f"stopped, {text}; job {waiting[0]} of the chain goes on")
            return _over(log, 0, text)
        if config.launcher.requeue:
            return _back(log, text)
    by = "its ranks were told to end" if number is None else f"told by {signal.Signals(number).name}"
    log.say(f"stopped, {text}: {by}; to go on: orchestrate requeue {log.run_dir}")
    return _over(log, REQUEUE, f"{text}: {by}")


def _over(log: JobLog, status: int, text: str) -> int:
    log.note(What.ended, status=status, text=text)
    log.account(ask_slurm=True)
    return status


def _back(log: JobLog, why: str) -> int:
    log.say(f"stopped, {why}; back into the queue")
    log.note(What.requeued, text=why)
    # The time limit is near, and Slurm's accounts may be slow to answer.
    log.account(ask_slurm=False)
    try:
        requeue(log.job)
    except CommandError as error:
        log.say(f"Slurm does not take it back: {error}; to go on: orchestrate requeue {log.run_dir}")
    return REQUEUE


def _end_chain(log: JobLog) -> None:
    """Cancel the jobs that wait for this one, which has failed for good: the run would fail again in each."""
    if not (waiting := _waiting(log)):
        return
    names = f"job{'s' if len(waiting) > 1 else ''} {', '.join(waiting)} of the chain"
    try:
        client.cancel(waiting)
    except CommandError as error:
        log.say(f"{names} would end alike, and cannot be cancelled: {error}")
        return
    log.say(f"{names} would end alike: cancelled")
    for job in waiting:
        jobs.note(log.run_dir, What.cancelled, job, text=f"the run has failed for good in job {log.job}")


def _waiting(log: JobLog) -> list[str]:
    """The run's jobs that wait for this one to end, to go on with the run."""
    try:
        queue = client.queue(jobs.jobs_of(log.run_dir))
    except CommandError:
        return []
    waiting = [job for job, seen in queue.items() if seen.state == "PENDING"]
    # Where Slurm has given up the node of this process, the job itself is back in the queue and goes on.
    return [] if log.job in waiting else waiting
