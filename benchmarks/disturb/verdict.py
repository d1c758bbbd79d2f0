"""Whether anything was lost: a disturbed run against the same one that nobody disturbed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.disturb.lineage import Samples, lineage, read_starts
from benchmarks.disturb.session import NotSurvived
from orchestrate.train.checkpoint import latest
from orchestrate.train.checkpoint.difference import differences
from orchestrate.train.metrics import read_records


@dataclass(frozen=True)
class Verdict:
    """What remains of the differences when all that must be equal is."""

    steps: int
    samples: int
    """Consumed once each, with the same tokens as in the undisturbed run."""
    starts: int
    repeated: int
    """Steps that were made more than once, in all."""
    equal: int
    """Steps, from the first, whose losses are the same bits."""
    changed: int | None
    """The first step made in another layout."""
    loss: float
    """Largest relative difference of a loss from there on."""
    weights: float
    """Largest relative difference of a tensor of the last checkpoint: weights and moments."""


def judge(disturbed: Path, undisturbed: Path, steps: int, batch: int, tolerance: float) -> Verdict:
    """Compare two folders of `benchmarks.disturb.session.Session`, both trained to the end.

    Raises:
        NotSurvived: as `check_samples` and `check_losses`.
    """
    starts = read_starts(disturbed / "witness")
    fed, expected = lineage(starts, steps), lineage(read_starts(undisturbed / "witness"), steps)
    check_samples(fed, expected, steps, batch)
    changed = next((start.loaded + 1 for start in starts if start.ranks != starts[0].ranks), None)
    ours, theirs = (
        {record.step: record.loss for record in read_records(folder / "run")}
        for folder in (disturbed, undisturbed)
    )
    equal, loss = check_losses(ours, theirs, steps, changed, tolerance)
    repeated = sum(a.reached - b.loaded for a, b in pairwise(starts))
    weights = _weights_apart(disturbed / "run", undisturbed / "run")
    return Verdict(steps, steps * batch, len(starts), repeated, equal, changed, loss, weights)


def check_samples(
    fed: Mapping[int, Samples], expected: Mapping[int, Samples], steps: int, batch: int
) -> None:
    """Make sure that both runs, by step, were fed samples 0 to the last once each, and the same tokens.

    Raises:
        NotSurvived: they were not.
    """
    for batches in (fed, expected):
        _require(sorted(batches) == list(range(1, steps + 1)), f"every step once: {sorted(batches)}")
        for step, samples in batches.items():
            due = range((step - 1) * batch, step * batch)
            _require(sorted(samples) == list(due), f"samples {due.start} to {due[-1]} in step {step}")
    for step in fed:
        _require(fed[step] == expected[step], f"the tokens of step {step}")


def check_losses(
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    steps: int,
    changed: int | None,
    tolerance: float,
) -> tuple[int, float]:
    """The steps, from the first, whose losses are the same bits, and how far apart they are at most from
    step ``changed`` on, relative to ``theirs``.

    Raises:
        NotSurvived: a loss is missing, or they differ before that step, or by more than ``tolerance``.
    """
    _require(sorted(ours) == sorted(theirs) == list(range(1, steps + 1)), "a record of every step")
    equal = next((step - 1 for step in sorted(ours) if ours[step] != theirs[step]), steps)
    _require(equal >= (changed or steps + 1) - 1, f"the loss of step {equal + 1}, in the same layout")
    apart = max((abs(ours[s] - theirs[s]) / abs(theirs[s]) for s in range(equal + 1, steps + 1)), default=0.0)
    _require(apart <= tolerance, f"losses in other layouts, which are {apart:.1e} apart")
    return equal, apart


def _weights_apart(one: Path, other: Path) -> float:
    last = [latest(run_dir) for run_dir in (one, other)]
    a, b = (found.path for found in last if found is not None)
    return max(difference.relative for difference in differences(a, b))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise NotSurvived(f"not as in the undisturbed run: {what}")
