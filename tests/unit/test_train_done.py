"""``orchestrate train`` in the folder of a run that has made its steps already."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrate.cli import main
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands import run_folder
from orchestrate.commands.planning import make_plan
from orchestrate.config import dump
from orchestrate.train.checkpoint import State
from orchestrate.train.checkpoint.format import CHECKSUMS, STATE, Checksum, checksums_json, digest
from orchestrate.train.metrics import MetricsFile
from tests.unit import train_samples as samples

TYPED = ["experiment=quickstart", "cluster.nodes=1", "parallel.dp=1", "train.steps=20", "tracking=off"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Of a run that ended after 20 steps, with what is read of its checkpoint before the ranks start."""
    folder = tmp_path / "run"
    config = build(Source(), [*TYPED, f"run.dir={folder}"])
    run_folder.create(config, make_plan(config), TYPED)
    with MetricsFile(folder) as write:
        for record in samples.records():
            write(record)
    state = State(
        step=20,
        samples=320,
        seed=config.train.seed,
        data_fingerprint="",
        updates=20,
        loss_scale=1.0,
        good_steps=0,
        config=dump(config),
        plan={},
        revision=None,
        versions={},
        time=time.time(),
    )
    checkpoint = folder / "checkpoints" / "step-00000020"
    checkpoint.mkdir(parents=True)
    (checkpoint / STATE).write_text(state.to_json())
    file = checkpoint / STATE
    listed = {STATE: Checksum(file.stat().st_size, digest(file))}
    (checkpoint / CHECKSUMS).write_text(checksums_json(listed))
    return folder


def test_it_is_summed_up_and_nothing_is_started(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    # Another layout would not be the one that the run was on.
    assert main(["train", *TYPED, f"run.dir={run_dir}", "parallel.tp=4", "parallel.pp=1"]) == 0
    shown = capsys.readouterr().out
    assert "train loss        4.956 → 2.555" in shown
    assert f"{run_dir} has made its 20 steps, and nothing was started: train.steps=40 would go on" in shown
    assert {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()} == before


def test_fewer_steps_than_it_has_made_are_as_many(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TYPED, f"run.dir={run_dir}", "train.steps=20", "optim.warmup_steps=1"]) == 0
    assert main(["train", *TYPED, f"run.dir={run_dir}", "train.steps=9", "optim.warmup_steps=1"]) == 0
    assert "20 of 20 in" in capsys.readouterr().out


def test_another_model_is_a_mistake(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TYPED, f"run.dir={run_dir}", "model.layers=8"]) == 2
    assert "model.layers=8 does not agree with" in capsys.readouterr().err
