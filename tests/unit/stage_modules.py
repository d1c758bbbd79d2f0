"""The model's modules as one tensor-parallel rank builds them, without any process group."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch

from orchestrate.config import ModelConfig, Recompute, RecomputeConfig, Schedule, ZeroBackend
from orchestrate.mesh import Axis, ParallelContext
from orchestrate.model.gpt import GPTStage
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.placement import place
from orchestrate.plan.plan import Plan
from orchestrate.plan.stages import from_sizes
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config


def parameters_of_stages(model: ModelConfig, tp: int, sizes: tuple[int, ...]) -> list[int]:
    """Elements that rank 0 of ``tp`` holds of each pipeline stage of ``sizes`` layers."""
    dims = ParallelDims(tp=tp, pp=len(sizes))
    overrides: dict[str, Any] = {"cluster.nodes": 1, "cluster.gpus_per_node": dims.world}
    cluster = build_cluster(make_config("local_cpu", "gpt_tiny", **overrides).cluster)
    plan = Plan(
        cluster=cluster,
        model=model,
        dims=dims,
        placement=place(cluster, dims),
        stages=from_sizes(sizes),
        schedule=Schedule.one_f_one_b,
        micro_batch=1,
        global_batch=len(sizes),
        sequence_parallel=False,
        zero_stage=0,
        zero_engine=ZeroBackend.deepspeed,
        recompute=RecomputeConfig(Recompute.none),
    )
    alone = Axis("alone", 0, 1, (0,))
    context = cast(
        ParallelContext,
        SimpleNamespace(
            tp=Axis("tp", 0, tp, tuple(range(tp))),
            kv_replicas=alone,
            tied=alone,
            device=torch.device("cpu"),
        ),
    )
    stages = [GPTStage(plan, context, stage, torch.float32, seed=0) for stage in range(len(sizes))]
    return [sum(p.numel() for p in stage.parameters()) for stage in stages]
