"""Which checkpoints stay, and what killed processes leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrate.train.checkpoint import found
from orchestrate.train.checkpoint.format import Found, leftovers, name_of
from orchestrate.train.checkpoint.keep import outdated, sweep, tidy


@pytest.mark.parametrize(
    ("keep", "every", "left"),
    [
        (0, 0, [1, 2, 3, 4, 5, 6]),
        (2, 0, [5, 6]),
        (1, 3, [3, 6]),
        (2, 2, [2, 4, 5, 6]),
        (9, 0, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_newest_and_the_milestones_stay(keep: int, every: int, left: list[int]) -> None:
    checkpoints = [Found(step, Path(name_of(step))) for step in (3, 1, 2, 6, 5, 4)]
    gone = {one.step for one in outdated(checkpoints, keep, every)}
    assert [step for step in range(1, 7) if step not in gone] == left


def test_a_damaged_one_does_not_push_out_a_whole_one() -> None:
    checkpoints = [Found(step, Path(name_of(step))) for step in (1, 2, 3, 4, 5)]
    assert not outdated(checkpoints[2:], 2, 0, damaged={5})
    assert [one.step for one in outdated(checkpoints, 1, 0, damaged={2, 5})] == [1, 2, 3]


def test_only_checkpoints_are_removed(tmp_path: Path) -> None:
    for name in ("step-00000001", "step-00000002", "step-00000003", "mine", "step-00000004.partial-7-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    tidy(tmp_path, 1, 0)
    assert [one.step for one in found(tmp_path)] == [3]
    assert [one.name for one in leftovers(tmp_path)] == ["step-00000004.partial-7-1"]
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "step-00000003"]
