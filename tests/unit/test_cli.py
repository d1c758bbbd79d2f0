"""The command line from the outside: verbs, mistakes, sweeps, plans from files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrate import __version__
from orchestrate.cli import entry, main
from orchestrate.cli.verbs import VERBS, Verb
from orchestrate.config import Config

Said = tuple[int, str, str]


@pytest.fixture
def say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """Runs ``orchestrate`` in an empty folder; gives the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_version(say: Callable[..., Said]) -> None:
    assert say("--version") == (0, f"orchestrate {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "unknown verb trian: did you mean train?"),
        (["data"], "data needs one word more: data prepare"),
        (["model=gpt_tiny"], "say what to do before model=gpt_tiny: orchestrate train model=gpt_tiny"),
        (["plan", "--muiltrun"], "unknown flag --muiltrun: did you mean --multirun?"),
        (["plan", "--tensor-model-parallel-size", "8"], "keys have no dashes here: parallel.tp=VALUE"),
        (
            ["plan", "--num_layers=8"],
            "unknown flag --num_layers=8: keys have no dashes here: model.layers=VALUE",
        ),
        (["plan", "--nodes", "4"], "unknown flag --nodes: keys have no dashes here: cluster.nodes=VALUE"),
        (["plan", "--quickly"], "keys have no dashes here, as train.steps=100"),
        (
            ["plan", "cluster=mine/ours.yaml"],
            "--config-dir FOLDER cluster=ours reads FOLDER/cluster/ours.yaml",
        ),
        (["verify", "runs/mine"], "'runs/mine' has no key: write KEY=runs/mine, as in run.dir=runs/mine"),
        (["plan", "model=llama3_8b"], "for GPUs choose their cluster, as cluster=dgx_h100"),
        (["plan", "--cfg", "jb"], "invalid choice: 'jb'"),
        (["plan", "--config-dir", "nowhere"], "--config-dir=nowhere: no such folder"),
        (["plan", "--config-name", "other"], "Cannot find primary config 'other'"),
        (["plan", "lr=3"], "unknown key lr: did you mean optim.lr?"),
        (["plan", "optim.lrr=3"], "unknown key optim.lrr: did you mean optim.lr?"),
        (["plan", "trian.steps=3"], "unknown key trian.steps: did you mean train.steps?"),
        (["plan", "modle=gpt_tiny"], "unknown key modle: did you mean model?"),
        (["plan", "+optim.speed=3"], "unknown key optim.speed: known: "),
        (["plan", "model=gpt2_124"], "model=gpt2_124: no such choice; did you mean gpt2_124m?"),
        (["plan", "launcher=locl"], "launcher=locl: no such choice; did you mean local?"),
        (["plan", "recompute=3"], "recompute=3: no such choice; choices: auto, full, none, selective"),
        (["plan", "model.layers="], "'model.layers=' has no value: write model.layers=VALUE"),
        (["plan", "model.layers"], "'model.layers' has no value"),
        (["plan", "data.source.paths=[a,b"], "cannot be read"),
        (["plan", "zero=1"], "zero=1: zero is a section; set one of its keys: zero.stage, zero.engine"),
        (["plan", "parallel.tp=two"], "parallel.tp='two': input should be a valid integer"),
        (["plan", "parallel.schedule=zbw"], "parallel.schedule='zbw': did you mean zbv?"),
        (["plan", "model.layers=2.5"], "model.layers=2.5: input should be a valid integer"),
        (["plan", "run.name=${model.nme}"], "run.name: Interpolation key 'model.nme' not found"),
        (["plan", "model.layers=2,4"], "model.layers=2,4 is a sweep: add -m"),
        (["plan", "-m", "optim.lr=interval(0,1)"], "sweep over a choice, a range or a glob"),
        (["plan", "-m", "model.name=glob(*)"], "glob() chooses among a group's files"),
        (["plan", "hydra.run.dir=x"], "Hydra's own settings are not used here"),
        (["plan", "model.heads=34", "model.hidden=272", "parallel.tp=8"], "model.heads=34"),
        (["plan", "plan=nowhere.yaml"], "plan=nowhere.yaml: no such file"),
        # Before the search, which would find that nothing fits.
        (["plan", "model=llama3_405b", "plan.out=nowhere/plan.yaml"], "there is no folder nowhere"),
        (["plan", "model=llama3_405b", "plan.report=nowhere/p.html"], "there is no folder nowhere"),
        (["plan", "--cfg", "job", "--package", "optmi"], "--package optmi: no such section"),
        (["--completion", "tcsh"], "--completion tcsh: choose a shell: bash, zsh, fish"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    say: Callable[..., Said], arguments: list[str], told: str
) -> None:
    status, _, err = say(*arguments)
    assert status == 2
    assert err.startswith("orchestrate: ")
    assert told in err
    assert err.count("\n") == 1


def test_a_damaged_config_file_is_one_line(say: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("layers: [1, 2")
    status, _, err = say("plan", "--config-dir", str(tmp_path), "model=mine")
    assert (status, err.count("\n")) == (2, 1)


def test_an_unknown_key_in_a_config_file_names_the_closest(say: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("layer: 3\nname: mine")
    status, _, err = say("plan", "--config-dir", str(tmp_path), "model=mine")
    assert status == 2
    assert "model.layer" in err


def test_a_value_that_nothing_gives_is_named(say: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: mine")
    status, _, err = say("plan", "--config-dir", str(tmp_path), "model=mine")
    assert status == 2
    assert "orchestrate: model.layers is missing" in err


def test_cfg_shows_the_job(say: Callable[..., Said]) -> None:
    status, out, err = say("train", "--cfg", "job", "model=gpt2_124m", "optim.lr=0.5")
    shown = yaml.safe_load(out)
    assert (status, err) == (0, "")
    assert (shown["model"]["name"], shown["optim"]["lr"]) == ("gpt2_124m", 0.5)
    assert "hydra" not in shown


def test_cfg_needs_no_verb(say: Callable[..., Said]) -> None:
    assert say("--cfg", "job", "-p", "model.layers", "model.layers=7") == (0, "layers: 7\n", "")


def test_cfg_resolves(say: Callable[..., Said]) -> None:
    arguments = ("plan", "run.name=${model.name}-run", "--cfg", "job", "-p", "run.name")
    assert "${model.name}" in say(*arguments)[1]
    assert say(*arguments, "--resolve")[1] == "name: gpt_tiny-run\n"


def test_cfg_hydra(say: Callable[..., Said]) -> None:
    assert list(yaml.safe_load(say("plan", "--cfg", "hydra")[1])) == ["hydra"]


def test_nothing_is_left_in_the_folder(say: Callable[..., Said], tmp_path: Path) -> None:
    assert say("plan", "-m", "parallel.tp=1,2")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_plan_json_is_json(say: Callable[..., Said]) -> None:
    status, out, _ = say("plan", "plan.format=json", "parallel.tp=2")
    assert (status, json.loads(out)["dims"]["tp"]) == (0, 2)


def test_a_plan_file_decides_model_cluster_and_layout(say: Callable[..., Said]) -> None:
    assert (
        say("plan", "model=gpt2_124m", "parallel.pp=2", "train.global_batch=16", "plan.out=plan.yaml")[0] == 0
    )
    status, out, err = say("plan", "plan=plan.yaml", "plan.format=json")
    again = json.loads(out)
    assert (status, err) == (0, "")
    assert (again["model"]["name"], again["dims"]["pp"], again["global_batch"]) == ("gpt2_124m", 2, 16)


def test_what_is_typed_may_agree_with_the_plan_file(say: Callable[..., Said]) -> None:
    assert say("plan", "model=gpt2_124m", "parallel.pp=2", "plan.out=plan.yaml")[0] == 0
    assert say("plan", "plan=plan.yaml", "model=gpt2_124m", "parallel.pp=2")[0] == 0


def test_a_cluster_chosen_again_agrees_with_the_plan_made_for_it(say: Callable[..., Said]) -> None:
    chosen = "cluster=dgx_h100_oversubscribed", "cluster.nodes=2", "cluster.positions=[16,0]"
    assert say("plan", *chosen, "model=gpt2_124m", "plan.out=plan.yaml")[0] == 0
    assert say("plan", "plan=plan.yaml", "model=gpt2_124m", *chosen)[0] == 0
    again = json.loads(say("plan", "plan=plan.yaml", "model=gpt2_124m", "plan.format=json")[1])["cluster"]
    assert again["switches"] == [{"nodes": 16, "oversubscription": 4.0}]
    assert [node["position"] for node in again["nodes"]] == [16, 0]
    status, _, err = say("plan", "plan=plan.yaml", "cluster=dgx_h100_oversubscribed", "cluster.nodes=2")
    assert (status, "does not agree" in err) == (2, True)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("parallel.tp=2", "parallel.tp=2 does not agree with plan=plan.yaml, which has parallel.tp=1"),
        ("model=gpt2_124m", "model=gpt2_124m does not agree with plan=plan.yaml, which has model=gpt_tiny"),
        ("train.global_batch=7", "which has train.global_batch=32"),
    ],
)
def test_what_is_typed_may_not_contradict_the_plan_file(
    say: Callable[..., Said], typed: str, told: str
) -> None:
    assert say("plan", "parallel.tp=1", "plan.out=plan.yaml")[0] == 0
    status, _, err = say("plan", "plan=plan.yaml", typed)
    assert status == 2
    assert told in err


def test_a_sweep_goes_on_after_a_failure_and_names_it(say: Callable[..., Said]) -> None:
    status, out, err = say("plan", "-m", "parallel.tp=1,3,2")
    assert status == 2
    assert [line for line in out.splitlines() if line.startswith("[")] == [
        "[1/3] parallel.tp=1",
        "[2/3] parallel.tp=3",
        "[3/3] parallel.tp=2",
    ]
    assert err.splitlines()[0].startswith("orchestrate: parallel.tp=3: parallel.tp=3 does not divide")
    assert err.splitlines()[-1] == "orchestrate: 1 of 3 jobs failed: parallel.tp=3"


class Recorder:
    """A verb that notes the configs it is given."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.configs: list[Config] = []

    def __call__(self, config: Config, overrides: object) -> int:
        self.configs.append(config)
        return self.statuses.pop(0) if self.statuses else 0


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    seen = Recorder()
    monkeypatch.setattr(Verb, "load", lambda self: seen)
    return seen


def test_every_job_of_a_sweep_gets_its_own_folder(say: Callable[..., Said], recorder: Recorder) -> None:
    assert say("train", "-m", "optim.lr=0.1,0.2", "train.seed=0,1")[0] == 0
    folders = [config.run.dir for config in recorder.configs]
    assert len(set(folders)) == 4
    assert all(folder is not None and folder.startswith("runs/multirun/") for folder in folders)
    assert [(c.optim.lr, c.train.seed) for c in recorder.configs] == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]


def test_a_sweeps_folder_may_be_chosen(say: Callable[..., Said], recorder: Recorder) -> None:
    say("train", "-m", "optim.lr=0.1,0.2", "run.dir=here")
    assert [config.run.dir for config in recorder.configs] == ["here/1", "here/2"]


def test_a_sweep_over_folders_is_taken_at_its_word(say: Callable[..., Said], recorder: Recorder) -> None:
    say("train", "-m", "run.dir=a,b")
    assert [config.run.dir for config in recorder.configs] == ["a", "b"]


def test_ranges_and_globs_are_swept(say: Callable[..., Said], recorder: Recorder) -> None:
    say("train", "-m", "model.layers=range(1,4)", "model=glob(gpt3_1*)")
    assert [(c.model.name, c.model.layers) for c in recorder.configs] == [
        (name, layers) for layers in (1, 2, 3) for name in ("gpt3_13b", "gpt3_175b", "gpt3_1p3b")
    ]


def test_a_failed_run_fails_the_sweep_and_an_interruption_ends_it(
    say: Callable[..., Said], recorder: Recorder
) -> None:
    recorder.statuses = [1, 0]
    assert say("train", "-m", "train.seed=0,1")[0] == 1
    recorder.statuses = [130]
    assert say("train", "-m", "train.seed=0,1,2")[0] == 130
    assert len(recorder.configs) == 3


def test_an_interruption_anywhere_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_run", interrupt)
    assert main(["plan"]) == 130


def test_every_verb_can_be_loaded() -> None:
    assert all(callable(verb.load()) for verb in VERBS)
