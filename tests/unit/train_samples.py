"""A small plan, its config, and records of a run of it, for tests of what a run shows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from orchestrate.config import (
    ClusterConfig,
    Config,
    DataConfig,
    DeviceConfig,
    DeviceKind,
    DType,
    LinkConfig,
    ModelConfig,
    Recompute,
    RecomputeConfig,
    RunConfig,
    Schedule,
    SourceConfig,
    TrackingConfig,
    TrackingMode,
    TrainConfig,
    ZeroBackend,
)
from orchestrate.plan.layout import ParallelDims, Placement
from orchestrate.plan.plan import MemoryEstimate, Plan, StageLayers, TimeEstimate
from orchestrate.topology.cluster import build_cluster
from orchestrate.train.metrics import StepRecord, perplexity

MIB = 2**20
DEVICE = DeviceConfig("cpu", DeviceKind.cpu, 4.0, 10.0, {DType.fp32: 0.05})
LINK = LinkConfig(1.0, 50.0)
CLUSTER = ClusterConfig("two nodes", 2, 2, DEVICE, LINK, LINK)
MODEL = ModelConfig("small", layers=4, hidden=32, heads=4, ffn_hidden=64, vocab=257, seq=64)


def config(mode: TrackingMode = TrackingMode.offline, steps: int = 20) -> Config:
    return Config(
        cluster=CLUSTER,
        model=MODEL,
        data=DataConfig(SourceConfig("stdlib")),
        train=TrainConfig(steps=steps, global_batch=8),
        run=RunConfig(name="a run"),
        tracking=TrackingConfig(mode=mode, tags=("test",)),
    )


def plan() -> Plan:
    """tp 2 x pp 2 on four devices, with predictions."""
    cluster = build_cluster(CLUSTER)
    return Plan(
        cluster=cluster,
        model=MODEL,
        dims=ParallelDims(tp=2, pp=2),
        placement=Placement(cluster.devices),
        stages=(StageLayers(0, 2), StageLayers(2, 4)),
        schedule=Schedule.one_f_one_b,
        micro_batch=2,
        global_batch=8,
        sequence_parallel=True,
        zero_stage=1,
        zero_engine=ZeroBackend.deepspeed,
        recompute=RecomputeConfig(Recompute.none),
        memory=tuple(MemoryEstimate({"weights": m * MIB}, 4096 * MIB) for m in (500.0, 620.0)),
        time=TimeEstimate({"compute": 0.25, "communication": 0.05}),
    )


def step_record(**changes: Any) -> StepRecord:
    """A record of `plan`; derived figures follow from what ``changes`` says."""
    values: dict[str, Any] = {
        "step": 1,
        "loss": 5.5,
        "val_loss": None,
        "memory_mib": (510.0, 512.0, 640.0, 600.0),
    }
    values |= changes
    step, seconds = values["step"], values.get("step_time_s", 0.3)
    tokens = 8 * MODEL.seq
    derived = {
        "time": 1.7e9 + step * seconds,
        "perplexity": perplexity(values["loss"]),
        "lr": 1e-3,
        "grad_norm": 1.25,
        "loss_scale": 1.0,
        "skipped": 0,
        "step_time_s": seconds,
        "tokens_per_s": tokens / seconds,
        "tokens_per_s_per_device": tokens / seconds / 4,
        "mfu": 0.125,
        "samples": step * 8,
        "tokens": step * tokens,
        "memory_kind": "process_resident",
        "memory_mib_max": max(values["memory_mib"]),
        "val_perplexity": None if values["val_loss"] is None else perplexity(values["val_loss"]),
        "predicted_step_time_s": 0.3,
        "predicted_memory_mib": (500.0, 500.0, 620.0, 620.0),
    }
    return StepRecord(**{**derived, **values})


def records(steps: int = 20, every: int = 5) -> list[StepRecord]:
    """A run whose loss falls from about 5.5 to about 2.5, validated every so many steps."""
    losses = {step: 2.5 + 3.0 * math.exp(-step / 5) for step in range(1, steps + 1)}
    made = [
        step_record(step=step, loss=loss, val_loss=loss + 0.1 if step % every == 0 else None)
        for step, loss in losses.items()
    ]
    # The first step of a run takes longer than the others.
    return [dataclasses.replace(made[0], step_time_s=2.0), *made[1:]]
