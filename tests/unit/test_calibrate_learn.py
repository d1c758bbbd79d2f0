"""A profile learns from training runs: made up from a known profile, or in folders as `train` leaves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrate.calibrate.learn import learn
from orchestrate.calibrate.runs import Run, estimate_memory, estimate_time, read_run, read_runs
from orchestrate.config import ClusterConfig, Config, dump
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.search.search import search
from orchestrate.train.metrics import MetricsFile
from tests.unit.plan_cases import make_config
from tests.unit.train_samples import step_record

LAYOUTS: tuple[dict[str, Any], ...] = (
    {"parallel.tp": 1, "parallel.pp": 1, "parallel.micro_batch": 2, "zero.stage": 0},
    {"parallel.tp": 2, "parallel.pp": 1, "parallel.micro_batch": 2, "zero.stage": 1},
    {"parallel.tp": 2, "parallel.pp": 2, "parallel.micro_batch": 1, "zero.stage": 0},
    {"parallel.tp": 4, "parallel.pp": 1, "parallel.micro_batch": 4, "zero.stage": 0},
    {"parallel.tp": 1, "parallel.pp": 4, "parallel.micro_batch": 1, "zero.stage": 0},
)


def config_of(layout: dict[str, Any]) -> Config:
    fixed = {
        "precision.dtype": "fp32",
        "parallel.vpp": 1,
        "parallel.schedule": "1f1b",
        "recompute.mode": "none",
    }
    return make_config("two_node_cpu", "gpt_tiny", **fixed, **layout)


def run_of(layout: dict[str, Any], truth: ClusterConfig) -> Run:
    """The run of ``layout`` on machines of profile ``truth``, whatever its plan believed."""
    config = config_of(layout)
    plan = search(config)
    run = Run("made up", plan, config.precision.dtype, 1.0, (), "process_resident")
    stages = estimate_memory(run, truth)
    ranks = range(plan.dims.world)
    memory = tuple(stages[plan.dims.coordinates(rank).pp].total for rank in ranks)
    return replace(run, step_s=estimate_time(run, truth).step, memory=memory)


def profile() -> ClusterConfig:
    return config_of({}).cluster


def slower(cluster: ClusterConfig) -> ClusterConfig:
    return replace(
        cluster,
        device=replace(cluster.device, launch_us=3 * cluster.device.launch_us, reserved_gib=0.5),
        nvlink=replace(cluster.nvlink, latency_us=2 * cluster.nvlink.latency_us),
    )


def test_runs_bring_predictions_close_even_for_those_left_out() -> None:
    truth = slower(profile())
    learnt = learn(profile(), [run_of(layout, truth) for layout in LAYOUTS])
    by_kind = {quality.kind: quality for quality in learnt.refit.qualities}
    step, left_out = by_kind["step time"], by_kind["step time of a run left out"]
    assert step.before > 0.2
    assert step.after < 0.05
    assert left_out.after < 0.5 * left_out.before
    assert by_kind["memory of a rank"].after < 1e-6
    assert learnt.refit.device.reserved_gib == pytest.approx(0.5)


def test_a_profile_that_is_right_already_stays() -> None:
    learnt = learn(profile(), [run_of(layout, profile()) for layout in LAYOUTS[:3]])
    for change in learnt.refit.changes:
        if change.key != "device.step_us":
            assert change.after == pytest.approx(change.before, rel=0.03), change.key


def test_two_runs_are_too_few_to_leave_one_out() -> None:
    learnt = learn(profile(), [run_of(layout, profile()) for layout in LAYOUTS[:2]])
    assert learnt.left_out_s == ()


def test_memory_of_tensors_alone_says_nothing_about_the_context() -> None:
    run = replace(run_of(LAYOUTS[0], slower(profile())), memory_kind="cuda_allocated")
    learnt = learn(profile(), [run])
    assert learnt.refit.device.reserved_gib == profile().device.reserved_gib
    assert any("reserved_gib stays" in note for note in learnt.refit.notes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = config_of(LAYOUTS[0])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dump(config)))
    plans.save(search(config), tmp_path / "plan.yaml")
    with MetricsFile(tmp_path) as metrics:
        for step, seconds in enumerate((9.0, 2.0, 1.0, 1.5), start=1):
            metrics(step_record(step=step, step_time_s=seconds, memory_mib=(100.0 * step,) * 8))
    return tmp_path


def test_a_runs_folder_is_read_without_its_first_step(folder: Path) -> None:
    run = read_run(folder)
    assert run.step_s == 1.5
    assert run.memory == (400 * 2**20,) * 8


def test_what_is_no_finished_run_is_one_line(folder: Path) -> None:
    cluster = profile()
    with pytest.raises(ConfigError, match=r"has no config\.yaml"):
        read_runs([str(folder / "nowhere")], cluster)
    with pytest.raises(ConfigError, match="ran on CPU quarter core, but"):
        read_runs([str(folder)], make_config().cluster)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(lines[0] + "\n")
    with pytest.raises(ConfigError, match="has 1 records"):
        read_runs([str(folder)], cluster)
