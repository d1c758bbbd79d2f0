"""Nodes that fail under a training run: it goes on with those that are left, to the same result."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.faults import read_faults
from tests.slurm.devcluster import Cluster, until
from tests.slurm.runs import TINY, Run, submit, train_here, words

STEPS = 60
FOUR_RANKS = (
    *TINY,
    "cluster.gpus_per_node=2",
    "model.layers=2",
    "model.hidden=64",
    "model.seq=64",
    "model.ffn_hidden=128",
    "parallel.tp=2",
    "parallel.pp=2",
    "parallel.dp=1",
    "parallel.micro_batch=4",
    "zero.stage=0",
    f"train.steps={STEPS}",
    "train.global_batch=8",
    "checkpoint.every=5",
    "faults.pause_s=0",
    "faults.hang_s=60",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return words(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def expected(data: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Loss by step, from processes of this machine that nothing interrupts."""
    return train_here(tmp_path_factory.mktemp("here") / "run", (*FOUR_RANKS, *data))


def test_spare_nodes_take_the_place_of_one_that_crashes_and_one_that_is_cut_off(
    mended: Cluster, data: tuple[str, ...], expected: dict[int, float], tmp_path: Path
) -> None:
    cluster = mended
    cluster.do("shape", "2mbit")  # so that a step takes a while on any machine
    run = submit(cluster, tmp_path / "run", (*FOUR_RANKS, *data, "launcher.spare_nodes=2"))
    run.until(lambda: run.step >= 6)
    batch = run.fields()["BatchHost"]
    crashed = other(run, batch)
    cluster.do("crash", crashed)
    recovered(run, 1)
    assert crashed not in run.nodes

    cut = other(run, batch)
    cluster.do("cut", cut)
    recovered(run, 2)
    assert cut not in run.nodes
    cluster.do("shape", "off")
    run.finish()
    assert run.fields()["Restarts"] == "0"
    assert run.losses == expected
    cluster.do("mend", cut)
    left = [number for number in range(1, 5) if cluster.host(number) != crashed]
    until(lambda: all(cluster.node(number)["processes"] == ["slurmd -D"] for number in left))


def test_jobs_that_lose_the_node_of_their_batch_script_go_on_elsewhere(
    mended: Cluster, data: tuple[str, ...], expected: dict[int, float], tmp_path: Path
) -> None:
    """One is Slurm's to put back, and one its own: that which may plan anew, and has to."""
    cluster = mended
    cluster.do("shape", "2mbit")
    together = ("cluster.switches=[{nodes: 2, oversubscription: 2}]", "launcher.switches=0")
    slurms = submit(cluster, tmp_path / "slurms", (*FOUR_RANKS, *data))
    own = submit(cluster, tmp_path / "own", (*FOUR_RANKS, *data, *together, "launcher.replan=true"))
    for run in (slurms, own):
        run.until(lambda run=run: run.step >= 6)
    left = {other(run, run.fields()["BatchHost"]) for run in (slurms, own)}
    for run in (slurms, own):
        cluster.do("crash", run.fields()["BatchHost"])
    cluster.do("shape", "off")

    for run in (slurms, own):
        until(lambda run=run: (run.fields()["Restarts"], run.fields()["JobState"]) == ("1", "PENDING"))
    for run in (slurms, own):
        cluster.run("scontrol", "update", f"JobId={run.job}", "StartTime=now+2")
        run.finish()
        assert set(run.nodes) == left
        assert run.losses == expected
    # What is left hangs on two switches.
    assert ["planned anew" in run.log for run in (slurms, own)] == [False, True]
    until(lambda: all(node["processes"] in ([], ["slurmd -D"]) for node in map(cluster.node, range(1, 5))))


def other(run: Run, batch: str) -> str:
    """A node that the run trains on, and on which its batch script does not run."""
    return next(node for node in run.nodes if node != batch)


def recovered(run: Run, times: int) -> None:
    """Wait until the run has made a step again after so many failures."""
    run.until(lambda: sum(fault.kind == "recovered" for fault in read_faults(run.folder)) == times)
