"""Whose it is to put a job back into the queue, Slurm's or the job's own, and how that is done."""

from __future__ import annotations

import signal
import time

from launchers.slurm.commands import CommandError, ask
from orchestrate.config import LauncherConfig

_SOON_S = 2
"""A requeued job would wait for two minutes; told to start sooner than this, Slurm may lose it."""
_TRIES = 20


def outlives_nodes(launcher: LauncherConfig) -> bool:
    """Whether the job goes on with the nodes that are left when one fails (``--no-kill``).

    Slurm then leaves it as it is even where its batch step went down with the node: `launchers.slurm.deputy`.
    """
    return bool(launcher.spare_nodes) or launcher.replan or not launcher.requeue


def requeue(job: str) -> None:
    """Put ``job``, which this process runs in, back into the queue. Slurm then ends this process.

    Raises:
        CommandError: Slurm refuses.
    """
    # Slurm now tells all that runs to end, this process too.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ask("scontrol", "requeue", job)
    for _ in range(_TRIES):
        try:
            ask("scontrol", "update", f"JobId={job}", f"StartTime=now+{_SOON_S}")
            return
        except CommandError:  # while it is completing
            time.sleep(0.5)
