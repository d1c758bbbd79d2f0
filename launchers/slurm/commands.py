"""Slurm's own commands, as a job calls them."""

from __future__ import annotations

import os
import signal
import subprocess

from orchestrate.errors import ConfigError

TIMEOUT_S = 60.0
"""A busy controller may take a while; one that is away must not hold up a job for good."""


class CommandError(ConfigError):
    """A command of Slurm that did not work, in Slurm's own words."""


def ask(*argv: str) -> str:
    """What command ``argv`` prints.

    Raises:
        CommandError: it is not there, fails, or takes too long.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise CommandError(f"{argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise CommandError(f"{' '.join(argv)}: no answer in {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())
        raise CommandError(f"{' '.join(argv)}: {words or f'exit status {done.returncode}'}")
    return done.stdout


def tell(*argv: str) -> subprocess.Popen[bytes] | None:
    """Start command ``argv`` without waiting: while a node is away some take many seconds. None where it
    is not there."""
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ,
        )
    except OSError:
        return None


def steps_of(job: str) -> dict[str, str]:
    """Ids of the steps of ``job`` that run now, by their names; none where Slurm does not say."""
    try:
        steps = ask("squeue", "--steps", f"--jobs={job}", "--noheader", "--format=%i %j")
    except CommandError:
        return {}
    pairs = (line.split(maxsplit=1) for line in steps.splitlines())
    return {words[1].strip(): words[0] for words in pairs if len(words) == 2}


def signal_step(step: str, number: int) -> None:
    """Send signal ``number`` to all processes of step ``step``, without waiting for that."""
    tell("scancel", f"--signal={signal.Signals(number).name.removeprefix('SIG')}", step)
