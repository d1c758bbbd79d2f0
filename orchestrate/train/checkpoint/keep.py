"""Which checkpoints stay. No torch here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Sequence
from pathlib import Path

from orchestrate.train.checkpoint.format import Found, found, leftovers


def outdated(
    checkpoints: Sequence[Found], keep: int, keep_every: int, damaged: Container[int] = ()
) -> list[Found]:
    """Those of ``checkpoints`` that are neither among the last nor milestones.

    Args:
        keep: how many of the newest stay; 0: all.
        keep_every: those whose step it divides stay too; 0: none.
        damaged: steps whose checkpoints are known not to be whole: they do not count among the newest.
    """
    whole = sorted((one.step for one in checkpoints if one.step not in damaged), reverse=True)
    if keep == 0 or len(whole) <= keep:
        return []
    return [
        one
        for one in checkpoints
        if one.step < whole[keep - 1] and (keep_every == 0 or one.step % keep_every)
    ]


def tidy(folder: Path, keep: int, keep_every: int, damaged: Container[int] = ()) -> None:
    """Remove what is outdated in ``folder``, a run's ``checkpoints``.

    Raises:
        OSError: something could not be removed.
    """
    for checkpoint in outdated(found(folder), keep, keep_every, damaged):
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
