"""Nodes that are not what a run needs: named, and left out where others can take their place."""

from __future__ import annotations

from pathlib import Path

from launchers.slurm.jobs import What, read_events
from tests.slurm.devcluster import Cluster, until
from tests.slurm.runs import OVER, TINY, submit, words

TWO_RANKS = (
    *TINY,
    "cluster.gpus_per_node=1",
    "model.layers=2",
    "parallel.tp=1",
    "parallel.pp=1",
    "zero.stage=0",
    "train.steps=2",
    "train.global_batch=4",
)


def test_nodes_below_two_switches_are_refused_where_the_plan_has_them_below_one(
    cluster: Cluster, tmp_path: Path
) -> None:
    apart = f"launcher.nodelist='{cluster.host(1)},{cluster.host(3)}'"
    together = "cluster.switches=[{nodes: 2, oversubscription: 2}]"
    asked = (together, apart, "launcher.switches=0", "launcher.preflight=false", "launcher.chain=2")
    run = submit(cluster, tmp_path / "run", (*TWO_RANKS, *words(tmp_path), *asked))
    until(lambda: run.fields()["JobState"] in OVER)
    assert run.fields()["ExitCode"] == "2:0"
    said = run.log
    assert "nodes that share switches in another way" in said
    assert f"switch 0: node0 (1), node1 (1)                      leaf1: {cluster.host(1)} (1)\n" in said
    assert f"leaf2: {cluster.host(3)} (1)\n" in said
    assert "launcher.replan=true" in said.splitlines()[-1]
    assert run.step == 0
    # The second job of the chain might have been given other nodes, and was not kept from trying.
    assert [event.status for event in read_events(run.folder) if event.what is What.ended] == [2, 2]


def test_a_chain_goes_on_where_a_job_was_left_too_few_devices(cluster: Cluster, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "lost.txt").write_text(cluster.host(1))
    here = ("cluster.nodes=1", f"launcher.nodelist='{cluster.host(1)}'", "launcher.chain=2")
    run = submit(cluster, run_dir, (*TWO_RANKS, *words(tmp_path), *here))
    until(lambda: run.fields()["JobState"] in OVER)
    ended = [event for event in read_events(run_dir) if event.what is What.ended]
    assert [(event.status, "no layout" in event.text) for event in ended] == [(2, True), (2, True)]


def test_a_node_behind_a_slow_link_is_left_out_for_a_spare_one(cluster: Cluster, tmp_path: Path) -> None:
    slow = cluster.host(2)
    cluster.do("shape", "20mbit", slow)
    try:
        three = f"launcher.nodelist='{','.join(cluster.host(n) for n in (1, 2, 3))}'"
        link = ("launcher.preflight_bandwidth=0.5", "cluster.network.bandwidth_gbps=0.02")
        asked = (three, "launcher.spare_nodes=1", *link)
        run = submit(cluster, tmp_path / "run", (*TWO_RANKS, *words(tmp_path), *asked))
        run.finish()
    finally:
        cluster.do("shape", "off", slow)
    assert set(run.nodes) == {cluster.host(1), cluster.host(3)}
    assert f"preflight: {slow} is not fit: to {cluster.host(1)} 0.00" in run.log
    assert run.step == 2
    started, ended = (event for event in read_events(run.folder) if event.what is not What.submitted)
    assert (len(started.nodes), ended.status) == (3, 0)
