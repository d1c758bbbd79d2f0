"""The batch step of a job: ``python -m orchestrate.commands.job RUN``, started by the run's batch script.

It places the plan on the nodes that Slurm gave, looks them over, prepares the data, starts the ranks and
keeps them going, and at the end goes back into the queue or closes the accounts. No torch here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import yaml
from rich.console import Console

from launchers.attempt import MISTAKE
from launchers.exits import REQUEUE
from launchers.faults import Fault
from launchers.restart import Ended, Run, keep_plan
from launchers.slurm import client, jobs, preflight
from launchers.slurm.allocation import Allocation, read_allocation
from launchers.slurm.commands import CommandError
from launchers.slurm.jobs import What
from launchers.slurm.launcher import Slurm
from launchers.slurm.placing import NoEqualPlacement, maps, place_on
from launchers.slurm.requeue import requeue
from orchestrate import config as configs
from orchestrate.commands.run_folder import PLANNED_FILE
from orchestrate.config import Config
from orchestrate.data.prepare import prepare
from orchestrate.errors import ConfigError, UserError
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.topology.discover.hostlist import compress
from orchestrate.train import accounting, summary
from orchestrate.train.checkpoint import found
from orchestrate.train.metrics import read_records
from orchestrate.train.progress import Progress

WIDTH = 110


class Told(Exception):
    """A signal that came before the ranks were started."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Job:
    """One start of a job of the run in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.config: Config = configs.load(yaml.safe_load((run_dir / "config.yaml").read_text("utf-8")))
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.allocation: Allocation = read_allocation(self.config.cluster.device.kind)
        self.name = jobs.this_job() or self.allocation.job
        self.console = Console(width=WIDTH, highlight=False, markup=False)

    def run(self) -> int:
        """Train until the run or the job is over; the exit status of the job."""
        given = compress(self.allocation.names)
        again = f", restart {self.restart}" if self.restart else ""
        self.say(f"job {self.name}{again} on {given}")
        self.note(What.started, nodes=self.allocation.names)
        if (step := self._last_step()) >= self.config.train.steps or self._made_without_saving():
            self.say(f"all {self.config.train.steps} steps of this run are made: nothing is left to do")
            self.note(What.ended, status=0)
            return 0
        try:
            with _told():
                launcher = self._looked_over()
                plan = self._placed(launcher)
                prepare(self.config, self.console)
        except Told as told:
            return self._stopped(told.number)
        except UserError as error:
            print(f"orchestrate: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            self.note(What.ended, status=MISTAKE, text=str(error))
            return MISTAKE
        if step:
            self.say(f"going on after step {step} of {self.config.train.steps}")
        return self._concluded(self._trained(plan, launcher), launcher)

    def say(self, text: str) -> None:
        """A line of the job's log, with the time of day."""
        self.console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True)

    def note(
        self, what: What, *, nodes: tuple[str, ...] = (), status: int | None = None, text: str = ""
    ) -> None:
        """A line of the run's ``jobs.jsonl``."""
        jobs.note(self.run_dir, what, self.name, restart=self.restart, nodes=nodes, status=status, text=text)

    def _last_step(self) -> int:
        checkpoints = found(self.run_dir)
        return checkpoints[0].step if checkpoints else 0

    def _made_without_saving(self) -> bool:
        records = read_records(self.run_dir) if self.config.checkpoint.every is None else []
        return bool(records) and records[-1].step >= self.config.train.steps

    def _looked_over(self) -> Slurm:
        """The nodes that can be used.

        Raises:
            ConfigError: some cannot, and there are no spare ones.
        """
        if not self.config.launcher.preflight:
            return Slurm(self.allocation)
        planned = plans.load(self.run_dir / PLANNED_FILE)
        found = preflight.look(
            planned, self.config, self.allocation, self.run_dir, f"{self.name}-{self.restart}"
        )
        for host, reason in found.bad.items():
            self.say(f"preflight: {host} is not fit: {reason}")
        slowest = (
            "" if found.slowest is None else ", slowest link {} to {}: {:.3g} GB/s".format(*found.slowest)
        )
        nodes = len(self.allocation.hosts)
        self.say(
            f"preflight: {nodes - len(found.bad)} of {nodes} nodes fit in {found.seconds:.1f} s{slowest}"
        )
        launcher = self.config.launcher
        if len(found.bad) > launcher.spare_nodes and not launcher.replan:
            raise ConfigError(
                f"preflight: {compress(sorted(found.bad))} must not be used, and"
                f" launcher.spare_nodes={launcher.spare_nodes}: leave such nodes out with"
                " launcher.exclude, ask for spare ones, or look at the reasons above"
            )
        unfit = frozenset(found.bad)
        return Slurm(self.allocation, found.addresses, out=unfit, unfit=unfit)

    def _placed(self, launcher: Slurm) -> Plan:
        planned = plans.load(self.run_dir / PLANNED_FILE)
        try:
            placed = place_on(planned, self.config, self.allocation, launcher.out)
        except NoEqualPlacement:
            hosts = [host for host in self.allocation.hosts if host.name not in launcher.out]
            self.say("the plan's nodes and the job's, with the devices of each:")
            for left, right in [("planned", "given"), *maps(planned.cluster, hosts)]:
                self.console.print(f"  {left:<50}  {right}", soft_wrap=True)
            raise
        plan = placed.plan
        if placed.changed:
            self.say(f"no placement equals the plan's: planned anew for {plan.dims.world} devices")
        pairs = zip(planned.cluster.nodes_by_position, plan.cluster.nodes_by_position, strict=False)
        where = ", ".join(f"{old.host} is {new.host}" for old, new in pairs if old.host != new.host)
        if where and not placed.changed:
            self.say(f"of the plan, {where}")
        if spare := [n for n in self.allocation.names if n not in {node.host for node in plan.cluster.nodes}]:
            self.say(f"not used: {compress(spare)}")
        if plan != plans.load(self.run_dir / "plan.yaml"):
            keep_plan(self.run_dir)
            plans.save(plan, self.run_dir / "plan.yaml")
        return plan

    def _trained(self, plan: Plan, launcher: Slurm) -> Ended:
        def tell(fault: Fault) -> None:
            broken = fault.kind in ("failed", "hung")
            last = f"; the last checkpoint is of step {self._last_step()}" if broken else ""
            self.say(f"{fault.kind.replace('_', ' ')} at step {fault.step}: {fault.text}{last}")

        with Progress(self.run_dir, self.config.train.steps, plan.dims.world, self.console) as progress:
            return Run(plan, self.config, self.run_dir, progress.tick, tell, launcher=launcher).keep()

    def _concluded(self, ended: Ended, launcher: Slurm) -> int:
        if ended.signal is not None or ended.status == REQUEUE:
            return self._stopped(ended.signal, saved=ended.status == REQUEUE)
        if ended.message:
            self.say(f"given up: {ended.message}")
        if ended.failure is not None:
            self.console.print(ended.failure.text, soft_wrap=True)
        gone = launcher.down() - launcher.unfit if ended.status else frozenset()
        if gone and self.config.launcher.requeue and self.restart < self.config.faults.tries:
            return self._requeued(f"{compress(sorted(gone))} is gone")
        if ended.status == 0:
            summary.show(ended.plan, self.config, self.run_dir, self.console)
        self.note(What.ended, status=ended.status, text=ended.message)
        self._account()
        return ended.status

    def _stopped(self, number: int | None, saved: bool = True) -> int:
        """End, or where the time is up leave it to the next job of a chain, or go back into the queue."""
        step = self._last_step()
        where = f"saved after step {step}" if saved else f"not saved since step {step}"
        if number == signal.SIGUSR1 and not self._cancelled():
            if (successor := self._successor()) is not None:
                return self._over(0, f"{where}: its time is up; job {successor} of the chain goes on")
            if self.config.launcher.requeue:
                return self._requeued(f"{where}: its time is up")
        why = "its ranks were told to end" if number is None else f"told by {signal.Signals(number).name}"
        return self._over(REQUEUE, f"{where}: {why}; orchestrate requeue {self.run_dir} goes on")

    def _over(self, status: int, text: str) -> int:
        self.say(f"stopped, {text}")
        self.note(What.ended, status=status, text=text)
        self._account()
        return status

    def _requeued(self, why: str) -> int:
        self.say(f"stopped, {why}; back into the queue")
        self.note(What.requeued, text=why)
        self._account()
        try:
            requeue(self.name)
        except CommandError as error:
            self.say(f"Slurm does not take it back: {error}; orchestrate requeue {self.run_dir} goes on")
        return REQUEUE

    def _cancelled(self) -> bool:
        mine = [event for event in jobs.read_events(self.run_dir) if event.job == self.name]
        return mine[-1].what is What.cancelled

    def _successor(self) -> str | None:
        """The job that waits for this one to end, to go on with the run."""
        try:
            waiting = client.queue(jobs.jobs_of(self.run_dir))
        except client.SlurmError:
            return None
        return next((job for job, seen in waiting.items() if seen.state == "PENDING"), None)

    def _account(self) -> None:
        found = accounting.account(self.run_dir)
        accounting.save(self.run_dir, found)
        self.say(f"so far {found.text}")


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
        return Job(Path(arguments[0])).run()
    except UserError as error:
        print(f"orchestrate: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return MISTAKE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
