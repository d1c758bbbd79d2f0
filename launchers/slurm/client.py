"""Slurm's command line: submit, look, signal, cancel. What it refuses is told in its own words."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.slurm.commands import CommandError, ask

ACTIVE = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "RESIZING", "STOPPED")
"""States of a job that is yet to end."""

HOPELESS = frozenset(
    {
        "AssocMaxNodePerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionConfig",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSMaxNodePerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
    }
)
"""Reasons for which a job waits until somebody changes the job or the site: many sites let sbatch take it."""

_VARIABLES = {"array": "ARRAY_INX", "mem": "MEM_PER_NODE", "switches": "REQ_SWITCH", "time": "TIMELIMIT"}
"""Options of sbatch whose variable is not called as they are."""


@dataclass(frozen=True)
class Job:
    """What squeue says of a job."""

    job: str
    state: str
    reason: str
    """Why it waits; None or a node list's brackets where it does not."""
    nodes: str
    """In brackets, as node[1-2]; empty while it waits."""
    elapsed: str
    left: str
    """Of its time limit."""
    starts: str
    """When it began, or is expected to; N/A where Slurm does not know."""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


def submit(script: Path, *options: str) -> str:
    """Hand ``script`` to sbatch and return the job's id.

    Raises:
        CommandError: sbatch is not there or refused, or the job would wait for ever; then it is gone.
    """
    # Typed within another job, that job's variables would be taken for wishes about the new one.
    foreign = {name for name in os.environ if name.startswith("SLURM_")} - {"SLURM_CONF", "SLURM_CLUSTERS"}
    foreign |= _overriding(script)
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    try:
        told = ask("sbatch", "--parsable", *options, str(script), environment=environment)
    except CommandError as error:
        if "partition" not in str(error).lower():
            raise
        raise CommandError(f"{error}; {_partitions()}") from None
    # A federation adds ;cluster.
    job = told.strip().splitlines()[-1].partition(";")[0]
    try:
        waits_for = {found.reason for found in queue([job]).values()}
    except CommandError:
        return job  # it is submitted, whatever becomes of squeue
    except KeyboardInterrupt:
        cancel([job])
        raise
    if hopeless := waits_for & HOPELESS:
        cancel([job])
        raise CommandError(f"Slurm would let this job wait for ever: {hopeless.pop()}; {_partitions()}")
    return job


def _overriding(script: Path) -> set[str]:
    """The variables, as a profile may set them, that sbatch would heed more than ``script``."""
    options = re.findall(r"^#SBATCH --([\w-]+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    return {f"SBATCH_{_VARIABLES.get(name, name.replace('-', '_').upper())}" for name in options}


def queue(jobs: Sequence[str]) -> dict[str, Job]:
    """Those of ``jobs`` that Slurm still has in its queue, by id.

    Raises:
        CommandError: squeue is not there, or the controller does not answer.
    """
    if not jobs:
        return {}
    form = "%i|%T|%r|%N|%M|%L|%S"
    try:
        told = ask("squeue", "--noheader", "--array", f"--jobs={','.join(jobs)}", f"--format={form}")
    except CommandError as error:
        if "Invalid job id" not in str(error):
            raise
        # So it says of a single job that it has forgotten; among several, such a one is passed over.
        return {}
    found = (line.split("|") for line in told.splitlines() if line.count("|") == 6)
    return {fields[0]: Job(*fields) for fields in found}


def signal_batch(job: str, name: str) -> None:
    """Send signal ``name`` (USR1, TERM, …) to the batch step of ``job`` alone.

    Raises:
        CommandError: it does not run, or belongs to somebody else.
    """
    ask("scancel", "--batch", f"--signal={name}", job)


def requeue(job: str) -> None:
    """End ``job`` at once and put it back into the queue.

    Raises:
        CommandError: it may not be requeued, or belongs to somebody else.
    """
    ask("scontrol", "requeue", job)


def cancel(jobs: Sequence[str]) -> None:
    """End ``jobs``, whatever state they are in; those that have ended already do not matter.

    Raises:
        CommandError: scancel is not there, or one belongs to somebody else.
    """
    if jobs:
        ask("scancel", *jobs)


def exit_status(job: str) -> int | None:
    """The exit status of a job that has ended: 128 and the signal where one ended it; None where neither
    the controller nor the accounts know it any more."""
    for command in (
        ["scontrol", "--oneliner", "show", "job", job],
        ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=ExitCode,State"],
    ):
        try:
            told = ask(*command)
        except CommandError:
            continue
        code, state = _ended(told)
        if code is not None:
            return code or (0 if state == "COMPLETED" else 1)
    return None


def _ended(told: str) -> tuple[int | None, str]:
    fields = dict(word.partition("=")[::2] for word in told.split() if "=" in word)
    code, state = fields.get("ExitCode", ""), fields.get("JobState", "")
    if not code and "|" in told:
        code, _, state = told.split()[0].partition("|")
    status, colon, number = code.partition(":")
    if not colon or not status.isdecimal() or not number.isdecimal():
        return None, state
    return (128 + int(number) if int(number) else int(status)), state


def _partitions() -> str:
    """The partitions that this user sees, in half a sentence."""
    try:
        rows = [line.split("|") for line in ask("sinfo", "--noheader", "--format=%R|%D|%l").splitlines()]
    except CommandError:
        rows = []
    known = (f"{name} (nodes {nodes}, time limit {limit})" for name, nodes, limit in rows)
    return f"partitions here: {', '.join(known) or 'unknown'}"


def version() -> str | None:
    """As in ``slurm 22.05.8``; None where there is none."""
    try:
        return ask("sbatch", "--version").strip() or None
    except CommandError:
        return None


def node_hours(jobs: Sequence[str]) -> float | None:
    """Of ``jobs``, each time that they started, by Slurm's accounts; None where it keeps none."""
    form = ("--noheader", "--parsable2", "--allocations", "--duplicates", "--format=ElapsedRaw,NNodes")
    try:
        rows = [line.split("|") for line in ask("sacct", *form, f"--jobs={','.join(jobs)}").splitlines()]
        return sum(int(seconds) * int(nodes) for seconds, nodes in rows) / 3600 if rows else None
    except (CommandError, ValueError):
        return None
