"""Bringing DeepSpeed up quietly and without compiling anything, and its config from a plan."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from orchestrate.config import Config, DType
from orchestrate.mesh import ParallelContext
from orchestrate.plan.plan import Plan


def import_deepspeed(device: torch.device) -> Any:
    """The deepspeed module, its communication over the process group that already exists."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # or it probes, and says what it found
    import deepspeed

    # DeepSpeed's to mend: it calls them by names that torch will drop.
    old = r"`torch\.distributed\.(all_gather_into|reduce_scatter)_tensor` is deprecated"
    warnings.filterwarnings("ignore", old, FutureWarning)
    # Asked which of its ops could be compiled here, DeepSpeed runs the compiler on every rank; the one
    # op that it asks for is for collectives on a CPU that training never calls.
    deepspeed.ops.__compatible_ops__ = {}
    with _without_compiler():
        # Its engine imports Muon, which is nobody's choice here and whose decorator would import the
        # whole of torch's compiler: seconds of every rank's start.
        import deepspeed.runtime.zero.muon.muon_optimizer
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return deepspeed


@contextmanager
def _without_compiler() -> Iterator[None]:
    """`torch.compile` leaves functions as they are meanwhile."""
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCHDYNAMO_DISABLE"]
        else:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def model_parallel_unit(ctx: ParallelContext) -> SimpleNamespace:
    """What DeepSpeed calls an mpu: which ranks share a replica, and which hold the same slice."""
    dp, tp, pp = (ctx.mesh.get_group(axis) for axis in ("dp", "tp", "pp"))
    answers: dict[str, Any] = {
        "data_parallel_group": dp,
        "data_parallel_rank": ctx.dp.rank,
        "data_parallel_world_size": ctx.dp.size,
        "data_parallel_group_ranks": list(ctx.dp.ranks),
        "model_parallel_group": ctx.model.group,
        "model_parallel_rank": ctx.model.rank,
        "model_parallel_world_size": ctx.model.size,
        "tensor_model_parallel_group": tp,
        "tensor_model_parallel_rank": ctx.tp.rank,
        "tensor_model_parallel_world_size": ctx.tp.size,
        "pipeline_model_parallel_group": pp,
        "pipeline_model_parallel_rank": ctx.pp.rank,
        "pipeline_model_parallel_world_size": ctx.pp.size,
    }
    return SimpleNamespace(
        **{f"get_{name}": lambda answer=answer: answer for name, answer in answers.items()}
    )


def engine_config(plan: Plan, config: Config, bucket_elements: int) -> dict[str, Any]:
    """DeepSpeed's config of ``plan``.

    Args:
        bucket_elements: most elements in one message; DeepSpeed's own default is 5e8.
    """
    zero: dict[str, Any] = {
        "stage": plan.zero_stage,
        # Needs DeepSpeed's hooks in the backward, which stage 1 does without.
        "contiguous_gradients": plan.zero_stage == 2,
        "reduce_bucket_size": bucket_elements,
        "allgather_bucket_size": 2 * bucket_elements,
    }
    if plan.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": bucket_elements,
            # Norms and biases, not worth a message each, stay whole.
            "stage3_param_persistence_threshold": 10 * plan.model.hidden,
        }
    told: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.train.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "communication_data_type": "fp32",
        "steps_per_print": None,
        # Stages 2 and 3 add micro-batches up in this. Stage 1 must not accumulate beside .grad, which
        # is fp32 already: it does where this is not the parameters' dtype.
        "data_types": {"grad_accum_dtype": "fp32" if plan.zero_stage > 1 else config.precision.dtype.value},
    }
    if config.precision.dtype is DType.bf16:
        told["bf16"] = {"enabled": True, "check_grad_overflow": True}
    # fp16 it knows from the parameters alone: told of it, it wants a loss scale of its own, and
    # refuses CPUs without fp16 products.
    return told
