"""One task of the ranks' step: ``python -m launchers.slurm.task MODULE ARGUMENTS``, started by srun.

It says which host and device it got, binds itself to the processors next to the device, and becomes
``python -m MODULE ARGUMENTS``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from launchers.gpus import processors_near, visible

SHOWN = "ORCHESTRATE_SHOWN"
"""By host the GPUs to use, as JSON; hosts that are not named use all."""
BIND = "ORCHESTRATE_BIND"


def identity(environment: Mapping[str, str]) -> dict[str, str]:
    """The worker's variables, from those that Slurm gives a task."""
    host, local = environment["SLURMD_NODENAME"], environment["SLURM_LOCALID"]
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "LOCAL_RANK": local,
        "ORCHESTRATE_HOST": host,
        "ORCHESTRATE_DEVICE": local,
        "ORCHESTRATE_REMOTE": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **visible(json.loads(environment.get(SHOWN, "{}")).get(host)),
    }


def main(argv: list[str]) -> None:
    told = identity(os.environ)
    os.environ.update(told)
    if BIND in os.environ and (near := processors_near(int(told["LOCAL_RANK"]), Path("/"))):
        os.sched_setaffinity(0, near)
    # Until the worker listens: what ends nobody later must not end it now.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, "-m", *argv])


if __name__ == "__main__":
    main(sys.argv[1:])
