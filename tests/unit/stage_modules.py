"""The model's modules as one tensor-parallel rank builds them, without any process group."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch

from orchestrate.config import ModelConfig, Recompute, RecomputeConfig, Schedule, ZeroBackend
from orchestrate.mesh import Axis, ParallelContext
from orchestrate.model.gpt import GPTStage
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.pipeline.stages import from_sizes
from orchestrate.plan.placement.place import place
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config


def build(
    model: ModelConfig,
    tp: int,
    sizes: tuple[int, ...],
    recompute: Recompute = Recompute.none,
    dtype: torch.dtype = torch.float32,
) -> list[GPTStage]:
    """Every pipeline stage of ``sizes`` layers, as rank 0 of ``tp`` holds it."""
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
        recompute=RecomputeConfig(recompute),
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
    return [GPTStage(plan, context, stage, dtype, seed=0) for stage in range(len(sizes))]


def parameters_of_stages(model: ModelConfig, tp: int, sizes: tuple[int, ...]) -> list[int]:
    """Elements that rank 0 of ``tp`` holds of each pipeline stage of ``sizes`` layers."""
    return [sum(p.numel() for p in stage.parameters()) for stage in build(model, tp, sizes)]


def kept_by_autograd(
    model: ModelConfig, layers: int, micro_batch: int, recompute: Recompute, dtype: torch.dtype
) -> int:
    """Bytes that the forward pass of the whole model of ``layers`` layers keeps for the backward pass,
    parameters apart, every piece of memory counted once."""
    (stage,) = build(model, 1, (layers,), recompute, dtype)
    tokens = torch.randint(model.vocab, (micro_batch, model.seq + 1))
    known = {parameter.untyped_storage().data_ptr() for parameter in stage.parameters()}
    kept: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)  # so that no address is used twice
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in known:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stage(tokens[:, :-1], labels=tokens[:, 1:], samples=torch.arange(micro_batch))
    return sum(kept.values())
