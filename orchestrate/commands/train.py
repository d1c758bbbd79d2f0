"""``orchestrate train``: plan, prepare the data, start the processes, follow them, sum up. No torch here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from launchers import local
from launchers.failure import Failure
from orchestrate.commands import run_folder
from orchestrate.commands.planning import make_plan
from orchestrate.config import Config
from orchestrate.data.prepare import prepare
from orchestrate.errors import ConfigError
from orchestrate.plan.render import render_plan
from orchestrate.train import summary
from orchestrate.train.progress import Progress


def run(config: Config, overrides: Sequence[str]) -> int:
    """Train as ``config`` says; the exit status of the launcher, see `launchers.local.launch`."""
    if config.launcher.kind != "local":
        raise ConfigError(f"launcher.kind={config.launcher.kind}: no such launcher; choices: local")
    console = Console()
    plan = make_plan(config)
    console.print(render_plan(plan))
    local.check(plan)
    prepare(config, console)
    run_dir = run_folder.create(config, plan, overrides)
    console.print(f"run folder {run_dir}", highlight=False, soft_wrap=True)
    failures: list[Failure] = []
    with Progress(run_dir, config.train.steps, plan.dims.world, console) as progress:
        status = local.launch(plan, config, run_dir, on_tick=progress.tick, on_failure=failures.append)
    if status == 0:
        summary.show(plan, config, run_dir, console, overrides)
    for failure in failures:
        # Last on the screen, so that nobody has to scroll for it.
        sys.stdout.flush()
        print(failure.text, file=sys.stderr, flush=True)
    if status >= 128:
        print(f"interrupted; the run's folder: {run_dir}", file=sys.stderr)
    return status
