"""A job that puts itself back into the queue."""

from __future__ import annotations

import signal
import time

from launchers.slurm.commands import CommandError, ask

_SOON_S = 2
"""A requeued job would wait for two minutes; told to start sooner than this, Slurm may lose it."""
_TRIES = 20


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
