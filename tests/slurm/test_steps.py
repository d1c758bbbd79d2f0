"""The step that the ranks run in, when what Slurm started is not what ends it."""

from __future__ import annotations

from pathlib import Path

from tests.slurm.devcluster import Cluster, until
from tests.slurm.runs import OVER, TINY, orchestrate, submit, words

WORKER = "-m orchestrate.train.worker"


def workers(cluster: Cluster, node: int) -> int:
    return sum(WORKER in command for command in cluster.node(node)["processes"])


def test_ranks_whose_srun_was_killed_end_before_others_start(cluster: Cluster, tmp_path: Path) -> None:
    endless = (*TINY, "cluster.gpus_per_node=2", "parallel.tp=2", "parallel.pp=1", "train.steps=1000000")
    asked = (f"launcher.nodelist='{cluster.host(1)},{cluster.host(2)}'", "launcher.preflight=false")
    run = submit(cluster, tmp_path / "run", (*endless, *words(tmp_path), *asked, "train.global_batch=4"))
    run.until(lambda: run.step > 0)
    cluster.do("run", "--node", cluster.host(1), "pkill", "-KILL", "-f", "^srun --job-name=ranks-1 ")
    run.until(lambda: "recovered at step" in run.log)
    assert [workers(cluster, node) for node in (1, 2)] == [2, 2]
    assert orchestrate(cluster, "cancel", str(run.folder)).returncode == 0
    until(lambda: run.fields()["JobState"] in OVER)
