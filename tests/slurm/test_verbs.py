"""What submit, status, logs and requeue make of Slurm. The jobs are real; a short script stands in for Python
in them, so that they take no time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.slurm.jobs import What, jobs_of, note, read_events
from orchestrate.commands.submit import WRITTEN
from tests.slurm.devcluster import ROOT, Cluster, until
from tests.slurm.runs import ORCHESTRATE, TINY
from tests.slurm.runs import words as data

SECRET = "0123456789abcdef0123456789abcdef01234567"

WAITS = """
import signal
import sys
from pathlib import Path

from launchers.slurm.jobs import What, note, this_job

run = Path(sys.argv[1])


def say(word):
    with (run / "said").open("a") as file:
        print(word, file=file)


signal.signal(signal.SIGUSR1, lambda *_: (say("saved"), sys.exit()))
note(run, What.started, this_job())
say("ready")
while True:
    signal.pause()
"""
"""A job that does nothing but wait to be asked to save."""


class Typed:
    """``orchestrate`` as somebody on the login node types it, with jobs whose Python is a script."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.python = folder / "python"
        self.job("exit 0")

    def job(self, script: str) -> None:
        """What the jobs do: lines of shell, in which $run is the run's folder."""
        self.python.write_text(f'#!/bin/bash\nrun=$3\necho "begin $SLURM_JOB_ID" >> "$run/said"\n{script}\n')
        self.python.chmod(0o755)

    def call(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        variables = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "WANDB_API_KEY": SECRET, **more}
        return self.cluster.call("run", *ORCHESTRATE, *words, environment=variables, cwd=self.folder)

    def do(self, *words: str) -> str:
        ended = self.call(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def submission(self, *words: str) -> tuple[str, ...]:
        small = ("cluster.nodes=1", "cluster.gpus_per_node=1", "launcher.exclusive=false")
        run = (*TINY, *data(self.folder), *small)
        return ("submit", *words, *run, "launcher=slurm", f"launcher.python={self.python}")

    def said(self, run: str) -> list[str]:
        file = self.folder / run / "said"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def typed(cluster: Cluster, tmp_path: Path) -> Typed:
    return Typed(cluster, tmp_path)


def test_waiting_returns_what_the_job_returned(typed: Typed) -> None:
    typed.job("exit 7")
    assert typed.call(*typed.submission("run.dir=run", "launcher.wait=true")).returncode == 7
    assert len(typed.said("run")) == 1


def test_what_is_typed_counts_more_than_a_profile(typed: Typed) -> None:
    """In a folder whose name could be taken for one of Slurm's placeholders."""
    profile = {"SBATCH_PARTITION": "nowhere", "SBATCH_TIMELIMIT": "nonsense"}
    wanted = typed.submission("run.dir=50%j", "launcher.wait=true", "launcher.partition=main")
    ended = typed.call(*wanted, 'launcher.time="0:05:00"', **profile)
    assert ended.returncode == 0, ended.stderr
    assert list((typed.folder / "50%j" / "logs").glob("slurm-*.log"))
    untold = typed.call(*typed.submission("run.dir=other"), SBATCH_PARTITION="nowhere")
    assert (untold.returncode, "nowhere" in untold.stderr) == (2, True)  # a profile's own wishes hold


def test_everything_is_in_the_folder_but_the_secret(typed: Typed) -> None:
    typed.job('echo "key ${#WANDB_API_KEY}" >> "$run/said"')
    typed.do(*typed.submission("run.dir=run", "launcher.wait=true"))
    run = typed.folder / "run"
    assert {*WRITTEN, "code", "logs"} <= {path.name for path in run.iterdir()}
    assert "key 40" in typed.said("run")  # the job has it
    assert [file for file in run.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()] == []
    subprocess.run(
        ["diff", "-r", "-x", "__pycache__", ROOT / "launchers", run / "code" / "launchers"], check=True
    )


def test_an_array_trains_each_run_in_its_own_folder_and_one_can_go_again(typed: Typed) -> None:
    typed.do(*typed.submission("-m", "run.dir=sweep", "optim.lr=1e-3,2e-3,3e-3", "launcher.wait=true"))
    assert [len(typed.said(f"sweep/{number}")) for number in (1, 2, 3)] == [1, 1, 1]
    jobs = [jobs_of(typed.folder / "sweep" / number)[0] for number in ("1", "2", "3")]
    assert [job.partition("_")[2] for job in jobs] == ["1", "2", "3"]
    assert len({job.partition("_")[0] for job in jobs}) == 1
    typed.do("requeue", "sweep/2")
    until(lambda: len(typed.said("sweep/2")) == 2)
    assert [len(typed.said(f"sweep/{number}")) for number in (1, 3)] == [1, 1]
    assert [len(jobs_of(typed.folder / "sweep" / number)) for number in ("1", "2")] == [1, 2]


def test_jobs_of_a_chain_follow_one_another(typed: Typed) -> None:
    typed.job('sleep 0.3; echo "end $SLURM_JOB_ID" >> "$run/said"')
    typed.do(*typed.submission("run.dir=run", "launcher.chain=3", "launcher.wait=true"))
    jobs = jobs_of(typed.folder / "run")
    assert len(jobs) == 3
    assert typed.said("run") == [f"{word} {job}" for job in jobs for word in ("begin", "end")]


def test_a_job_that_waits_is_shown_and_is_not_joined_by_another(typed: Typed) -> None:
    typed.do(*typed.submission("run.dir=run", 'launcher.extra=["--hold"]'))
    (found,) = json.loads(typed.do("status", "run", "format=json"))
    assert [(job["state"], job["note"]) for job in found["jobs"]] == [("PENDING", "JobHeldUser")]
    again = typed.call(*typed.submission("run.dir=run"))
    assert (again.returncode, "of this run has not ended" in again.stderr) == (2, True)
    assert "is in the queue already" in typed.do("requeue", "run")
    assert "it has no checkpoint" in typed.do("cancel", "run")
    assert [event.what for event in read_events(typed.folder / "run")] == [What.submitted, What.cancelled]
    assert typed.said("run") == []


def test_a_job_whose_submission_is_noted_late_is_still_asked_to_save(typed: Typed) -> None:
    waits = typed.folder / "waits.py"
    waits.write_text(WAITS)
    typed.job(f'exec {sys.executable} {waits} "$run"')
    typed.do(*typed.submission("run.dir=run"))
    until(lambda: "ready" in typed.said("run"))
    run = typed.folder / "run"
    note(run, What.submitted, jobs_of(run)[0])  # as a slow login node does
    assert "saves and goes back into the queue" in typed.do("requeue", "run")
    until(lambda: "saved" in typed.said("run"))


def test_logs_follow_until_the_job_has_ended(typed: Typed) -> None:
    typed.job("echo first; sleep 1; echo last")
    typed.do(*typed.submission("run.dir=run"))
    assert typed.do("logs", "run", "follow=true").splitlines() == ["first", "last"]


def test_train_with_slurm_submits(typed: Typed) -> None:
    _, *words = typed.submission("run.dir=run", "launcher.wait=true")
    typed.do("train", *words)
    assert len(typed.said("run")) == 1
