"""The figures that people compare training runs by, of a plan or of one that came close."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.config import DType, Recompute
from orchestrate.plan.choice import Layout
from orchestrate.plan.flops import layer_flops, model_flops
from orchestrate.plan.plan import Plan, StageLayers, TimeEstimate

COMMUNICATION = ("tp communication", "cp communication", "pp communication", "dp communication")
"""Terms of a step in which a rank waits for bytes."""
COMPUTATION = ("compute", "recompute")
"""Terms in which it works on micro-batches."""


@dataclass(frozen=True)
class Figures:
    """Of one step."""

    tokens_per_s: float
    mfu: float
    """Share of the devices' peak that the model's own floating-point operations take up."""
    hfu: float
    """The same with those that are done again."""
    communication_to_computation: float
    """Exposed communication over compute and recomputation, of the slowest rank."""
    shard_efficiency: float
    """What a pipeline rank has to do, mean over most: 1 where all stages cost the same."""


@dataclass(frozen=True)
class Budget:
    """A whole training."""

    tokens: float
    days: float
    cost: float | None
    """In the currency of the device's price; None where that is not known."""


def figures(plan: Plan, dtype: DType, of: tuple[Layout, tuple[StageLayers, ...], TimeEstimate]) -> Figures:
    """Figures of a layout with its stages and its time, on the cluster and of the model of ``plan``; the
    weights and activations are of ``dtype``."""
    layout, stages, time = of
    model, tokens = plan.model, layout.global_batch * plan.model.seq
    peak = layout.dims.world * plan.cluster.device.peak_tflops[dtype] * 1e12
    again = tokens * _recomputed(plan, layout, stages)
    flops = model_flops(model, tokens)
    spent = {name: sum(time.terms.get(term, 0.0) for term in terms) for name, terms in _GROUPS.items()}
    busy = time.busy or (1.0,)
    return Figures(
        tokens_per_s=tokens / time.step,
        mfu=flops / time.step / peak,
        hfu=(flops + again) / time.step / peak,
        communication_to_computation=spent["communication"] / spent["computation"],
        shard_efficiency=sum(busy) / len(busy) / max(busy),
    )


_GROUPS = {"communication": COMMUNICATION, "computation": COMPUTATION}


def _recomputed(plan: Plan, layout: Layout, stages: tuple[StageLayers, ...]) -> float:
    """Floating-point operations per token of the second forward passes."""
    limit, mode = layout.recompute.layers, layout.recompute.mode
    layers = sum(len(stage) if limit is None else min(limit, len(stage)) for stage in stages)
    if mode is Recompute.full:
        return layers * layer_flops(plan.model)
    if mode is Recompute.selective:
        return layers * (layer_flops(plan.model) - layer_flops(plan.model, attention=0.0))
    return 0.0


def plan_figures(plan: Plan, dtype: DType) -> Figures:
    """Figures of ``plan`` itself."""
    return figures(plan, dtype, (plan.layout, plan.stages, plan.time))


def budget(plan: Plan, tokens: float) -> Budget:
    """What it takes to train on ``tokens`` tokens, without a single failure."""
    seconds = tokens / (plan.global_batch * plan.model.seq) * plan.time.step
    price = plan.cluster.device.price_per_hour
    cost = None if price is None else seconds / 3600 * price * plan.cluster.world
    return Budget(tokens, seconds / 86400, cost)
