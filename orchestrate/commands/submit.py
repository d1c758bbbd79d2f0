"""``orchestrate submit``: plan, freeze all of it in the run's folder, hand it to a scheduler. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from launchers.ranks import devices_per_node, nodes_of
from launchers.slurm import client
from launchers.slurm.jobs import What, jobs_of, note
from launchers.slurm.script import SCRIPT_FILE, Place, render
from launchers.slurm.wait import active, wait_for
from launchers.snapshot import CODE, source_tree
from orchestrate.commands import elsewhere, run_folder
from orchestrate.commands.freeze import (
    FROZEN,
    absolute,
    copy_code,
    note_environment,
    prepared,
    require_data,
    undone_on_failure,
)
from orchestrate.commands.planning import make_plan
from orchestrate.config import Config, LauncherKind
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.plan.shown.tables import render_plan
from orchestrate.train.checkpoint import found

WRITTEN = (*FROZEN, SCRIPT_FILE)
"""What a submission writes into a run's folder, beside the code and the record of jobs."""


def run(config: Config, overrides: Sequence[str]) -> int:
    """Submit the run of ``config``; with ``launcher.dry_run`` print its script, with ``launcher.wait`` wait.

    Returns:
        0 once it is submitted; with ``launcher.wait`` the exit status of the job.

    Raises:
        ConfigError: what cannot be planned or submitted; then nothing of it is left behind.
    """
    _check_kind(config)
    config = absolute(config)
    if config.launcher.kind is not LauncherKind.slurm:
        return elsewhere.run(config, overrides)
    plan = make_plan(config)
    if config.launcher.dry_run:
        folder = run_folder.proposed(config).absolute()
        print(render(config.launcher, plan, _place(config, folder)), end="")
        return 0
    return _follow(config, _submit(config, plan, overrides))


def run_all(configs: Sequence[Config], overrides: Sequence[Sequence[str]]) -> int:
    """Submit the runs of a sweep: as one job array where their scripts would be alike, otherwise one by one.

    Returns:
        0 once all are submitted; with ``launcher.wait`` the highest exit status of the jobs.

    Raises:
        ConfigError: as `run`; of the runs that are submitted one by one, those before go on.
    """
    for config in configs:
        _check_kind(config)
    if any(c.launcher.kind is LauncherKind.torchrun and not c.launcher.dry_run for c in configs):
        raise ConfigError("launcher=torchrun becomes torchrun for one run: submit each without -m")
    if any(config.launcher.kind is not LauncherKind.slurm for config in configs):
        return max([run(config, typed) for config, typed in zip(configs, overrides, strict=True)])
    configs = [absolute(config) for config in configs]
    plans = [make_plan(config) for config in configs]
    base, launcher = _array_folder(configs, plans), configs[0].launcher
    if base is not None and launcher.dry_run:
        print(render(launcher, plans[0], _place(configs[0], base, tasks=len(configs))), end="")
        return 0
    if base is not None:
        return _follow(configs[0], _submit_array(base, configs, plans, overrides))
    if launcher.dry_run:
        return max([run(config, typed) for config, typed in zip(configs, overrides, strict=True)])
    jobs: dict[str, Path] = {}
    for config, plan, typed in zip(configs, plans, overrides, strict=True):
        jobs |= _submit(config, plan, typed)
    return _follow(configs[0], jobs)


def _submit(config: Config, plan: Plan, overrides: Sequence[str]) -> dict[str, Path]:
    """Freeze and submit one run; its jobs, each with the run's folder."""
    console = Console()
    console.print(render_plan(plan))
    require_data(config)
    if config.run.dir is not None:
        _require_idle(Path(config.run.dir))
    with prepared(config, plan, overrides, WRITTEN) as folder:
        note_environment(folder, client.version())
        script = folder / SCRIPT_FILE
        place = _place(config, folder, copy_code(folder))
        script.write_text(render(config.launcher, plan, place), encoding="utf-8")
        jobs = dict.fromkeys(_chained(script, config.launcher.chain), folder)
    _tell(console, plan, jobs, folder)
    return jobs


