"""Slurm's own commands: called, and where they fail quoted in one line."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from orchestrate.errors import ConfigError

TIMEOUT_S = 60.0
"""A busy controller may take a while; one that is away must not hold up a job for good."""


class CommandError(ConfigError):
    """A command of Slurm that did not work, in Slurm's own words."""


def ask(*argv: str, environment: Mapping[str, str] | None = None) -> str:
    """What command ``argv`` prints.

    Args:
        environment: of the command; None: this process's.

    Raises:
        CommandError: it is not there, fails, or takes too long.
    """
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except FileNotFoundError:
        raise CommandError(
            f"{argv[0]} is not here: launcher=slurm needs a login node of a Slurm cluster;"
            " launcher=local trains on this machine"
        ) from None
    except OSError as error:
        raise CommandError(f"{argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise CommandError(f"{argv[0]} got no answer from Slurm's controller in {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise CommandError(f"{argv[0]} refused: {_words(argv[0], done)}")
    return done.stdout


def _words(command: str, done: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed said, in one line."""
    lines = (done.stderr or done.stdout).splitlines()
    words = (line.removeprefix(f"{command}: ").removeprefix("error: ").strip() for line in lines)
    return "; ".join(word for word in words if word) or f"exit status {done.returncode}"


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
    # Asked for one task of an array, squeue may tell of all.
    return {
        words[1].strip(): words[0] for words in pairs if len(words) == 2 and words[0].startswith(f"{job}.")
    }


def signal_step(step: str, number: int) -> None:
    """Send signal ``number`` to all processes of step ``step``, without waiting for that."""
    tell("scancel", f"--signal={signal.Signals(number).name.removeprefix('SIG')}", step)


def log_pattern(folder: Path) -> str:
    """``folder`` in an --output of Slurm's, to which % begins a placeholder.

    Raises:
        ConfigError: Slurm can write no log there.
    """
    if "\\" in str(folder):
        raise ConfigError(f"run.dir={folder}: Slurm takes no backslash in the path of a log")
    return str(folder).replace("%", "%%")
