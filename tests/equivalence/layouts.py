"""Tiny models, the layouts to train them in, and the function that a rank of the pool runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from orchestrate.config import (
    Activation,
    ClusterConfig,
    Config,
    DataConfig,
    DeviceConfig,
    DeviceKind,
    DType,
    LinkConfig,
    ModelConfig,
    Norm,
    OptimConfig,
    Position,
    PrecisionConfig,
    Recompute,
    RecomputeConfig,
    Schedule,
    SourceConfig,
    TrainConfig,
    VerifyConfig,
    ZeroBackend,
)
from orchestrate.plan.layout import AXES, ParallelDims
from orchestrate.plan.pipeline.stages import from_sizes, split_layers
from orchestrate.plan.placement.place import place
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import build_cluster
from orchestrate.train.verify import reference_plan

STEPS = 2
GLOBAL_BATCH = 8

GPT = ModelConfig(
    name="gpt", layers=4, hidden=32, heads=4, ffn_hidden=64, vocab=101, seq=16, tied_embeddings=True
)
"""GPT-2 style. 101 words: no degree divides them, so the vocabulary is padded."""

LLAMA = ModelConfig(
    name="llama",
    layers=4,
    hidden=32,
    heads=4,
    kv_heads=2,
    ffn_hidden=48,
    vocab=101,
    seq=16,
    norm=Norm.rmsnorm,
    activation=Activation.swiglu,
    position=Position.rotary,
    bias=False,
    tied_embeddings=False,
)
"""Llama style, two key-value heads: tp=4 exceeds them."""

DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1}


@dataclass(frozen=True)
class Layout:
    """A model in a layout; every field has the value of a single process by default."""

    model: ModelConfig = GPT
    tp: int = 1
    pp: int = 1
    dp: int = 1
    vpp: int = 1
    sp: bool = False
    schedule: Schedule = Schedule.one_f_one_b
    zero: int = 0
    engine: ZeroBackend = ZeroBackend.fsdp2
    recompute: Recompute = Recompute.none
    recompute_layers: int | None = None
    stage_layers: tuple[int, ...] | None = None
    micro_batch: int = 1
    order: tuple[str, ...] = AXES
    dtype: DType = DType.fp32

    def __str__(self) -> str:
        model = self.model.name + ("+dropout" if self.model.dropout else "")
        parts = [model, *(f"{a}{getattr(self, a)}" for a in ("tp", "pp", "dp") if getattr(self, a) > 1)]
        parts += ["sp"] * self.sp
        if self.pp > 1:
            parts.append(self.schedule.value + (f"x{self.vpp}" if self.vpp > 1 else ""))
        if self.stage_layers:
            parts.append("stages" + "-".join(map(str, self.stage_layers)))
        if self.zero:
            parts.append(f"zero{self.zero}-{self.engine.value}")
        if self.recompute is not Recompute.none:
            first = "" if self.recompute_layers is None else str(self.recompute_layers)
            parts.append(f"{self.recompute.value}{first}")
        parts += [] if self.micro_batch == 1 else [f"micro{self.micro_batch}"]
        parts += [] if self.order == AXES else ["order-" + "-".join(self.order)]
        parts += [] if self.dtype is DType.fp32 else [self.dtype.value]
        return " ".join(parts)

    @property
    def world(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def alone(self) -> Layout:
        """One process on the same model, precision and micro-batches."""
        return Layout(model=self.model, micro_batch=self.micro_batch, dtype=self.dtype)


References = Callable[[Layout], dict[str, Any]]


def plan_of(layout: Layout) -> Plan:
    """The plan that puts ``layout`` on CPU devices, one node."""
    dims = ParallelDims(tp=layout.tp, pp=layout.pp, dp=layout.dp, vpp=layout.vpp, order=layout.order)
    cluster = build_cluster(_cluster(layout.world))
    stages = dims.pp * dims.vpp
    return Plan(
        cluster=cluster,
        model=layout.model,
        dims=dims,
        placement=place(cluster, dims),
        stages=from_sizes(layout.stage_layers)
        if layout.stage_layers
        else split_layers(layout.model.layers, stages, 1.0),
        schedule=layout.schedule,
        micro_batch=layout.micro_batch,
        global_batch=GLOBAL_BATCH,
        sequence_parallel=layout.sp,
        zero_stage=layout.zero,
        zero_engine=layout.engine,
        recompute=RecomputeConfig(layout.recompute, layout.recompute_layers),
    )


def config_of(layout: Layout) -> Config:
    """The rest of what training ``layout`` needs to know."""
    return Config(
        cluster=_cluster(layout.world),
        model=layout.model,
        data=DataConfig(SourceConfig("stdlib")),
        precision=PrecisionConfig(dtype=layout.dtype, initial_loss_scale=1024.0),
        optim=OptimConfig(lr=1e-3, eps=VerifyConfig().adam_eps),
        train=TrainConfig(steps=10, global_batch=GLOBAL_BATCH, clip=0.5, seed=7),
    )


def run(layout: Layout, steps: int = STEPS) -> dict[str, Any]:
    """Train ``layout`` on a rank of the pool; the record on rank 0, nothing on others."""
    import torch

    from orchestrate.mesh import build_context
    from orchestrate.train.record import record
    from orchestrate.train.setup import seed_everything

    plan, config, device = plan_of(layout), config_of(layout), torch.device("cpu")
    if layout == layout.alone:
        assert plan == reference_plan(plan)
    context = build_context(plan, device)
    seed_everything(config.train.seed, device)
    share = GLOBAL_BATCH // context.dp.size
    return record(
        plan,
        config,
        context,
        lambda step: batch_of(layout.model, step, context.dp.rank * share, share),
        steps,
    )


def batch_of(model: ModelConfig, step: int, first: int, count: int) -> Any:
    """Samples ``first`` … ``first + count - 1`` of the global batch of ``step``: random tokens."""
    import torch

    from orchestrate.data.loader import Batch

    generator = torch.Generator().manual_seed(100 + step)
    tokens = torch.randint(model.vocab, (GLOBAL_BATCH, model.seq + 1), generator=generator)
    samples = torch.arange(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH)
    return Batch(tokens[first : first + count], samples[first : first + count])


def with_dropout(model: ModelConfig) -> ModelConfig:
    return replace(model, **DROPOUT)  # type: ignore[arg-type]


def _cluster(devices: int) -> ClusterConfig:
    link = LinkConfig(bandwidth_gbps=10.0, latency_us=1.0)
    device = DeviceConfig(
        name="cpu",
        kind=DeviceKind.cpu,
        memory_gib=4.0,
        memory_bandwidth_gbps=10.0,
        peak_tflops={DType.fp32: 0.1},
    )
    return ClusterConfig(
        name="test", nodes=1, gpus_per_node=devices, device=device, nvlink=link, network=link
    )
