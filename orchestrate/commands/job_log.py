"""What a job says in its log, and leaves in the run's record of jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from launchers.slurm import client, jobs
from launchers.slurm.jobs import What
from orchestrate.train import accounting
from orchestrate.train.checkpoint import found

WIDTH = 110


@dataclass(frozen=True)
class JobLog:
    """Of one start of a job of the run in ``run_dir``."""

    run_dir: Path
    job: str
    """As Slurm's commands take it."""
    restart: int
    """How often Slurm has put it back into the queue."""
    console: Console = field(default_factory=lambda: Console(width=WIDTH, highlight=False, markup=False))

    def say(self, text: str) -> None:
        """A line, with the time of day."""
        self.console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True)

    def note(
        self, what: What, *, nodes: tuple[str, ...] = (), status: int | None = None, text: str = ""
    ) -> None:
        """A line of the run's ``jobs.jsonl``."""
        jobs.note(self.run_dir, what, self.job, restart=self.restart, nodes=nodes, status=status, text=text)

    def account(self, *, ask_slurm: bool) -> None:
        """Close the accounts, and say what they come to; with ``ask_slurm`` by Slurm's as well."""
        accounts = accounting.account(self.run_dir)
        accounting.save(self.run_dir, accounts)
        slurm = client.node_hours(jobs.jobs_of(self.run_dir) or [self.job]) if ask_slurm else None
        theirs = "" if slurm is None else f"; by Slurm's accounts {slurm:.3g} node-hours"
        self.say(f"so far {accounts.text}{theirs}")

    @property
    def last_step(self) -> int:
        """Of the newest checkpoint; 0 where there is none."""
        checkpoints = found(self.run_dir)
        return checkpoints[0].step if checkpoints else 0

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked for the job's end."""
        return jobs.was_cancelled(self.run_dir, self.job)
