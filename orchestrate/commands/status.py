"""``orchestrate status RUN``: where its jobs stand and how far it has come. No torch here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from launchers.faults import read_faults
from launchers.slurm import client
from launchers.slurm.commands import CommandError
from launchers.slurm.jobs import JobEvent, What, jobs_of, read_events
from orchestrate.commands.here import processes_here
from orchestrate.commands.submitted import any_runs_of, config_of
from orchestrate.config import Config, PlanFormat
from orchestrate.plan.shown.search_tables import table
from orchestrate.topology.discover.hostlist import compress
from orchestrate.train.checkpoint import found
from orchestrate.train.metrics import read_records
from orchestrate.train.progress import clock, seconds, short


@dataclass(frozen=True)
class JobStatus:
    """A job of the run, from Slurm's queue, or where it is no longer there from the run's record."""

    job: str
    state: str
    """Slurm's word while it is in the queue; after that submitted, started, requeued, ended or cancelled."""
    nodes: str
    """As Slurm writes them; empty before it has some."""
    elapsed: str | None
    left: str | None
    """Of its time limit."""
    note: str
    """Why it waits, or how it ended."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come, by its own records."""

    step: int
    steps: int
    loss: float | None
    step_time_s: float | None
    tokens_per_s: float | None
    recorded_s_ago: float | None
    """Since the last record."""
    saved_step: int | None
    """Of the newest checkpoint."""
    fault: str | None
    """The last thing that went wrong."""
    processes_here: int
    """Of its processes, those that live on this machine."""


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print where the runs in ``run.dir`` stand, as a table or as JSON.

    Raises:
        ConfigError: no run is there.
    """
    runs = any_runs_of(config, "status")
    jobs = [job for run_dir in runs for job in jobs_of(run_dir)]
    try:
        queue, silent = client.queue(jobs), None
    except CommandError as error:
        queue, silent = {}, str(error)
    told = {run_dir: (_jobs(run_dir, queue), _progress(run_dir)) for run_dir in runs}
    if config.status.format is PlanFormat.json:
        print(json.dumps([_plain(run_dir, *found) for run_dir, found in told.items()], indent=2))
    else:
        _show(told)
    if silent is not None:
        Console(stderr=True).print(Text(f"from the runs' own records alone: {silent}"), soft_wrap=True)
    return 0


def _jobs(run_dir: Path, queue: Mapping[str, client.Job]) -> list[JobStatus]:
    last: dict[str, list[JobEvent]] = {}
    for event in read_events(run_dir):
        last.setdefault(event.job, []).append(event)
    return [_in_queue(queue[job]) if job in queue else _on_record(events) for job, events in last.items()]


def _in_queue(job: client.Job) -> JobStatus:
    waits = job.state == "PENDING"
    begins = f", expected {job.starts}" if job.starts not in ("", "N/A") else ""
    note = f"{job.reason}{begins}" if waits else ""
    return JobStatus(job.job, job.state, job.nodes, None if waits else job.elapsed, job.left, note)


def _on_record(events: Sequence[JobEvent]) -> JobStatus:
    nodes = next((event.nodes for event in reversed(events) if event.nodes), ())
    # A job that was told to end may have left its last word before or after that.
    event = next((event for event in reversed(events) if event.what is What.ended), events[-1])
    note = event.text if event.status is None else f"status {event.status} {event.text}".strip()
    if event.what in (What.submitted, What.started, What.requeued):
        note = note or "Slurm knows it no more"
    what = What.cancelled if any(event.what is What.cancelled for event in events) else event.what
    return JobStatus(event.job, what.value, compress(nodes), None, None, note)


def _progress(run_dir: Path) -> Progress:
    records, faults, saved = read_records(run_dir), read_faults(run_dir), found(run_dir)
    last = records[-1] if records else None
    return Progress(
        step=last.step if last else 0,
        steps=config_of(run_dir).train.steps,
        loss=last.loss if last else None,
        step_time_s=last.step_time_s if last else None,
        tokens_per_s=last.tokens_per_s if last else None,
        recorded_s_ago=max(0.0, time.time() - last.time) if last else None,
        saved_step=saved[0].step if saved else None,
        fault=faults[-1].text if faults else None,
        processes_here=len(processes_here(run_dir)),
    )


def _plain(run_dir: Path, jobs: Sequence[JobStatus], progress: Progress) -> dict[str, Any]:
    return {"run": str(run_dir), "jobs": [asdict(job) for job in jobs], "progress": asdict(progress)}


def _show(told: Mapping[Path, tuple[list[JobStatus], Progress]]) -> None:
    console = Console()
    for run_dir, (jobs, progress) in told.items():
        console.print(Text(str(run_dir)), soft_wrap=True)
        shown = table("job", "state", "nodes", "elapsed", "left", "note")
        for job in jobs:
            cells = (job.job, job.state, job.nodes, job.elapsed or "", job.left or "", job.note)
            shown.add_row(*map(Text, cells))
        if jobs:
            console.print(shown)
        for line in _lines(progress, submitted=bool(jobs)):
            console.print(Text(line), soft_wrap=True)


def _lines(progress: Progress, *, submitted: bool) -> list[str]:
    lines = [f"step {progress.step} of {progress.steps}"]
    if progress.loss is not None and progress.step_time_s is not None and progress.tokens_per_s is not None:
        lines[0] += (
            f", loss {progress.loss:.4f}, {seconds(progress.step_time_s)} a step,"
            f" {short(progress.tokens_per_s)} tokens/s"
        )
    if progress.recorded_s_ago is not None:
        lines[0] += f", {clock(progress.recorded_s_ago)} ago"
    saved = progress.saved_step
    lines.append("no checkpoint yet" if saved is None else f"newest checkpoint: after step {saved}")
    if not submitted:
        count = progress.processes_here
        lines.append(f"{count or 'no'} process{'' if count == 1 else 'es'} of it on this machine")
    return lines if progress.fault is None else [*lines, f"last fault: {progress.fault}"]
