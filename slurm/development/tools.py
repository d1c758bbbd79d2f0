"""The programs of the machine that do the work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from .spec import Mistake

NETWORK = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
SLURM = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sinfo": "slurm-client",
    "sbatch": "slurm-client",
}
INSTALL = "apt-get install -y --no-install-recommends slurm-wlm slurmctld slurmd slurm-client munge iproute2"
TIMEOUT_S = 60.0
"""Longest that one of them may take."""
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


class ToolFailed(Exception):
    """One of them ended badly; the text is what it said."""


def missing(slurm: bool) -> str | None:
    """What this machine lacks, in one line; None where it has all."""
    if not sys.platform.startswith("linux"):
        return "needs Linux, whose namespaces stand for the nodes"
    if os.geteuid() != 0:
        return "needs root, to make namespaces: call it with sudo"
    programs = NETWORK | (SLURM if slurm else {})
    absent = [program for program in programs if shutil.which(program, path=PATH) is None]
    if absent:
        return f"needs {', '.join(absent)}: on Debian or Ubuntu, {INSTALL}"
    return None


def require(slurm: bool) -> None:
    """Raise Mistake where this machine lacks something."""
    if (lack := missing(slurm)) is not None:
        raise Mistake(lack)


def call(*argv: str, lines: Sequence[str] = ()) -> str:
    """What ``argv`` printed; ``lines`` are its standard input.

    Raises:
        ToolFailed: it did not end with 0, or not at all.
    """
    try:
        ended = subprocess.run(
            argv,
            input="".join(f"{line}\n" for line in lines),
            env={**os.environ, "PATH": PATH},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ToolFailed(f"{' '.join(argv)}: has not ended in {TIMEOUT_S:g} s") from None
    if ended.returncode != 0:
        said = " ".join(ended.stderr.split()) or f"exit code {ended.returncode}"
        raise ToolFailed(f"{' '.join(argv)}: {said}")
    return ended.stdout
