"""The record of what went wrong in a run: ``faults.jsonl`` in its folder, one JSON object per line."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

FAULTS_FILE = "faults.jsonl"


@dataclass(frozen=True)
class Fault:
    """One interruption of a run, or the end of one."""

    kind: str
    """failed | hung | went_back | replanned | moved | recovered | gave_up"""
    time: float
    """Seconds since the epoch."""
    step: int
    """The furthest step that any rank had begun; of a recovery, the first step made again."""
    text: str
    """What happened, in a line."""
    rank: int | None = None
    """Where one is to blame: its logical rank in the plan of that start."""
    host: str | None = None
    device: int | None = None
    """As the machine numbers it."""
    seconds: float | None = None
    """Of a recovery: from the failure to the end of the first step after it."""


def note(run_dir: Path, fault: Fault) -> None:
    """Append ``fault`` to the run's record; without room on the disk it is left out."""
    line = json.dumps({key: value for key, value in asdict(fault).items() if value is not None})
    with contextlib.suppress(OSError), (run_dir / FAULTS_FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_faults(run_dir: Path) -> list[Fault]:
    """The run's faults, oldest first; a line cut short is passed over."""
    try:
        lines = (run_dir / FAULTS_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Fault(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
