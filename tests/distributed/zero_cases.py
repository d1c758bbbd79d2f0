"""Small GPTs trained a few steps under any engine and layout, told as full tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrate.config import (
    ClusterConfig,
    Config,
    DataConfig,
    DeviceConfig,
    DeviceKind,
    DType,
    LinkConfig,
    ModelConfig,
    OptimConfig,
    PrecisionConfig,
    Recompute,
    RecomputeConfig,
    Schedule,
    SourceConfig,
    TrainConfig,
    ZeroBackend,
)
from orchestrate.data.loader import Batch
from orchestrate.mesh import build_context
from orchestrate.plan.layout import ParallelDims, Placement
from orchestrate.plan.pipeline.stages import split_layers
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import build_cluster
from orchestrate.train.setup import Replica, build_replica

MODEL = ModelConfig(
    name="toy", layers=4, hidden=16, heads=4, ffn_hidden=24, vocab=37, seq=8, kv_heads=2, init_std=0.3
)
"""Tied embeddings, biases, grouped-query attention; the vocabulary is odd, so slices are padded."""


@dataclass(frozen=True)
class Case:
    """One way to train `MODEL`; the defaults are one process."""

    dims: ParallelDims = field(default_factory=ParallelDims)
    stage: int = 0
    engine: ZeroBackend = ZeroBackend.deepspeed
    schedule: Schedule = Schedule.one_f_one_b
    sequence_parallel: bool = False
    dtype: DType = DType.fp32
    model: ModelConfig = MODEL
    recompute: Recompute = Recompute.none
    micro_batch: int = 1
    global_batch: int = 8
    steps: int = 3
    clip: float = 1.0
    initial_loss_scale: float = 1024.0


@dataclass
class Told:
    """What a run did; ``gradients`` by step, then by name."""

    losses: list[float]
    """Of training, and after each step of the next step's batch without training on it."""
    norms: list[float]
    skipped: list[bool]
    scales: list[float]
    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]


def plan_of(case: Case) -> Plan:
    link = LinkConfig(bandwidth_gbps=10.0, latency_us=1.0)
    device = DeviceConfig("cpu", DeviceKind.cpu, 1.0, 10.0, {DType.fp32: 0.1})
    cluster = build_cluster(ClusterConfig("test", 1, case.dims.world, device, link, link))
    return Plan(
        cluster=cluster,
        model=case.model,
        dims=case.dims,
        placement=Placement(cluster.devices),
        stages=split_layers(case.model.layers, case.dims.pp * case.dims.vpp, 1.0),
        schedule=case.schedule,
        micro_batch=case.micro_batch,
        global_batch=case.global_batch,
        sequence_parallel=case.sequence_parallel,
        zero_stage=case.stage,
        zero_engine=case.engine,
        recompute=RecomputeConfig(case.recompute),
    )


def config_of(case: Case) -> Config:
    plan = plan_of(case)
    return Config(
        cluster=ClusterConfig(
            "test", 1, case.dims.world, plan.cluster.device, plan.cluster.nvlink, plan.cluster.network
        ),
        model=case.model,
        data=DataConfig(SourceConfig("stdlib")),
        precision=PrecisionConfig(case.dtype, case.initial_loss_scale, 2),
        optim=OptimConfig(lr=0.01, eps=1e-4),
        train=TrainConfig(clip=case.clip, global_batch=case.global_batch),
    )


def build(case: Case) -> Replica:
    plan = plan_of(case)
    return build_replica(plan, config_of(case), build_context(plan, torch.device("cpu")))


def batch_of(case: Case, replica: Replica, step: int) -> Batch:
    """This replica's share of global batch ``step``."""
    draw = torch.Generator().manual_seed(step)
    tokens = torch.randint(case.model.vocab, (case.global_batch, case.model.seq + 1), generator=draw)
    share = case.global_batch // case.dims.dp
    mine = slice(replica.context.dp.rank * share, (replica.context.dp.rank + 1) * share)
    samples = torch.arange(case.global_batch) + step * case.global_batch
    return Batch(tokens[mine], samples[mine])


def train_all(cases: list[Case]) -> list[Told]:
    """`train` for one case after the other, in one world."""
    return [train(case) for case in cases]


def train(case: Case) -> Told:
    """Train on every rank of the world; the whole of what happened, on each rank of it."""
    replica = build(case)
    told = Told([], [], [], [], [], {})
    for step in range(case.steps):
        loss = replica.pipeline.run(batch_of(case, replica, step))
        seen: dict[str, Tensor] = {}
        update = replica.zero.step(
            0.01 / (step + 1), lambda found, seen=seen: seen.update({n: g.clone() for n, g in found.items()})
        )
        validation = replica.pipeline.evaluate(batch_of(case, replica, step + 1))
        told.losses += [_whole_loss(loss, replica), _whole_loss(validation, replica)]
        told.norms.append(update.grad_norm)
        told.skipped.append(update.skipped)
        told.scales.append(update.loss_scale)
        told.gradients.append(gather(seen, replica))
    told.weights = gather(replica.zero.parameters(), replica)
    return told


def gather(local: Mapping[str, Tensor], replica: Replica) -> dict[str, Tensor]:
    """Full tensors by name from the slices of all ranks."""
    told: list[Any] = [None] * dist.get_world_size()
    shardings = {name: s for stage in replica.stages for name, s in stage.shardings.items()}
    plain = {n: replace(shardings[n], partial=()) for n in local}
    dist.all_gather_object(told, {n: (t.detach().cpu().numpy(), plain[n]) for n, t in local.items()})
    full: dict[str, Tensor] = {}
    for rank in told:
        for name, (values, sharding) in rank.items():
            whole = full.setdefault(name, torch.zeros(sharding.full_shape, dtype=torch.float64))
            sharding.put(torch.from_numpy(values).double(), whole)
    return full


def _whole_loss(loss: Tensor, replica: Replica) -> float:
    context = replica.context
    share = (
        loss.double() / context.dp.size / context.tp.size if replica.stages[-1].is_last else loss.double() * 0
    )
    dist.all_reduce(share)
    return float(share)


def differences(told: Told, expected: Told) -> dict[str, float]:
    """The largest relative difference in losses, norms, gradients and weights."""

    def most(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        assert a.keys() == b.keys()
        # Relative to the whole tensor: single elements cancel down to rounding.
        return max(float((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-12)) for n in a)

    def relative(a: list[float], b: list[float]) -> float:
        return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))

    return {
        "loss": relative(told.losses, expected.losses),
        "norm": relative(told.norms, expected.norms),
        "gradients": max(most(a, b) for a, b in zip(told.gradients, expected.gradients, strict=True)),
        "weights": most(told.weights, expected.weights),
    }
