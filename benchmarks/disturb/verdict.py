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
        NotSurvived: a sample was left out or came twice, or a loss differs by more than it may: at all
            until the layout first changes, by ``tolerance`` from there on.
    """
    starts = read_starts(disturbed / "witness")
    fed, expected = lineage(starts, steps), lineage(read_starts(undisturbed / "witness"), steps)
    for who, batches in (("disturbed", fed), ("undisturbed", expected)):
        _require(sorted(batches) == list(range(1, steps + 1)), f"steps of the {who} run: {sorted(batches)}")
        for step in batches:
            wanted = range((step - 1) * batch, step * batch)
            _require(sorted(batches[step]) == list(wanted), f"samples of step {step} of the {who} run")
    consumed, tokens = _digests(fed), _digests(expected)
    _require(sorted(consumed) == list(range(steps * batch)), "samples 0 to the last, once each")
    wrong = [sample for sample in consumed if consumed[sample] != tokens[sample]]
    _require(not wrong, f"the tokens of samples {wrong[:5]}")
    whole = starts[0].ranks
    changed = next((start.loaded + 1 for start in starts if start.ranks != whole), None)
    ours, theirs = (
        {record.step: record.loss for record in read_records(folder / "run")}
        for folder in (disturbed, undisturbed)
    )
    _require(sorted(ours) == sorted(theirs) == list(range(1, steps + 1)), "a record of each step")
    apart = {step: abs(ours[step] - theirs[step]) / abs(theirs[step]) for step in ours}
    equal = next((step - 1 for step in sorted(ours) if ours[step] != theirs[step]), steps)
    _require(equal >= (changed or steps + 1) - 1, f"the loss of step {equal + 1}, in the same layout")
    loss = max((apart[step] for step in apart if changed is not None and step >= changed), default=0.0)
    _require(loss <= tolerance, f"losses in other layouts, {loss:.1e} apart")
    repeated = sum(a.reached - b.loaded for a, b in pairwise(starts))
    weights = _weights_apart(disturbed / "run", undisturbed / "run")
    return Verdict(steps, len(consumed), len(starts), repeated, equal, changed, loss, weights)


def _digests(batches: Mapping[int, Samples]) -> dict[int, str]:
    return {sample: digest for samples in batches.values() for sample, digest in samples.items()}


def _weights_apart(one: Path, other: Path) -> float:
    last = [latest(run_dir) for run_dir in (one, other)]
    a, b = (found.path for found in last if found is not None)
    return max(difference.relative for difference in differences(a, b))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise NotSurvived(f"not as in the undisturbed run: {what}")
