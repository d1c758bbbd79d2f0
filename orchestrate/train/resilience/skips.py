"""Data that a run passes over because it led training astray: ``skipped.json`` in the run's folder.

Each entry says: past step ``after``, leave ``batches`` global batches out. A checkpoint made later holds
the position in the data, so an entry counts only for a start at or before its step.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "skipped.json"


@dataclass(frozen=True)
class Skip:
    after: int
    """The step (that of a checkpoint) whose next batches are left out."""
    batches: int
    """How many global batches."""


def read_skips(run_dir: Path) -> tuple[Skip, ...]:
    """All entries, oldest first."""
    path = run_dir / FILE
    if not path.exists():
        return ()
    return tuple(Skip(**values) for values in json.loads(path.read_text(encoding="utf-8")))


def add_skip(run_dir: Path, skip: Skip) -> None:
    """Add ``skip`` to the run's entries; by one process alone."""
    known = [asdict(entry) for entry in (*read_skips(run_dir), skip)]
    partial = run_dir / f"{FILE}.partial"
    partial.write_text(json.dumps(known), encoding="utf-8")
    partial.rename(run_dir / FILE)


def batch_of(step: int, start: int, skips: tuple[Skip, ...]) -> int:
    """The global batch (0 and up, but for what the checkpoint of ``start`` had left out) of ``step``."""
    return step - 1 + sum(skip.batches for skip in skips if start <= skip.after < step)
