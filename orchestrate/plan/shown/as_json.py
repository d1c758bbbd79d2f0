"""A plan, and answers about plans, in plain values that JSON can write, for programs."""

from __future__ import annotations

from typing import Any

from orchestrate.config import DType, dump
from orchestrate.plan.flops import model_flops
from orchestrate.plan.parameters import count_parameters
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.why import Verdict
from orchestrate.plan.shown.figures import budget, figures, plan_figures


def plan_json(plan: Plan, dtype: DType | None = None, tokens: float | None = None) -> dict[str, Any]:
    """``plan`` in plain values that JSON can write, with what follows from it: totals and reasons counted,
    and with the ``dtype`` of weights and activations the figures of it and of the next best; with
    ``tokens`` to train on also the days, and the cost where it is known."""
    values: dict[str, Any] = dump(plan)
    of_a_step = plan.global_batch * plan.model.seq
    values["derived"] = {
        "world": plan.dims.world,
        "parameters": count_parameters(plan.model).total,
        "micro_batches": plan.micro_batches,
        "step_time_s": plan.time.step,
        "tokens_per_s": of_a_step / plan.time.step if plan.time.terms else None,
        "model_flops_per_step": model_flops(plan.model, of_a_step),
        "memory_bytes": [estimate.total for estimate in plan.memory],
        "risk": max((estimate.probability_of_running_out for estimate in plan.memory), default=None),
        "layout": str(plan.layout),
        "rejections": {rejection.reason: rejection.layouts for rejection in plan.rejected},
    }
    if dtype is not None and plan.time.terms:
        values["derived"] |= dump(plan_figures(plan, dtype))
        for other, written in zip(plan.alternatives, values["alternatives"], strict=True):
            written["name"] = str(other.layout)
            written["derived"] = {
                "step_time_s": other.time.step,
                "memory_bytes": [estimate.total for estimate in other.memory],
                "risk": max(estimate.probability_of_running_out for estimate in other.memory),
                **dump(figures(plan, dtype, (other.layout, other.stages, other.time))),
            }
    if tokens is not None and plan.time.terms:
        values["derived"] |= {"training": dump(budget(plan, tokens))}
    return values


def why_json(verdict: Verdict) -> dict[str, Any]:
    """What would become of the layouts that were asked about."""
    best = verdict.best
    values = {"asked": verdict.asked, "sentences": list(verdict.sentences), "layout": None}
    if best is None:
        return values
    return values | {
        "layout": str(best.layout),
        "step_time_s": best.time.step,
        "time": dump(best.time),
        "memory_bytes": [estimate.total for estimate in best.memory],
        "risk": max(estimate.probability_of_running_out for estimate in best.memory),
    }
