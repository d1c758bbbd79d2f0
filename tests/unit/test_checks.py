"""Every rule on a config: what breaks it is told in one line with the numbers and the nearest choice."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrate.checks import check, problems
from orchestrate.errors import ConfigError
from tests.unit.plan_cases import make_config

TINY: dict[str, Any] = {"parallel.tp": 2, "parallel.pp": 2, "parallel.dp": 2, "parallel.micro_batch": 1}
HEADS_34 = {"model.heads": 34, "model.hidden": 340, "model.kv_heads": None}

BROKEN: list[tuple[dict[str, Any], list[str]]] = [
    # Tensor parallelism
    (
        {**HEADS_34, "parallel.tp": 8},
        ["parallel.tp=8", "model.heads=34", "nearest is parallel.tp=2", "possible: 1, 2"],
    ),
    (
        {"model.heads": 6, "model.hidden": 384, "model.kv_heads": 4},
        ["model.heads=6", "model.kv_heads=4", "=3"],
    ),
    (
        {"model.heads": 48, "model.hidden": 4096 * 3, "model.kv_heads": 6, "parallel.tp": 4},
        ["parallel.tp=4", "model.kv_heads=6", "nearest is parallel.tp=2"],
    ),
    (
        {"model.ffn_hidden": 14337, "parallel.tp": 2},
        ["parallel.tp=2", "model.ffn_hidden=14337", "parallel.tp=1"],
    ),
    (
        {"cluster.nodes": 2, "parallel.tp": 16},
        ["parallel.tp=16", "NVLink domain of 8", "parallel.tp=8", "parallel.allow_tp_across_nodes=true"],
    ),
    (
        {"cluster.nvlink_domain": 4, "parallel.tp": 8},
        ["parallel.tp=8", "NVLink domain of 4", "nearest is parallel.tp=4"],
    ),
    (
        {"cluster.gpus_per_node": 6, "cluster.nodes": 2, "parallel.tp": 4},
        ["parallel.tp=4 does not divide", "domain of 6", "nearest is parallel.tp=2"],
    ),
    (
        {"parallel.tp": 8, "parallel.sequence_parallel": True, "model.seq": 8190},
        ["model.seq=8190", "parallel.tp=8", "8184 or 8192", "parallel.sequence_parallel=false"],
    ),
    # Degrees and devices
    (
        {"parallel.tp": 2, "parallel.pp": 2, "parallel.dp": 3},
        ["tp 2 x pp 2 x dp 3 = 12", "1 x 8 = 8 devices", "nearest is parallel.dp=2"],
    ),
    ({"parallel.pp": 3}, ["pp 3 does not divide", "8 devices", "nearest is parallel.pp=2"]),
    ({"parallel.dp": 16}, ["dp 16 does not divide", "8 devices", "nearest is parallel.dp=8"]),
    ({"parallel.tp": 0}, ["parallel.tp=0", "at least 1"]),
    ({"parallel.cp": 2}, ["parallel.cp=2", "not trained yet", "parallel.cp=1"]),
    ({"parallel.order": ["tp", "pp", "dp"]}, ["parallel.order", "tp, cp, dp, pp"]),
    # Stages and schedules
    (
        {"model.layers": 3, "parallel.pp": 4},
        ["model.layers=3", "parallel.pp=4 stages", "nearest is parallel.pp=2"],
    ),
    (
        {"model.layers": 6, "parallel.pp": 4, "parallel.vpp": 2, "parallel.schedule": "interleaved"},
        ["model.layers=6", "pp=4 x vpp=2 = 8 stages", "nearest is parallel.pp=2"],
    ),
    (
        {"parallel.pp": 1, "parallel.schedule": "zbv"},
        ["schedule=zbv", "parallel.pp of at least 2", "it is 1"],
    ),
    (
        {"parallel.pp": 2, "parallel.schedule": "zbv", "parallel.vpp": 3},
        ["schedule=zbv", "parallel.vpp=2", "it is 3"],
    ),
    (
        {"parallel.pp": 2, "parallel.schedule": "interleaved", "parallel.vpp": 1},
        ["schedule=interleaved", "parallel.vpp of at least 2", "it is 1"],
    ),
    (
        {"parallel.pp": 2, "parallel.schedule": "1f1b", "parallel.vpp": 2},
        ["parallel.vpp=2", "interleaved", "it is 1f1b"],
    ),
    ({"parallel.pp": 1, "parallel.vpp": 2}, ["parallel.vpp=2", "parallel.pp of at least 2"]),
    (
        {
            "parallel.tp": 2,
            "parallel.pp": 4,
            "parallel.dp": 1,
            "parallel.micro_batch": 2,
            "parallel.schedule": "1f1b",
            "train.global_batch": 6,
        },
        ["1f1b", "at least pp 4", "= 3", "train.global_batch=8", "gpipe"],
    ),
    (
        {
            "parallel.tp": 2,
            "parallel.pp": 4,
            "parallel.dp": 1,
            "parallel.micro_batch": 1,
            "parallel.schedule": "interleaved",
            "train.global_batch": 11,
        },
        ["interleaved", "11 micro-batches", "pp 4", "2 rounds", "10 or 12"],
    ),
    (
        {"parallel.pp": 2, "parallel.stage_layers": [30, 1]},
        ["stage_layers=[30, 1]", "add up to 31", "model.layers=32"],
    ),
    (
        {"parallel.pp": 4, "parallel.vpp": 1, "parallel.stage_layers": [16, 16]},
        ["stage_layers=[16, 16]", "2 stages", "= 4"],
    ),
    ({"parallel.pp": 2, "parallel.stage_layers": [32, 0]}, ["stage_layers=[32, 0]", "at least 1 layer"]),
    # Batch
    (
        {"parallel.dp": 4, "parallel.micro_batch": 3, "train.global_batch": 32},
        ["train.global_batch=32", "dp 4 x micro_batch 3 = 12", "24 or 36"],
    ),
    ({"parallel.dp": 8, "train.global_batch": 4}, ["train.global_batch=4", "dp 8", "train.global_batch=8"]),
    (
        {"parallel.tp": 1, "parallel.pp": 1, "train.global_batch": 12},
        ["train.global_batch=12", "dp 8", "8 or 16"],
    ),
    ({"train.global_batch": 0}, ["train.global_batch=0", "at least 1"]),
    # Faults
    ({"faults.tries": -1}, ["faults.tries=-1", "at least 0"]),
    ({"faults.hang_s": -5.0}, ["faults.hang_s=-5", "at least 0"]),
    ({"faults.spike_factor": 1.0}, ["faults.spike_factor=1", "above 1"]),
    # Recomputation
    (
        {"recompute.mode": "full", "recompute.layers": 99},
        ["recompute.layers=99", "model.layers=32", "nearest is recompute.layers=32"],
    ),
    # Questions
    ({"plan.ask": "scaling", "plan.why": "tp=2"}, ["plan.why", "plan.ask=scaling"]),
    ({"plan.ask": "scaling", "plan.out": "plan.yaml"}, ["plan.out", "plan.ask=scaling"]),
    ({"plan.lost_nodes": 1, "plan.report": "plan.html"}, ["plan.report", "plan.ask=lost_nodes"]),
    # ZeRO
    (
        {"zero.stage": 2, "parallel.pp": 2},
        ["zero.stage=2", "deepspeed", "parallel.pp=1", "zero.engine=fsdp2"],
    ),
    ({"zero.stage": 3, "parallel.pp": 2}, ["zero.stage=3", "zero.engine=fsdp2"]),
    ({"zero.stage": 4}, ["zero.stage=4", "0, 1, 2, 3"]),
    # Model
    ({"model.heads": 30, "model.kv_heads": None}, ["model.hidden=4096", "model.heads=30", "model.heads=32"]),
    ({"model.hidden": 96, "model.heads": 32}, ["= 3 per head", "rotary", "even"]),
    ({"model.layers": 0}, ["model.layers=0", "at least 1"]),
    ({"model.layers": 10**12}, ["model.layers=1000000000000", "at most 10000"]),
    ({"cluster.nodes": 10**9}, ["8000000000 devices", "at most 1048576"]),
    ({"model.dropout": 1.0}, ["model.dropout=1", "below 1"]),
    # The rest
    ({"recompute.mode": "selective", "recompute.layers": 2}, ["recompute.layers=2", "recompute.mode=full"]),
    ({"optim.betas": [0.9, 1.0]}, ["optim.betas[1]=1", "below 1"]),
    ({"optim.lr": 0}, ["optim.lr=0", "above 0"]),
    ({"optim.lr": float("nan")}, ["optim.lr=nan"]),
    ({"optim.warmup_steps": 200}, ["optim.warmup_steps=200", "train.steps=100"]),
    ({"train.steps": 0}, ["train.steps=0", "at least 1"]),
    ({"train.clip": -1}, ["train.clip=-1", "at least 0"]),
    ({"data.validation_fraction": 1.5}, ["data.validation_fraction=1.5", "below 1"]),
    (
        {"cluster.device.memory_gib": 1},
        ["cluster.device.memory_gib=1", "above cluster.device.reserved_gib=1.5"],
    ),
    ({"cluster.device.peak_tflops": {"fp32": 1}}, ["precision.dtype=bf16", "only fp32"]),
]


@pytest.mark.parametrize(("overrides", "said"), BROKEN, ids=lambda value: ",".join(value)[:60])
def test_broken_rule_is_told_in_one_line(overrides: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(make_config(**overrides))
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"parallel.tp": 8, "parallel.sequence_parallel": True},
        {"cluster.nodes": 2, "parallel.tp": 16, "parallel.allow_tp_across_nodes": True},
        {"parallel.pp": 2, "zero.stage": 3, "zero.engine": "fsdp2"},
        {"parallel.pp": 2, "parallel.schedule": "zbv", "parallel.vpp": 2},
        {"parallel.pp": 2, "parallel.stage_layers": [20, 12]},
        {"recompute.mode": "full", "recompute.layers": 3},
        {"zero.stage": 3},
    ],
    ids=lambda value: ",".join(value)[:60],
)
def test_what_obeys_the_rules_passes(overrides: dict[str, Any]) -> None:
    assert list(problems(make_config(**overrides))) == []


def test_nearest_choice_that_is_named_is_valid() -> None:
    check(make_config("two_node_cpu", "gpt_tiny", **TINY))
    check(make_config(**{**HEADS_34, "parallel.tp": 2}))
    check(make_config(**{"cluster.gpus_per_node": 6, "cluster.nodes": 2, "parallel.tp": 2}))
    check(make_config(**{"parallel.dp": 4, "parallel.micro_batch": 3, "train.global_batch": 36}))
