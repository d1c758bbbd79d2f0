"""Submitting and following runs, as far as no Slurm is needed; tests/slurm has the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from launchers.slurm.jobs import What, jobs_of, note
from orchestrate.cli import main
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands.freeze import absolute, note_environment, undone_on_failure
from orchestrate.commands.submitted import runs_of
from orchestrate.config import Config

Said = Callable[..., tuple[int, str, str]]
QUICKSTART = ("experiment=quickstart", "launcher=slurm")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Runs ``orchestrate`` in an empty folder where there is no Slurm; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.mark.parametrize("verb", ["submit", "train"])
def test_without_slurm_it_says_so_in_a_line_and_leaves_nothing(verb: str, say: Said, tmp_path: Path) -> None:
    status, _, told = say(verb, *QUICKSTART)
    assert status == 2
    assert told == (
        "orchestrate: sbatch is not here: launcher=slurm needs a login node of a Slurm cluster;"
        " launcher=local trains on this machine\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_is_as_it_was(say: Said, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("before")
    (run / "notes.txt").write_text("mine")
    assert say("submit", *QUICKSTART, "run.dir=run")[0] == 2
    assert {f.name: f.read_text() for f in run.iterdir()} == {"config.yaml": "before", "notes.txt": "mine"}


@pytest.mark.parametrize("verb", ["submit", "train"])
@pytest.mark.parametrize("launcher", ["slurm", "torchrun"])
def test_a_file_where_the_folder_of_runs_would_be_is_one_line(
    verb: str, launcher: str, say: Said, tmp_path: Path
) -> None:
    (tmp_path / "runs").write_text("mine")
    status, _, told = say(verb, *QUICKSTART, f"launcher={launcher}")
    assert (status, told) == (2, "orchestrate: run.dir=runs/quickstart: Not a directory\n")


def test_folders_above_that_were_not_there_go_too(tmp_path: Path) -> None:
    def fail() -> None:
        with undone_on_failure(tmp_path / "a" / "b", ()):
            (tmp_path / "a" / "b" / "code").mkdir(parents=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_script_alone_and_writes_nothing(say: Said, tmp_path: Path) -> None:
    status, script, told = say("submit", *QUICKSTART, "launcher.dry_run=true")
    assert (status, told) == (0, "")
    assert script.startswith("#!/bin/bash\n")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_an_array_where_the_sizes_are_alike(say: Said) -> None:
    sweep = ("submit", "-m", *QUICKSTART, "launcher.dry_run=true", "run.dir=sweep")
    _, script, _ = say(*sweep, "optim.lr=1e-3,2e-3")
    assert script.count("#!/bin/bash") == 1
    assert "#SBATCH --array=1-2\n" in script
    sizes = ("parallel.pp=1", "parallel.dp=auto", "cluster.nodes=1,2")
    _, scripts, _ = say(*sweep, *sizes)
    assert [line for line in scripts.splitlines() if "--nodes" in line] == [
        "#SBATCH --nodes=1",
        "#SBATCH --nodes=2",
    ]
    assert "--array" not in scripts
    _, scripts, _ = say(*sweep, "optim.lr=1e-3,2e-3", "launcher.array=false")
    assert scripts.count("#!/bin/bash") == 2


def test_a_mistake_in_one_run_of_a_sweep_submits_none(say: Said) -> None:
    status, _, told = say("submit", "-m", *QUICKSTART, "train.steps=100,none")
    assert (status, "train.steps=none: train.steps='none'" in told) == (2, True), told


def test_data_that_is_not_there_is_told_before_the_queue(say: Said) -> None:
    text = ("data=text", "data.source.paths=[nowhere/*.txt]", "data.source.tokenizer=bytes")
    status, _, told = say("submit", *QUICKSTART, *text)
    assert (status, "nowhere/*.txt: matches no file" in told) == (2, True), told


def test_local_is_not_submitted(say: Said) -> None:
    status, _, told = say("submit", "experiment=quickstart")
    assert (status, "to submit, choose launcher=slurm" in told) == (2, True)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("launcher.time=60", "launcher.time=60: write hours:minutes:seconds or days-hours"),
        ("launcher.memory=lots", "launcher.memory=lots: write a number with K, M, G or T"),
        ('launcher.extra=["-p gpu"]', "launcher.extra='-p gpu': write --option or --option=value"),
        (
            'launcher.extra=["--nodes=3"]',
            "launcher.extra has --nodes, which is not for it: the plan says how many",
        ),
        ("launcher.env.WANDB_API_KEY=x", "launcher.env.WANDB_API_KEY looks like a secret"),
        ("launcher.env.HF_TOKEN=x", "launcher.env.HF_TOKEN looks like a secret"),
        ("launcher.chain=0", "launcher.chain=0: must be at least 1"),
        ("launcher.rendezvous=here", "launcher.rendezvous=here: write HOST:PORT"),
    ],
)
def test_what_cannot_be_meant_is_one_line(typed: str, told: str, say: Said) -> None:
    status, _, error = say("submit", *QUICKSTART, typed)
    assert (status, told in error) == (2, True), error


def test_paths_are_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    typed = [
        "data=text",
        "data.source.paths=[texts/*.txt]",
        "checkpoint.load=before",
        "run.dir=run",
        "launcher.venv='~/venv'",
        "launcher.python=python3",
        "launcher.container_mounts=[data:/data]",
    ]
    config = absolute(build(Source(), typed))
    assert config.data.source.paths == (f"{tmp_path}/texts/*.txt",)
    assert config.data.cache == f"{tmp_path}/home/.cache/orchestrate"
    assert (config.checkpoint.load, config.run.dir) == (f"{tmp_path}/before", f"{tmp_path}/run")
    assert (config.launcher.venv, config.launcher.python) == (f"{tmp_path}/home/venv", "python3")
    assert config.launcher.container_mounts == (f"{tmp_path}/data:/data",)


def test_no_secret_is_in_what_is_noted_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("LOADEDMODULES", "cuda/12.8:nccl/2.25")
    note_environment(tmp_path, "slurm 22.05.8")
    text = (tmp_path / "environment.yaml").read_text()
    values = yaml.safe_load(text)
    assert values["modules"] == ["cuda/12.8", "nccl/2.25"]
    assert "jinja2" in map(str.lower, values["packages"])
    assert "0123456789abcdef" not in text


@pytest.fixture
def submitted(tmp_path: Path) -> Path:
    """A run of the past, whose jobs no Slurm remembers."""
    run = tmp_path / "sweep" / "1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"train": {"steps": 20}, **_needed()}))
    note(run, What.submitted, "17")
    note(run, What.started, "17", restart=0, nodes=("n1", "n2"))
    note(run, What.ended, "17", restart=0, status=75, text="stopped")
    note(run, What.submitted, "18")
    (run / "logs").mkdir()
    (run / "logs" / "slurm-17.log").write_text("one\ntwo\nthree\n")
    (run / "logs" / "rank-3.log").write_text("of rank 3\n")
    return run


def _needed() -> dict[str, object]:
    from orchestrate.config import dump

    config: Config = build(Source(), [])
    return {section: dump(getattr(config, section)) for section in ("cluster", "model", "data")}


def test_status_is_told_from_the_record_where_slurm_is_silent(say: Said, submitted: Path) -> None:
    status, out, told = say("status", str(submitted), "format=json")
    assert status == 0
    (found,) = json.loads(out)
    assert found["run"] == str(submitted)
    assert [(job["job"], job["state"], job["nodes"]) for job in found["jobs"]] == [
        ("17", "ended", "n[1-2]"),
        ("18", "submitted", ""),
    ]
    assert found["jobs"][0]["note"] == "status 75 stopped"
    assert found["progress"]["steps"] == 20
    assert "squeue is not here" in told


def test_a_sweep_is_followed_by_the_folder_above_its_runs(say: Said, submitted: Path) -> None:
    config = build(Source(), [f"run.dir={submitted.parent}"])
    assert runs_of(config, "status") == [submitted]
    assert say("status", str(submitted.parent), "format=json")[0] == 0


def test_logs_shows_the_end_of_the_newest_log_or_of_a_rank(say: Said, submitted: Path) -> None:
    assert say("logs", str(submitted), "lines=2")[1] == "two\nthree\n"
    (submitted / "logs" / "slurm-18.log").write_text("newer\n")
    os.utime(submitted / "logs" / "slurm-17.log", (0, 0))
    assert say("logs", str(submitted))[1] == "newer\n"
    assert say("logs", str(submitted), "rank=3")[1] == "of rank 3\n"
    status, _, told = say("logs", str(submitted), "rank=9")
    assert (status, "logs.rank=9: no log of that rank; its ranks are 3 to 3" in told) == (2, True)
    for log in (submitted / "logs").glob("slurm-*.log"):
        log.unlink()
    status, _, told = say("logs", str(submitted))
    assert (status, "has no log of a job: logs.rank=3 shows that of a rank" in told) == (2, True)


@pytest.mark.parametrize("verb", ["status", "logs", "cancel", "requeue"])
def test_a_folder_without_a_run_is_told(verb: str, say: Said, tmp_path: Path) -> None:
    status, _, told = say(verb, str(tmp_path))
    assert (status, "no run is there" in told) == (2, True)
    status, _, told = say(verb)
    assert (status, f"{verb} which run? orchestrate {verb} FOLDER" in told) == (2, True)


@pytest.fixture
def started_here(tmp_path: Path) -> Path:
    """What ``orchestrate train`` leaves of a run."""
    run = tmp_path / "mine"
    (run / "logs").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"train": {"steps": 20}, **_needed()}))
    (run / "plan.yaml").touch()
    (run / "logs" / "rank-0.log").write_text("of rank 0\n")
    (run / "checkpoints" / "step-00000005").mkdir(parents=True)
    return run


def test_a_run_that_was_not_submitted_can_be_followed_too(say: Said, started_here: Path) -> None:
    status, out, told = say("status", str(started_here))
    assert (status, told) == (0, "")
    assert out.splitlines() == [
        str(started_here),
        "step 0 of 20",
        "newest checkpoint: after step 5",
        "no processes of it on this machine",
    ]
    (found,) = json.loads(say("status", str(started_here), "format=json")[1])
    assert (found["jobs"], found["progress"]["processes_here"]) == ([], 0)
    assert say("logs", str(started_here), "rank=0", "follow=true")[:2] == (0, "of rank 0\n")
    status, _, told = say("logs", str(started_here))
    assert (status, "has no log of a job: logs.rank=0 shows that of a rank" in told) == (2, True)


@pytest.mark.parametrize("verb", ["cancel", "requeue"])
def test_a_run_that_was_not_submitted_has_no_job_to_end(verb: str, say: Said, started_here: Path) -> None:
    status, _, told = say(verb, str(started_here))
    assert (status, "nothing was submitted from there" in told) == (2, True)
    assert f"the same command with run.dir={started_here} goes on" in told


@pytest.fixture
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue in which no job is left."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=":")


def test_a_cancelled_job_is_called_so_when_it_has_ended(say: Said, submitted: Path, forgetful: None) -> None:
    note(submitted, What.cancelled, "17")
    (found,) = json.loads(say("status", str(submitted), "format=json")[1])
    assert [job["state"] for job in found["jobs"]] == ["cancelled", "submitted"]


def test_a_run_without_steps_to_make_is_not_submitted_again(
    say: Said, submitted: Path, forgetful: None
) -> None:
    (submitted / "checkpoints" / "step-00000020").mkdir(parents=True)
    status, out, _ = say("requeue", str(submitted))
    assert (status, "all 20 steps are made" in out) == (0, True)
    assert jobs_of(submitted) == ["17", "18"]


@pytest.mark.parametrize(
    ("step", "says"),
    [(5, "saved after step 5; to go on from there"), (20, "saved after step 20, its last\n")],
)
def test_cancel_says_how_to_go_on_where_there_is_something_left(
    step: int, says: str, say: Said, submitted: Path, forgetful: None
) -> None:
    (submitted / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    status, out, _ = say("cancel", str(submitted))
    assert (status, says in out) == (0, True)
