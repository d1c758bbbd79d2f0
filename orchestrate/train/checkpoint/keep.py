"""Which checkpoints stay. No torch here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrate.train.checkpoint.format import Found, found, leftovers


def outdated(checkpoints: Sequence[Found], keep: int, keep_every: int) -> list[Found]:
    """Those of ``checkpoints`` that are neither among the last nor milestones.

    Args:
        keep: how many of the newest stay; 0: all.
        keep_every: those whose step it divides stay too; 0: none.
    """
    if keep == 0:
        return []
    newest_first = sorted(checkpoints, key=lambda one: one.step, reverse=True)
    return [one for one in newest_first[keep:] if keep_every == 0 or one.step % keep_every]


def tidy(folder: Path, keep: int, keep_every: int) -> None:
    """Remove what is outdated in ``folder``, a run's ``checkpoints``.

    Raises:
        OSError: something could not be removed.
    """
    for checkpoint in outdated(found(folder), keep, keep_every):
        discard(checkpoint.path)


def discard(checkpoint: Path) -> None:
    """Remove ``checkpoint``; at no moment is there half of it under its name."""
    doomed = checkpoint.with_name(f"{checkpoint.name}.partial-removed-{os.getpid()}")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left behind in ``folder``; none may be writing there."""
    for leftover in leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)
