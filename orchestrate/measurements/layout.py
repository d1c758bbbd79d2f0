"""From a row of a table to what the planner's models of time and memory ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from orchestrate.config import (
    Activation,
    DType,
    ModelConfig,
    Norm,
    Position,
    RecomputeConfig,
    Schedule,
    ZeroBackend,
)
from orchestrate.measurements.schema import Precision, Run
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.pipeline.stages import from_sizes, split_layers
from orchestrate.plan.placement.place import Reach
from orchestrate.plan.plan import StageLayers
from orchestrate.plan.toolkits import Toolkit, toolkit_of
from orchestrate.topology.cluster import Cluster

DROPOUT = 0.1
"""What the first GPTs of Megatron were trained with; only whether there is any matters to cost."""
WITH_DROPOUT = (Toolkit.megatron_lm, Toolkit.megatron_deepspeed)


@dataclass(frozen=True)
class Setup:
    """A run as the planner's models see it."""

    run: Run
    cluster: Cluster
    model: ModelConfig
    dtype: DType
    fp32_gradients: bool
    """Whether gradients are kept in fp32 where weights are in 16 bit; False: as the toolkit does."""
    layout: Layout
    reach: Mapping[str, Reach]
    stages: tuple[StageLayers, ...]
    toolkit: Toolkit


def model_of(run: Run) -> ModelConfig:
    """The architecture that ``run`` trained.

    Tables tell a model's sizes and whether its feed-forward part is gated. Gated ones are taken for
    Llama's kind (RMSNorm, rotary positions, neither bias nor dropout), others for GPT's, with dropout
    where the toolkit is one that published its runs with it. Attention dropout is this planner's sign
    for attention that is not fused.
    """
    gated = run.gated_mlp
    return ModelConfig(
        name=run.model,
        layers=run.layers,
        hidden=run.hidden,
        heads=run.heads,
        ffn_hidden=run.ffn_hidden,
        vocab=run.vocab,
        seq=run.seq,
        kv_heads=run.kv_heads,
        norm=Norm.rmsnorm if gated else Norm.layernorm,
        activation=Activation.swiglu if gated else Activation.gelu,
        position=Position.rotary if gated else Position.learned,
        bias=not gated,
        tied_embeddings=run.tied_embeddings,
        dropout=DROPOUT if not gated and toolkit_of(run.software) in WITH_DROPOUT else 0.0,
        attention_dropout=0.0 if run.flash_attention else DROPOUT,
    )


def dtype_of(run: Run) -> DType:
    """The type of weights and activations."""
    return DType.fp16 if run.precision is Precision.fp16 else DType.bf16


def layout_of(run: Run) -> Layout:
    """The layout that ``run`` trained in."""
    vpp = run.vpp if run.pp > 1 else 1
    return Layout(
        dims=ParallelDims(run.tp, run.cp, run.dp, run.pp, vpp),
        micro_batch=run.micro_batch,
        global_batch=run.global_batch,
        # Virtual stages are what makes a schedule interleaved, and one stage needs no schedule.
        schedule=Schedule.interleaved if vpp > 1 else Schedule.one_f_one_b,
        sequence_parallel=run.sequence_parallel and run.tp > 1,
        zero_stage=run.zero,
        zero_engine=ZeroBackend.fsdp2 if run.zero == 3 else ZeroBackend.deepspeed,
        recompute=RecomputeConfig(run.recompute),
    )


def stages_of(run: Run) -> tuple[StageLayers, ...]:
    """How the toolkit cut the layers into virtual stages.

    nanotron deals layers and head by their weights. The others cut evenly, counting layers alone; where
    that leaves a rest, embedding and head count as a layer each, as in BLOOM's 70 layers on 12 stages
    and Llama 3's 126 on 128. Where that leaves one too, earlier stages are the smaller ones.
    """
    stages = run.pp * (run.vpp if run.pp > 1 else 1)
    if toolkit_of(run.software) is Toolkit.nanotron:
        return _by_weight(run, stages)
    if run.layers % stages == 0:
        return from_sizes([run.layers // stages] * stages)
    if (run.layers + 2) % stages == 0 and run.layers + 2 > stages:
        each = (run.layers + 2) // stages
        return from_sizes([each - 1, *[each] * (stages - 2), each - 1])
    if run.layers < stages:
        return from_sizes([1] * run.layers + [0] * (stages - run.layers))
    return split_layers(run.layers, stages, layer=1.0)


def _by_weight(run: Run, stages: int) -> tuple[StageLayers, ...]:
    """Layers as nanotron deals them; late stages may get none."""
    dealt = _dealt(run, stages)[1 : run.layers + 1]
    return from_sizes([dealt.count(stage) for stage in range(stages)])


def _dealt(run: Run, stages: int) -> list[int]:
    """The stage of each block: embedding, layers, norm, head, cast, loss. Each goes in order to the present
    stage, which is full once all blocks so far weigh its share of the whole. As nanotron builds a model
    (github.com/huggingface/nanotron, ``models/base.py``): a layer weighs its matrices with all heads
    counted, the head its matrix, the rest nothing. Its source fills a stage that is exactly full with one
    block more; in published runs it cannot have: on 2 and 4 stages, of a model whose head weighs as much
    as four of its 16 layers, ranks hold less than the tensors of one layer more."""
    layer = 4 * run.hidden * run.hidden + 3 * run.ffn_hidden * run.hidden
    weights = [0, *[layer] * run.layers, 0, run.vocab * run.hidden, 0, 0]
    stage, found = 0, []
    for so_far in accumulate(weights):
        found.append(stage)
        if so_far * stages >= sum(weights) * (stage + 1):
            stage = min(stage + 1, stages - 1)
    return found


def why_not(run: Run) -> str | None:
    """Why the toolkit cannot train in this layout at all, however much memory there is; None where it
    can. nanotron needs a block, if only the loss, on every stage, and its 1F1B schedule enough
    micro-batches to warm up the first (``pipeline_parallel/engine.py`` asserts it)."""
    if toolkit_of(run.software) is not Toolkit.nanotron:
        return None
    if (idle := run.pp - 1 - _dealt(run, run.pp)[-1]) > 0:
        return f"nanotron leaves {idle} of {run.pp} stages without a block"
    if (micro_batches := layout_of(run).micro_batches) < (least := run.pp - 1):
        return f"nanotron warms up {run.pp} stages with {least} micro-batches, and there are {micro_batches}"
    return None


def setup(run: Run, cluster: Cluster, reach: Mapping[str, Reach]) -> Setup:
    """``run`` on ``cluster``, its groups of ranks spanning ``reach``."""
    return Setup(
        run=run,
        cluster=cluster,
        model=model_of(run),
        dtype=dtype_of(run),
        fp32_gradients=run.precision is Precision.bf16_fp32grad,
        layout=layout_of(run),
        reach=reach,
        stages=stages_of(run),
        toolkit=toolkit_of(run.software),
    )
