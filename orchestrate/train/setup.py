"""From plan and config to what trains: the one place that puts the parts of a rank together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from orchestrate.config import Config
from orchestrate.mesh import ParallelContext
from orchestrate.model.gpt import GPTStage, build_stages
from orchestrate.parallel.pipeline import Pipeline, build_pipeline
from orchestrate.parallel.zero import build_engine, fills_stages, parameter_dtype
from orchestrate.parallel.zero.base import ZeroEngine
from orchestrate.plan.plan import Plan


@dataclass(frozen=True)
class Replica:
    """This rank's part of the model and what moves it through a step."""

    context: ParallelContext
    stages: Sequence[GPTStage]
    """The virtual stages of this rank, first to last."""
    zero: ZeroEngine
    pipeline: Pipeline


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed every generator alike on all ranks, and ask for deterministic kernels where they are free.

    Initial weights, dropout and data have their own seeds by name and sample; this is for whatever
    else might draw a number.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if device.type == "cpu":
        # On CUDA the deterministic backward of fused attention costs a good part of the speed.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def build_replica(plan: Plan, config: Config, context: ParallelContext) -> Replica:
    """Build the stages of this rank with their initial weights, the engine and the pipeline; collective."""
    dtype = parameter_dtype(plan, config.precision)
    stages = build_stages(plan, context, dtype, config.train.seed, empty=fills_stages(plan))
    zero = build_engine(plan, config, context, stages)
    for stage in stages:
        stage.weight_gradients.direct = zero.works_from_grad
    pipeline = build_pipeline(plan, context, stages, zero, dtype)
    return Replica(context, stages, zero, pipeline)
