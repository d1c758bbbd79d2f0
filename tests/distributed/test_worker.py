"""The worker as the launcher starts it: the only real launches here, two processes each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from launchers import local
from launchers.failure import Failure
from orchestrate.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    SourceConfig,
    TrackingConfig,
    TrackingMode,
    TrainConfig,
    ZeroBackend,
    dump,
)
from orchestrate.plan import plan as plans
from orchestrate.train.checkpoint import found, read_state
from orchestrate.train.metrics import read_records
from tests.equivalence.layouts import GLOBAL_BATCH, GPT, Layout, config_of, plan_of

LAYOUT = Layout(dp=2, model=dataclasses.replace(GPT, vocab=257))
ALONE = LAYOUT.alone
"""For what is the same however many processes there are."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    source = SourceConfig("text", paths=(str(tmp_path / "words.txt"),))
    return dataclasses.replace(
        config_of(LAYOUT),
        data=DataConfig(source, cache=str(tmp_path / "cache"), validation_fraction=0.1),
        train=TrainConfig(steps=3, global_batch=GLOBAL_BATCH, eval_batches=1),
        tracking=TrackingConfig(TrackingMode.offline),
    )


def launch(config: Config, run_dir: Path, layout: Layout = LAYOUT) -> tuple[int, list[Failure]]:
    run_dir.mkdir(exist_ok=True)
    plan = plan_of(layout)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(dump(config)))
    plans.save(plan, run_dir / "plan.yaml")
    failures: list[Failure] = []
    return local.launch(plan, config, run_dir, on_failure=failures.append), failures


def test_a_run_leaves_its_records(config: Config, tmp_path: Path) -> None:
    status, failures = launch(
        config, tmp_path / "run", dataclasses.replace(LAYOUT, zero=3, engine=ZeroBackend.deepspeed)
    )
    assert not failures, failures[0].headline
    assert status == 0
    records = read_records(tmp_path / "run")
    assert [r.step for r in records] == [1, 2, 3]
    assert records[-1].val_loss is not None
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1
    logs = tmp_path / "run" / "logs"
    assert not (logs / "notices.txt").exists()
    # Who looks there has a question; nothing that is always so stands before the answer.
    assert [(logs / f"rank-{process}.log").read_text() for process in range(2)] == ["", ""]


def test_a_run_goes_on_with_other_batches(config: Config, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    config = dataclasses.replace(
        config,
        checkpoint=CheckpointConfig(every=2, keep=1),
        tracking=TrackingConfig(TrackingMode.off),
    )
    assert launch(config, run_dir) == (0, [])
    assert [one.step for one in found(run_dir)] == [3]
    train = dataclasses.replace(config.train, steps=5, global_batch=2 * GLOBAL_BATCH)
    assert launch(dataclasses.replace(config, train=train), run_dir) == (0, [])
    assert [one.step for one in found(run_dir)] == [5]
    records = read_records(run_dir)
    assert [r.step for r in records] == [1, 2, 3, 4, 5]
    assert [r.samples // GLOBAL_BATCH for r in records] == [1, 2, 3, 5, 7]
    waits = [r.checkpoint_s for r in records]
    assert waits[0] == waits[1] == 0
    assert waits[2] is not None
    assert waits[2] > 0
    assert read_state(found(run_dir)[0].path).samples == 7 * GLOBAL_BATCH


def test_other_data_are_refused(config: Config, tmp_path: Path) -> None:
    assert launch(config, tmp_path / "run", ALONE) == (0, [])
    (tmp_path / "words.txt").write_text("the slow brown fox jumps over the lazy dog\n" * 200)
    status, (failure,) = launch(config, tmp_path / "run", ALONE)
    assert status == 2
    assert "was trained on other data" in failure.traceback.splitlines()[-1]


def test_a_failure_in_a_worker_ends_the_run_with_its_traceback(config: Config, tmp_path: Path) -> None:
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    status, (failure,) = launch(config, tmp_path / "run", ALONE)
    assert status == 1
    assert failure.recorded
    assert failure.traceback.splitlines()[-1].startswith("IsADirectoryError")


def test_a_mistake_that_only_workers_can_see_ends_the_run_as_one(config: Config, tmp_path: Path) -> None:
    (tmp_path / "words.txt").unlink()
    status, (failure,) = launch(config, tmp_path / "run", ALONE)
    assert status == 2
    assert "words.txt" in failure.traceback.splitlines()[-1]