def _submit_array(
    base: Path, configs: Sequence[Config], plans: Sequence[Plan], overrides: Sequence[Sequence[str]]
) -> dict[str, Path]:
    """Freeze the runs in the folders 1, 2, … of ``base``, and submit them as one array; as `_submit`."""
    console = Console()
    console.print(render_plan(plans[0]))
    for config in configs:
        require_data(config)
    folders = [base / str(task) for task in range(1, len(configs) + 1)]
    for folder in folders:
        _require_idle(folder)
    with ExitStack() as stack:
        stack.enter_context(undone_on_failure(base, WRITTEN))
        for config, plan, typed in zip(configs, plans, overrides, strict=True):
            note_environment(stack.enter_context(prepared(config, plan, typed, WRITTEN)), client.version())
        script = base / SCRIPT_FILE
        place = _place(configs[0], base, copy_code(base), len(configs))
        script.write_text(render(configs[0].launcher, plans[0], place), encoding="utf-8")
        array = client.submit(script)
    jobs = {f"{array}_{folder.name}": folder for folder in folders}
    _tell(console, plans[0], jobs, base)
    return jobs


def _check_kind(config: Config) -> None:
    if config.launcher.kind is LauncherKind.local:
        raise ConfigError(
            "launcher=local starts processes here, which orchestrate train does: to submit, choose"
            " launcher=slurm"
        )


def _chained(script: Path, length: int) -> list[str]:
    """Submit ``script`` so many times; the jobs. Should that be cut short, none of them goes on: their folder
    is about to be undone."""
    jobs: list[str] = []
    try:
        while len(jobs) < length:
            jobs.append(client.submit(script))
    except BaseException:
        client.cancel(jobs)
        raise
    return jobs


def _require_idle(folder: Path) -> None:
    if under_way := active(jobs_of(folder)):
        raise ConfigError(
            f"run.dir={folder}: job {under_way[0]} of this run has not ended; {_typed('cancel', folder)} ends"
            " it, and launcher.chain submits several at once"
        )


def _array_folder(configs: Sequence[Config], plans: Sequence[Plan]) -> Path | None:
    """The folder with the runs' folders 1, 2, … where they can be one job array: their scripts are alike, and
    nobody asked for something else; otherwise None."""
    launcher = configs[0].launcher
    folders = [Path(config.run.dir) for config in configs if config.run.dir is not None]
    if not folders or launcher.chain > 1 or not launcher.array:
        return None
    base = folders[0].parent
    if folders != [base / str(number) for number in range(1, len(configs) + 1)]:
        return None
    places = [_place(config, base, tasks=len(configs)) for config in configs]
    parts = zip(configs, plans, places, strict=True)
    return base if len({render(config.launcher, plan, place) for config, plan, place in parts}) == 1 else None


def _place(config: Config, folder: Path, code: Path | None = None, tasks: int | None = None) -> Place:
    """Where a job's files are; before anything is copied, where they will be."""
    if code is None and source_tree() is not None:
        code = folder / CODE
    return Place(folder, code, config.run.name or config.model.name, tasks)


def _tell(console: Console, plan: Plan, jobs: Mapping[str, Path], folder: Path) -> None:
    """Note the submission in the runs' folders, and say how to follow it."""
    for job, run_dir in jobs.items():
        note(run_dir, What.submitted, job)
    names = next(iter(jobs)) if len(jobs) == 1 else f"{next(iter(jobs))} to {list(jobs)[-1]}"
    lines = [
        f"{'job' if len(jobs) == 1 else 'jobs'} {names}:"
        f" {nodes_of(plan)} nodes of {devices_per_node(plan)} devices",
        f"run folder {folder}",
    ]
    if len(jobs) == 1 and (checkpoints := found(folder)):
        lines.append(f"it goes on after step {checkpoints[0].step}, or the newest checkpoint that is whole")
    first = next(iter(jobs.values()))
    lines += [_typed("status", folder), _typed("logs", first, "follow=true"), _typed("cancel", folder)]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _typed(verb: str, folder: Path, *more: str) -> str:
    """A command for people to copy."""
    return shlex.join(["orchestrate", verb, str(folder), *more])


def _follow(config: Config, jobs: Mapping[str, Path]) -> int:
    if not config.launcher.wait:
        return 0
    statuses = wait_for(jobs)
    for job, status in statuses.items():
        print(f"job {job} ended with status {status}")
    return max(statuses.values())
