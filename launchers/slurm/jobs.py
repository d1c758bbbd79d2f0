"""The record of a run's Slurm jobs: ``jobs.jsonl`` in its folder, one JSON object per event.

Slurm forgets a job minutes after its end, and only some sites keep accounts; this record stays.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

JOBS_FILE = "jobs.jsonl"


class What(str, Enum):
    """What happened to a job."""

    submitted = "submitted"
    started = "started"
    requeued = "requeued"
    """It put itself back into the queue, or somebody did."""
    ended = "ended"
    cancelled = "cancelled"
    """Somebody asked for its end; it may still be saving."""


@dataclass(frozen=True)
class JobEvent:
    what: What
    job: str
    """As Slurm's commands take it: ``1234``, or ``1234_5`` of an array."""
    time: float
    """Seconds since the epoch."""
    restart: int | None = None
    """How often Slurm had put the job back before; None where it is not known."""
    nodes: tuple[str, ...] = ()
    """Of a start: the nodes of the job."""
    status: int | None = None
    """Of an end: the exit status."""
    text: str = ""
    """More, in a line for people."""


def note(
    run_dir: Path,
    what: What,
    job: str,
    *,
    restart: int | None = None,
    nodes: tuple[str, ...] = (),
    status: int | None = None,
    text: str = "",
) -> JobEvent:
    """Append an event of now to the run's record."""
    event = JobEvent(what, job, time.time(), restart, nodes, status, text)
    values = {key: value for key, value in asdict(event).items() if value not in (None, (), "")}
    line = json.dumps({**values, "what": what.value}) + "\n"
    # One write at the end of the file: the login node and the job may both be at it.
    descriptor = os.open(run_dir / JOBS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    return event


def read_events(run_dir: Path) -> list[JobEvent]:
    """The run's events, oldest first; a line cut short is passed over."""
    try:
        lines = (run_dir / JOBS_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            values = json.loads(line)
            values |= {"what": What(values["what"]), "nodes": tuple(values.get("nodes", ()))}
            found.append(JobEvent(**values))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def jobs_of(run_dir: Path) -> list[str]:
    """The run's jobs in the order of their submission, each once."""
    return list(dict.fromkeys(event.job for event in read_events(run_dir)))


def was_cancelled(run_dir: Path, job: str) -> bool:
    """Whether somebody has asked for the end of ``job``, which has not ended or begun again since."""
    events = [event for event in read_events(run_dir) if event.job == job]
    return bool(events) and events[-1].what is What.cancelled


def this_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job that this process belongs to, as Slurm's commands take it; None outside one."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return environment.get("SLURM_JOB_ID")
