"""What `orchestrate train` says last when somebody interrupts it."""

from __future__ import annotations

from pathlib import Path

from launchers.restart import Ended
from orchestrate.commands.train import last_words
from tests.unit import train_samples as samples


def test_an_interrupted_run_says_how_to_go_on_where_something_is_saved(tmp_path: Path) -> None:
    ended = Ended(130, samples.plan())
    assert list(last_words(ended, tmp_path)) == [
        f"interrupted, and nothing is saved; the run's folder: {tmp_path}"
    ]
    (tmp_path / "checkpoints" / "step-00000030").mkdir(parents=True)
    assert list(last_words(ended, tmp_path)) == [
        "interrupted; the newest checkpoint is of step 30; to go on, start the same command with "
        f"run.dir={tmp_path}"
    ]
