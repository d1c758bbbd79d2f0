"""Data parallelism with ZeRO, behind one seam: see `orchestrate.parallel.zero.base.ZeroEngine`.

Nothing is imported before an engine is built; deepspeed, seconds to import, is loaded by its own
engine alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrate.config import ZeroBackend

if TYPE_CHECKING:
    import torch
    from torch import nn

    from orchestrate.config import Config, PrecisionConfig
    from orchestrate.mesh import ParallelContext
    from orchestrate.parallel.zero.base import ZeroEngine
    from orchestrate.plan.plan import Plan


def parameter_dtype(plan: Plan, precision: PrecisionConfig) -> torch.dtype:
    """The dtype to build stages in; engines keep their own fp32 masters of 16-bit weights."""
    import torch

    return {
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
        "fp32": torch.float32,
        "fp64": torch.float64,
    }[precision.dtype.value]


def fills_stages(plan: Plan) -> bool:
    """Whether the engine of ``plan`` gives parameters that are on the meta device their memory and initial
    values, part by part as it cuts them, so that no rank ever holds a whole stage of them."""
    return plan.zero_stage > 0 and plan.zero_engine is ZeroBackend.fsdp2


def build_engine(plan: Plan, config: Config, ctx: ParallelContext, stages: Sequence[nn.Module]) -> ZeroEngine:
    """The engine of ``plan`` over this rank's ``stages``; collective. It owns their gradients from now on.

    Args:
        stages: modules with ``shardings``, in the dtype `parameter_dtype`, on the meta device only where
            it `fills_stages`; a parameter that two of them share is the same object in both.
    """
    if plan.zero_stage == 0:
        from orchestrate.parallel.zero.plain import PlainEngine

        return PlainEngine(config, ctx, stages)
    if plan.zero_engine is ZeroBackend.fsdp2:
        from orchestrate.parallel.zero.fsdp2 import FSDPEngine

        return FSDPEngine(config, ctx, stages, plan.zero_stage)
    from orchestrate.parallel.zero.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(plan, config, ctx, stages)
