"""What judges disturbed runs: it must be able to say no."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.disturb.lineage import Samples, lineage, read_starts
from benchmarks.disturb.schedule import schedule
from benchmarks.disturb.session import NotSurvived
from benchmarks.disturb.verdict import check_losses, check_samples

BATCH = 2


def batch(step: int) -> Samples:
    return {n: f"tokens {n}" for n in range((step - 1) * BATCH, step * BATCH)}


def witnessed(folder: Path, start: int, loaded: int, steps: Sequence[int]) -> None:
    """What two replicas write in one start."""
    (folder / str(start)).mkdir(parents=True)
    for rank in range(2):
        notes: list[object] = [{"loaded": f"step-{loaded:08d}"}] if loaded else []
        notes += [{"batch": dict([list(batch(step).items())[rank]])} for step in steps]
        text = "".join(json.dumps(note) + "\n" for note in notes)
        (folder / str(start) / f"rank-{rank}.jsonl").write_text(text)


def test_the_line_goes_back_through_the_checkpoints_that_were_read(tmp_path: Path) -> None:
    witnessed(tmp_path, 1, 0, range(1, 8))
    witnessed(tmp_path, 2, 4, [])  # killed before its first step
    witnessed(tmp_path, 10, 4, range(5, 7))
    witnessed(tmp_path, 11, 2, range(3, 10))  # the newer checkpoint was damaged
    starts = read_starts(tmp_path)
    assert [(start.loaded, start.reached, start.ranks) for start in starts] == [
        (0, 7, 2),
        (4, 6, 2),
        (2, 9, 2),
    ]
    assert lineage(starts, 9) == {step: batch(step) for step in range(1, 10)}
    with pytest.raises(AssertionError, match="nobody saw how the weights after step 2 came about"):
        lineage(starts[1:], 9)


def test_replicas_that_disagree_on_a_sample_are_seen(tmp_path: Path) -> None:
    for rank, tokens in enumerate(("these", "those")):
        (tmp_path / "1").mkdir(exist_ok=True)
        (tmp_path / "1" / f"rank-{rank}.jsonl").write_text(json.dumps({"batch": {"0": tokens}}) + "\n")
    with pytest.raises(AssertionError, match="different tokens as sample 0"):
        read_starts(tmp_path)


def test_samples_that_are_missing_repeated_or_others_are_seen() -> None:
    whole = {step: batch(step) for step in (1, 2, 3)}
    check_samples(whole, whole, 3, BATCH)
    for wrong, complaint in (
        ({1: batch(1), 3: batch(3)}, "every step once"),
        ({**whole, 2: batch(1)}, "samples 2 to 3 in step 2"),
        ({**whole, 2: {2: "tokens 2"}}, "samples 2 to 3 in step 2"),
        ({**whole, 2: {2: "tokens 2", 3: "tokens 4"}}, "the tokens of step 2"),
    ):
        with pytest.raises(NotSurvived, match=complaint):
            check_samples(wrong, whole, 3, BATCH)


def test_losses_that_differ_are_seen() -> None:
    theirs = {1: 4.0, 2: 2.0, 3: 1.0}
    assert check_losses(theirs, theirs, 3, None, 0.0) == (3, 0.0)
    assert check_losses({**theirs, 3: 1.0 + 1e-6}, theirs, 3, 2, 1e-5) == (2, pytest.approx(1e-6))
    with pytest.raises(NotSurvived, match="the loss of step 3, in the same layout"):
        check_losses({**theirs, 3: 1.0 + 1e-6}, theirs, 3, None, 1e-5)
    with pytest.raises(NotSurvived, match="the loss of step 1, in the same layout"):
        check_losses({**theirs, 1: 4.1}, theirs, 3, 2, 1.0)
    with pytest.raises(NotSurvived, match=r"losses in other layouts, which are 1\.0e-04 apart"):
        check_losses({**theirs, 3: 1.0001}, theirs, 3, 2, 1e-5)
    with pytest.raises(NotSurvived, match="a record of every step"):
        check_losses({1: 4.0, 2: 2.0}, theirs, 3, None, 0.0)


def test_faults_come_one_by_one_and_layouts_change_late() -> None:
    counts = {"kill": 20, "disk": 7, "half": 3}
    planned = schedule(counts, seed=1, first=15, gap=8)
    assert planned == schedule(counts, seed=1, first=15, gap=8) != schedule(counts, seed=2, first=15, gap=8)
    assert {kind: [p.kind for p in planned].count(kind) for kind in counts} == counts
    assert all((p.step - 15) // 8 == p.number == number for number, p in enumerate(planned))
    assert min(p.number for p in planned if p.kind == "half") >= 18
