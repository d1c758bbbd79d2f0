"""``-m``: the jobs of a sweep, one after the other, each in its own run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.cli.verbs import Verb
from orchestrate.config import Config
from orchestrate.errors import ConfigError, UserError


def run_all(verb: Verb, source: Source, jobs: Sequence[Sequence[str]]) -> int:
    """Run ``verb`` on every job; a job that fails is reported and the rest go on.

    Returns:
        0 when every job did well, 2 when all that went wrong were mistakes in what was typed, 1 when a
        run failed; the status of an interruption at once.
    """
    folders = _run_folders(jobs)
    names = [_difference(job, jobs) for job in jobs]
    if verb.together:
        return verb.load_together()(_configs(source, jobs, folders, names), jobs)
    statuses = []
    for number, (job, name, folder) in enumerate(zip(jobs, names, folders, strict=True), start=1):
        print(f"[{number}/{len(jobs)}] {name}", flush=True)
        try:
            status = verb.load()(build(source, job, folder), job)
        except UserError as error:
            print(f"orchestrate: {name}: {' '.join(str(error).split())}", file=sys.stderr)
            status = 2
        if status >= 128:
            return status
        statuses.append(status)
    failed = [name for name, status in zip(names, statuses, strict=True) if status]
    if not failed:
        return 0
    print(f"orchestrate: {len(failed)} of {len(jobs)} jobs failed: {'; '.join(failed)}", file=sys.stderr)
    return 2 if set(statuses) <= {0, 2} else 1


def _configs(
    source: Source, jobs: Sequence[Sequence[str]], folders: Sequence[str | None], names: Sequence[str]
) -> list[Config]:
    """The configs of all jobs; a mistake in any is told with the job's name, before anything has begun."""
    configs = []
    for job, folder, name in zip(jobs, folders, names, strict=True):
        try:
            configs.append(build(source, job, folder))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    return configs


def _run_folders(jobs: Sequence[Sequence[str]]) -> list[str | None]:
    """A folder per job under the one asked for; None leaves a job the folder that it names itself."""
    given = [[o.partition("=")[2] for o in job if o.startswith("run.dir=")] for job in jobs]
    named = [folder[-1] for folder in given if folder]
    if len(set(named)) == len(jobs):
        return [None] * len(jobs)
    base = Path(named[0].strip("'\"")) if named else Path("runs", "multirun", time.strftime("%Y%m%d-%H%M%S"))
    return [str(base / str(number)) for number in range(1, len(jobs) + 1)]


def _difference(job: Sequence[str], jobs: Sequence[Sequence[str]]) -> str:
    """The overrides of ``job`` that not every job has: what tells it from the others."""
    shared = set(jobs[0]).intersection(*jobs)
    return " ".join(o for o in job if o not in shared) or " ".join(job) or "defaults"
