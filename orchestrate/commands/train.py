"""``orchestrate train``: plan, prepare the data, start the processes, follow them, sum up. No torch here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launchers import local
from launchers.exits import REQUEUE
from launchers.faults import Fault
from launchers.restart import Ended, Run
from orchestrate.commands import run_folder, submit
from orchestrate.commands.planning import make_plan
from orchestrate.config import Config, LauncherKind
from orchestrate.data.prepare import prepare
from orchestrate.plan import plan as plans
from orchestrate.plan.shown.tables import render_plan
from orchestrate.train import summary
from orchestrate.train.checkpoint import found, latest
from orchestrate.train.checkpoint.agreement import check_start
from orchestrate.train.metrics import read_records
from orchestrate.train.progress import Progress


def run(config: Config, overrides: Sequence[str]) -> int:
    """Train as ``config`` says; the exit status of the launcher, see `launchers.attempt.Attempt`. With
    ``launcher.dry_run`` nothing but the plan is shown; with another launcher than local this is ``orchestrate
    submit``."""
    if config.launcher.kind is not LauncherKind.local:
        return submit.run(config, overrides)
    console = Console()
    plan = make_plan(config)
    console.print(render_plan(plan))
    local.check(plan)
    if config.launcher.dry_run:
        console.print(f"would start {plan.dims.world} processes on this machine", highlight=False)
        return 0
    if (done := _done(config)) is not None:
        return _sum_up_again(config, done, console, overrides)
    prepare(config, console)
    run_dir = run_folder.create(config, plan, overrides)
    console.print(f"run folder {run_dir}", highlight=False, soft_wrap=True)
    if checkpoints := found(run_dir):
        text = f"it goes on after step {checkpoints[0].step}, or the newest checkpoint that is whole"
        console.print(text, highlight=False, soft_wrap=True)

    def tell(fault: Fault) -> None:
        console.print(Text(f"{fault.kind.replace('_', ' ')}: {fault.text}", style="yellow"), soft_wrap=True)

    with Progress(run_dir, config.train.steps, plan.dims.world, console) as progress:
        ended = Run(plan, config, run_dir, progress.tick, tell).keep()
    if ended.status == 0:
        summary.show(ended.plan, config, run_dir, console, overrides)
    sys.stdout.flush()
    for line in last_words(ended, run_dir):
        print(line, file=sys.stderr, flush=True)
    return ended.status


def _done(config: Config) -> int | None:
    """The last step of the run in ``run.dir``, where it has made as many as ``train.steps`` asks for."""
    if config.run.dir is None:
        return None
    run_dir = Path(config.run.dir).expanduser()
    checkpoints = found(run_dir)
    if not checkpoints or checkpoints[0].step < config.train.steps or not read_records(run_dir):
        return None
    check_start(config, run_dir)
    whole = latest(run_dir)  # what is damaged is made again
    return None if whole is None or whole.step < config.train.steps else whole.step


def _sum_up_again(config: Config, done: int, console: Console, overrides: Sequence[str]) -> int:
    run_dir = Path(config.run.dir or "").expanduser()
    summary.show(plans.load(run_dir / "plan.yaml"), config, run_dir, console, overrides)
    text = f"{run_dir} has made its {done} steps, and nothing was started: train.steps={2 * done} would go on"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def last_words(ended: Ended, run_dir: Path) -> Iterator[str]:
    """Why the run in ``run_dir`` is over, where it did not end well, and how to go on."""
    if ended.message:
        yield f"given up: {ended.message}"
        if ended.failure is None:
            yield f"what every rank was doing: {shlex.join(['orchestrate', 'diagnose', str(run_dir)])}"
    if ended.failure is not None:
        # Last on the screen, so that nobody has to scroll for it.
        yield ended.failure.text
    if ended.status == REQUEUE:
        yield f"stopped and saved; to go on, start the same command with run.dir={run_dir}"
    elif ended.status >= 128:
        yield _interrupted(run_dir)


def _interrupted(run_dir: Path) -> str:
    if checkpoints := found(run_dir):
        newest = f"the newest checkpoint is of step {checkpoints[0].step}"
        return f"interrupted; {newest}; to go on, start the same command with run.dir={run_dir}"
    return f"interrupted, and nothing is saved; the run's folder: {run_dir}"
