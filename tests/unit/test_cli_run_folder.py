"""What a run's folder holds before the first process starts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands import run_folder
from orchestrate.commands.planning import make_plan
from orchestrate.config import Config, load
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan


@pytest.fixture(scope="module")
def config() -> Config:
    return build(Source(), ["experiment=quickstart", "run.name=null"])


@pytest.fixture(scope="module")
def plan(config: Config) -> Plan:
    return make_plan(config)


def in_folder(config: Config, folder: Path) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(folder)))


def test_config_and_plan_come_back_as_they_were(config: Config, plan: Plan, tmp_path: Path) -> None:
    config = in_folder(config, tmp_path / "a" / "b")
    folder = run_folder.create(config, plan, ["model=gpt_tiny", "run.name=it's"])
    assert folder == tmp_path / "a" / "b"
    assert load(yaml.safe_load((folder / "config.yaml").read_text())) == config
    assert plans.load(folder / "plan.yaml") == plan
    origin = yaml.safe_load((folder / "run.yaml").read_text())
    assert origin["command"] == """orchestrate train model=gpt_tiny 'run.name=it'"'"'s'"""
    assert origin["revision"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", origin["revision"])


def test_folders_that_are_named_here_are_new(
    config: Config, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [run_folder.create(config, plan, []) for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.parent == Path("runs/gpt_tiny") for folder in folders)


def test_a_folder_that_holds_a_run_is_left_alone(config: Config, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match="holds a run already"):
        run_folder.create(in_folder(config, tmp_path), plan, [])
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_with_a_checkpoint_goes_on(config: Config, plan: Plan, tmp_path: Path) -> None:
    config = in_folder(config, tmp_path)
    run_folder.create(config, plan, ["train.steps=100"])
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "checkpoints" / "step-00000050").mkdir(parents=True)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=300))
    for _ in range(2):
        assert run_folder.create(longer, plan, ["train.steps=300"]) == tmp_path
    assert load(yaml.safe_load((tmp_path / "config.yaml").read_text())) == longer
    origin = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert origin["command"] == "orchestrate train train.steps=100"
    assert [one["command"] for one in origin["continued"]] == ["orchestrate train train.steps=300"] * 2


def test_a_folder_that_cannot_be_made_is_one_line(config: Config, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^run\.dir=.*/file/run: Not a directory$"):
        run_folder.create(in_folder(config, tmp_path / "file" / "run"), plan, [])
