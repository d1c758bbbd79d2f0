"""What becomes of a submission before anything runs, and of a run that is cancelled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launchers.slurm.jobs import What, jobs_of, read_events
from tests.slurm.devcluster import ROOT, Cluster, until
from tests.slurm.runs import OVER, TINY, orchestrate, submit, words


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("launcher.partition=nowhere", "invalid partition specified: nowhere"),
        ("cluster.nodes=8", "Node count specification invalid"),
    ],
)
def test_what_sbatch_refuses_is_one_line_in_its_own_words_and_leaves_nothing(
    cluster: Cluster, tmp_path: Path, override: str, says: str
) -> None:
    run = (*TINY, *words(tmp_path), "launcher=slurm", f"run.dir={tmp_path / 'run'}")
    refused = orchestrate(cluster, "submit", *run, override)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert says in refused.stderr
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == []


def test_jobs_of_a_chain_are_cancelled_once_their_run_has_failed_for_good(
    cluster: Cluster, tmp_path: Path
) -> None:
    small = ("cluster.nodes=1", "cluster.gpus_per_node=1", "parallel.tp=1", "parallel.pp=1")
    fails = ('launcher.srun=["--no-such-option"]', "launcher.preflight=false", "faults.pause_s=0")
    run = submit(cluster, tmp_path / "run", (*TINY, *words(tmp_path), *small, *fails, "launcher.chain=3"))
    until(lambda: run.fields()["JobState"] in OVER)
    first, *others = jobs_of(run.folder)
    log = (run.folder / "logs" / f"slurm-{first}.log").read_text(encoding="utf-8")
    assert "failed 3 times in a row" in log
    assert f"jobs {', '.join(others)} of the chain would end alike: cancelled\n" in log
    cancelled = {event.job: event.text for event in read_events(run.folder) if event.what is What.cancelled}
    assert cancelled == dict.fromkeys(others, f"the run has failed for good in job {first}")
    assert run.fields()["JobState"] == "CANCELLED"


FAILS = """
import sys
from pathlib import Path
from orchestrate.commands import job_end
from orchestrate.commands.job_log import JobLog
from orchestrate.errors import UserError
job_end.refused(JobLog(Path(sys.argv[1]), sys.argv[2], 0), UserError("it fails for good"))
"""


def test_a_start_that_slurm_has_put_back_already_cancels_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """What runs on a node that Slurm has given up may fail when the job waits for its next start."""
    later = ('launcher.extra=["--begin=now+1hour"]', "launcher.chain=2")
    run = submit(cluster, tmp_path / "run", (*TINY, *words(tmp_path), *later))
    jobs = jobs_of(run.folder)
    cluster.run("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", FAILS, str(run.folder), jobs[0])
    states = cluster.run("squeue", "--noheader", f"--jobs={','.join(jobs)}", "--format=%i %T")
    cluster.run("scancel", *jobs)
    assert sorted(states.splitlines()) == [f"{job} PENDING" for job in jobs]


def test_cancel_leaves_nothing_running_on_any_node(cluster: Cluster, tmp_path: Path) -> None:
    endless = (*TINY, "cluster.gpus_per_node=2", "parallel.tp=2", "parallel.pp=1", "train.steps=1000000")
    run = submit(cluster, tmp_path / "run", (*endless, *words(tmp_path), "train.global_batch=4"))
    run.until(lambda: run.step > 0)
    assert any("orchestrate" in command for command in cluster.node(2)["processes"])
    cancelled = orchestrate(cluster, "cancel", str(run.folder))
    assert cancelled.returncode == 0, cancelled.stderr
    until(lambda: run.fields()["JobState"] in OVER)
    until(lambda: all(cluster.node(number)["processes"] == ["slurmd -D"] for number in range(1, 5)))
