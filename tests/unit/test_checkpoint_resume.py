"""From which checkpoints a run may go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrate.config import CheckpointConfig, Config, dump
from orchestrate.errors import CheckpointError, ConfigError
from orchestrate.train.checkpoint import State
from orchestrate.train.checkpoint.agreement import check, check_start
from orchestrate.train.checkpoint.format import resolve
from tests.equivalence.layouts import Layout, config_of

CONFIG = config_of(Layout())
PATH = Path("runs/mine/checkpoints/step-00000005")


def state(**changes: Any) -> State:
    values: dict[str, Any] = {
        "step": 5,
        "samples": 40,
        "seed": CONFIG.train.seed,
        "data_fingerprint": "these",
        "updates": 5,
        "loss_scale": 1.0,
        "good_steps": 0,
        "config": dump(CONFIG),
        "plan": {},
        "revision": None,
        "versions": {},
        "time": 0.0,
    }
    return State(**{**values, **changes})


def changed(section: str, **values: Any) -> Config:
    part = dataclasses.replace(getattr(CONFIG, section), **values)
    return dataclasses.replace(CONFIG, **{section: part})


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        changed("model", dropout=0.3, name="another"),
        changed("train", steps=99, global_batch=16, clip=0.0),
        changed("optim", lr=1.0),
        changed("parallel", tp=4),
    ],
)
def test_what_tensors_and_data_do_not_depend_on_may_change(config: Config) -> None:
    check(state(), PATH, config, "these")


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        (changed("model", layers=9), "these", r"model\.layers=9 does not agree .* use model\.layers=4"),
        (changed("model", vocab=100), "these", r"model\.vocab=100"),
        (changed("train", seed=8), "these", r"train\.seed=8 .* use train\.seed=7"),
        (CONFIG, "others", "trained on other data than data=stdlib is now"),
    ],
)
def test_other_models_seeds_and_data_are_refused(config: Config, data: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check(state(), PATH, config, data)


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("values", [{"every": -1}, {"keep": -1}, {"keep_every": -2}])
def test_counts_are_not_negative(values: dict[str, int]) -> None:
    from orchestrate.checks import check as check_config
    from orchestrate.cli.compose import Source
    from orchestrate.cli.job import build

    config = dataclasses.replace(
        build(Source(), ["experiment=quickstart"]), checkpoint=CheckpointConfig(**values)
    )
    with pytest.raises(ConfigError, match=r"checkpoint\..*: must be at least 0"):
        check_config(config)


def saved(folder: Path, kept: State) -> Path:
    path = folder / "checkpoints" / f"step-{kept.step:08d}"
    path.mkdir(parents=True)
    (path / "state.json").write_text(kept.to_json())
    return folder


def test_another_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    run, elsewhere = saved(tmp_path / "run", state()), tmp_path / "elsewhere"
    check_start(CONFIG, run)
    check_start(changed("model", layers=9), elsewhere)
    with pytest.raises(CheckpointError, match=r"model\.layers=9 does not agree with .*step-00000005"):
        check_start(changed("model", layers=9), run)
    loads = dataclasses.replace(changed("train", seed=8), checkpoint=CheckpointConfig(load=str(run)))
    with pytest.raises(CheckpointError, match=r"use train\.seed=7"):
        check_start(loads, elsewhere)


def test_what_the_ranks_will_pass_over_refuses_nothing(tmp_path: Path) -> None:
    run = saved(tmp_path, state())
    damaged = saved(tmp_path, state(step=6)) / "checkpoints" / "step-00000006"
    (damaged / "state.json").write_text("{")
    check_start(CONFIG, run)
    with pytest.raises(CheckpointError, match="step-00000005"):
        check_start(changed("model", layers=9), run)
