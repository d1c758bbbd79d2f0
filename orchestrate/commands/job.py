"""The batch step of a job: ``python -m orchestrate.commands.job RUN``, started by the run's batch script.

It looks the nodes over that Slurm gave, places the plan on them, prepares the data, starts the ranks and
keeps them going, and at the end goes back into the queue or closes the accounts. No torch here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import yaml

from launchers.attempt import MISTAKE
from launchers.faults import Fault
from launchers.restart import Ended, Run
from launchers.slurm.allocation import Allocation, read_allocation
from launchers.slurm.deputy import deputies
from launchers.slurm.jobs import What
from launchers.slurm.launcher import Slurm
from orchestrate import config as configs
from orchestrate.commands import job_end, job_nodes
from orchestrate.commands.job_log import JobLog
from orchestrate.commands.run_folder import PLANNED_FILE
from orchestrate.config import Config
from orchestrate.data.prepare import prepare
from orchestrate.errors import UserError
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.topology.discover.hostlist import compress
from orchestrate.train.metrics import read_records
from orchestrate.train.progress import Progress


class Told(Exception):
    """A signal that came before the ranks were started."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(run_dir: Path) -> int:
    """Train the run in ``run_dir`` until it or the job is over; the exit status of the job.

    Raises:
        ConfigError: this is no job, or the run's folder is damaged.
    """
    config = configs.load(yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8")))
    allocation = read_allocation(config.cluster.device.kind)
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    log = JobLog(run_dir, allocation.job, restart)
    log.say(f"job {log.job}{f', restart {restart}' if restart else ''} on {compress(allocation.names)}")
    with deputies(config, allocation, run_dir):
        return _run(log, config, allocation)


def _run(log: JobLog, config: Config, allocation: Allocation) -> int:
    try:
        with _told():
            # From here on `orchestrate requeue` and `cancel` count on being heard.
            log.note(What.started, nodes=allocation.names)
            if _is_finished(log, config):
                log.say(f"all {config.train.steps} steps of this run are made: nothing is left to do")
                log.note(What.ended, status=0)
                return 0
            planned = plans.load(log.run_dir / PLANNED_FILE)
            launcher = job_nodes.look_over(log, config, planned, allocation)
            plan = job_nodes.place(log, config, planned, launcher)
            prepare(config, log.console)
            ended = _train(log, config, plan, launcher)
    except Told as told:
        return job_end.stopped(log, config, told.number, saved=False)
    except UserError as error:
        job_end.refused(log, error)
        raise
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # it is stopping already
    return job_end.conclude(log, config, ended, launcher)


def _is_finished(log: JobLog, config: Config) -> bool:
    if config.checkpoint.every is not None:
        return log.last_step >= config.train.steps
    records = read_records(log.run_dir)
    return bool(records) and records[-1].step >= config.train.steps


def _train(log: JobLog, config: Config, plan: Plan, launcher: Slurm) -> Ended:
    if step := log.last_step:
        log.say(f"going on after step {step} of {config.train.steps}")

    def tell(fault: Fault) -> None:
        broken = fault.kind in ("failed", "hung")
        last = f"; the last checkpoint is of step {log.last_step}" if broken else ""
        log.say(f"{fault.kind.replace('_', ' ')} at step {fault.step}: {fault.text}{last}")

    with Progress(log.run_dir, config.train.steps, plan.dims.world, log.console) as progress:
        return Run(plan, config, log.run_dir, progress.tick, tell, launcher=launcher).keep()


@contextmanager
def _told() -> Iterator[None]:
    """Inside the block, SIGTERM and SIGUSR1 raise `Told`."""

    def tell(number: int, _frame: FrameType | None) -> None:
        raise Told(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    """Run the job of the run folder that ``arguments`` name."""
    try:
        return run(Path(arguments[0]))
    except UserError as error:
        print(f"orchestrate: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return MISTAKE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
