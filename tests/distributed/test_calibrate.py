"""Calibration as people type it, on real ranks: a profile that plans, and one refitted to a run."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrate.calibrate.formulas import Formulas
from orchestrate.calibrate.profile import refit
from orchestrate.calibrate.samples import Samples
from orchestrate.calibrate.worker import measure
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands.calibrate import measuring_plan
from orchestrate.config import Config
from orchestrate.mesh import build_context
from orchestrate.plan.search.search import search
from tests.distributed.pool import Pool
from tests.unit.plan_cases import make_config

SMALL = {
    "cluster.gpus_per_node": 2,
    "cluster.device.memory_gib": 0.5,
    "model.layers": 2,
    "model.hidden": 32,
    "model.heads": 2,
    "model.ffn_hidden": 64,
    "model.seq": 32,
    "train.global_batch": 4,
    "zero.stage": 0,
    "calibrate.seconds": 0.001,
}
ROOT = Path(__file__).parents[2]


def config(nodes: int) -> Config:
    values = {**SMALL, "cluster.nodes": nodes, "precision.dtype": "fp32"}
    return make_config("two_node_cpu", "gpt_tiny", **values)


def measure_here(of: Config, folder: Path) -> Samples:
    plan = measuring_plan(of)
    return measure(plan, of, build_context(plan, torch.device("cpu")), folder)


def test_ranks_agree_on_what_they_measure_of_both_links(pool: Pool, tmp_path: Path) -> None:
    of = config(nodes=2)
    first, *others = pool.run(4, measure_here, of, tmp_path)
    assert all(samples == first for samples in others)
    assert {case.link for case in first.exchanges} == {"nvlink", "network"}
    assert {case.kind for case in first.exchanges} == {"all_reduce", "reduce_scatter", "all_gather", "send"}
    for case in (*first.products, *first.operators, *first.passes, *first.exchanges):
        assert case.seconds > 0, case
    assert first.reserved_bytes > 2**26
    plan = measuring_plan(of)
    found = refit(Formulas(plan.cluster, plan.placement, of.model, of.precision.dtype), first)
    cluster = dataclasses.replace(of.cluster, device=found.device, nvlink=found.nvlink, network=found.network)
    assert search(dataclasses.replace(of, cluster=cluster)).time.step > 0


def orchestrate(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "orchestrate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


@pytest.fixture
def overrides(tmp_path: Path) -> tuple[str, ...]:
    small = [f"{key}={value}" for key, value in SMALL.items()]
    return ("model=gpt_tiny", "cluster.nodes=1", *small, f"calibrate.out={tmp_path}")


def test_a_calibrated_cluster_is_a_choice_of_its_own(overrides: tuple[str, ...], tmp_path: Path) -> None:
    done = orchestrate("calibrate", "cluster=two_node_cpu", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("device.launch_us", "nvlink.latency_us", "matrix products", "all devices are in one"):
        assert expected in done.stdout
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [Path("cluster/two_node_cpu_calibrated.yaml")]
    text = (tmp_path / files[0]).read_text()
    assert "orchestrate calibrate cluster=two_node_cpu" in text
    composed = build(Source((tmp_path,)), ["cluster=two_node_cpu_calibrated", "model=gpt_tiny"])
    assert composed.cluster.device.launch_us != config(1).cluster.device.launch_us
    assert search(composed).time.step > 0
