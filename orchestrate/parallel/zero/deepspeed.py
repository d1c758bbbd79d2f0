"""ZeRO by DeepSpeed: stage 1 under any pipeline schedule, stages 2 and 3 without a pipeline.

Stage 1 works on what has accumulated in ``.grad`` when `DeepSpeedEngine.step` is called, so it does
not matter who ran the backward; no hook of DeepSpeed's is installed. Stages 2 and 3 reduce inside
DeepSpeed's own backward, which a pipeline runtime does not call. All three sum the gradients of a
step in fp32: stage 1 because ``.grad`` itself is fp32 (``grad_dtype``), 2 and 3 in the fp32 partition
that DeepSpeed adds each micro-batch to (``grad_accum_dtype``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrate.config import Config
from orchestrate.mesh import ParallelContext
from orchestrate.model.sharding import Sharding
from orchestrate.parallel.gradients import sum_partial
from orchestrate.parallel.zero.base import Counters, Fragment, Observer, Update
from orchestrate.parallel.zero.deepspeed_setup import engine_config, import_deepspeed, model_parallel_unit
from orchestrate.parallel.zero.scaler import LossScaler
from orchestrate.parallel.zero.slices import (
    adamw,
    all_owned,
    decay_groups,
    moments,
    named_slices,
    set_updates,
    updates,
)
from orchestrate.plan.buckets import bucket_elements
from orchestrate.plan.plan import Plan


class DeepSpeedEngine:
    """DeepSpeed's ZeRO optimizers, told what they cannot know of the layout."""

    def __init__(self, plan: Plan, config: Config, ctx: ParallelContext, stages: Sequence[nn.Module]) -> None:
        deepspeed = import_deepspeed(ctx.device)
        self._zero_stage = plan.zero_stage
        self._dp = ctx.dp
        self.works_from_grad = plan.zero_stage == 1
        self._slices, self._shardings = named_slices(stages)
        self.bucket_elements = bucket_elements(sum(p.numel() for p in self._slices.values()))
        for name, parameter in self._slices.items():
            _mark(parameter, self._shardings[name])
            if self._zero_stage == 1:
                parameter.grad_dtype = torch.promote_types(parameter.dtype, torch.float32)
            else:
                for group in self._shardings[name].partial:
                    parameter.register_hook(_summing(group))  # type: ignore[no-untyped-call]
        # ZeRO-3 hooks into the module that is called; stage 1 needs only one that holds all.
        module = stages[0] if len(stages) == 1 else nn.ModuleList(stages)
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=adamw(decay_groups(self._slices, self._shardings, config.optim), config.optim),
            config=engine_config(plan, config, self.bucket_elements),
            mpu=model_parallel_unit(ctx),
            dist_init_required=False,
        )
        self._optimizer: Any = self._engine.optimizer
        # One rule for the loss scale whichever the engine, and fp16 also where DeepSpeed refuses it.
        self._scaler = LossScaler(config.precision)
        self._optimizer.override_loss_scale(self._scaler.scale)

    @property
    def loss_scale(self) -> float:
        return self._scaler.scale

    def backward(self, loss: Tensor) -> None:
        if self._zero_stage == 1:
            torch.autograd.backward(loss)
            return
        # What the engine's own forward would do first; ours is the module's.
        self._optimizer.clear_backward_seen_flag()
        self._engine.backward(loss / self.loss_scale, scale_wrt_gas=False)  # which scales it again

    def step(self, lr: float, observe: Observer | None = None) -> Update:
        # The parts of the engine's step(), with room between reduction and update.
        loss_scale = self._scaler.scale
        if self._zero_stage == 1:
            self._reduce()
        else:
            self._optimizer.finalize_gradient_accumulation_boundary()
        if observe is not None:
            observe(self._full("safe_get_full_grad", loss_scale))
        self._optimizer.set_lr(lr)
        self._optimizer.step()
        self._optimizer.zero_grad()
        skipped = self._scaler.update(finite=not self._optimizer.overflow)
        self._optimizer.override_loss_scale(self._scaler.scale)
        norm = math.inf if skipped else float(self._optimizer._global_grad_norm)
        return Update(norm, skipped, loss_scale)

    def parameters(self) -> dict[str, Tensor]:
        return self._full("safe_get_full_fp32_param", 1.0)

    def fragments(self) -> dict[str, Fragment]:
        found = {}
        for name, parameter in self._slices.items():
            sharding = self._shardings[name]
            flat, offset, first, length = self._place(parameter, math.prod(sharding.local_shape))
            if length > 0:
                average, square = moments(self._inner, flat)
                found[name] = Fragment(
                    sharding,
                    first,
                    flat.detach().narrow(0, offset, length),
                    average.narrow(0, offset, length),
                    square.narrow(0, offset, length),
                    all_owned(sharding, first, length),
                )
        return found

    def counters(self) -> Counters:
        return Counters(updates(self._inner), self._scaler.scale, self._scaler.good_steps)

    @torch.no_grad()
    def restore(self, counters: Counters) -> None:
        optimizer = self._optimizer
        for flat in self._partitions:
            moments(self._inner, flat)
        set_updates(self._inner, counters.updates)
        self._scaler.restore(counters.loss_scale, counters.good_steps)
        optimizer.override_loss_scale(self._scaler.scale)
        if self._zero_stage < 3:
            optimizer.update_lp_params()
            return
        # As at the end of its step: the shards from the masters, then what stays whole from the shards.
        optimizer._partition_all_parameters()
        for group in range(len(self._partitions)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.invalidate_secondary_tensor()
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    @property
    def _inner(self) -> torch.optim.Optimizer:
        """The AdamW that DeepSpeed drives."""
        inner: torch.optim.Optimizer = self._optimizer.optimizer
        return inner

    @property
    def _partitions(self) -> Sequence[Tensor]:
        """This rank's flat runs of masters, which AdamW takes for its parameters."""
        optimizer = self._optimizer
        partitions: Sequence[Tensor] = (
            optimizer.fp32_partitioned_groups_flat
            if self._zero_stage == 3
            else optimizer.single_partition_of_fp32_groups
        )
        return partitions

    def _place(self, parameter: nn.Parameter, elements: int) -> tuple[Tensor, int, int, int]:
        """Where this rank's share of ``parameter`` (of so many ``elements``) is: the partition, where
        it starts there, its first element and how many they are."""
        if self._zero_stage == 3:
            optimizer = self._optimizer
            group, offset, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
            first = min(self._dp.rank * count, elements)
            return self._partitions[group], offset, first, min(count, elements - first)
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return self._partitions[0], 0, 0, 0
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        return self._partitions[mapping.param_group_index], here.start, there.start, here.numel

    @torch.no_grad()
    def _reduce(self) -> None:
        for parameter in self._slices.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter, dtype=parameter.grad_dtype)
        gradients = {n: p.grad for n, p in self._slices.items() if p.grad is not None}
        sum_partial(gradients, self._shardings, self.bucket_elements)
        self._optimizer.set_gradient_accumulation_boundary(True)
        self._optimizer.reduce_gradients(pipeline_parallel=False)

    @torch.no_grad()
    def _full(self, reader: str, divisor: float) -> dict[str, Tensor]:
        from deepspeed import utils

        read: Callable[[nn.Parameter], Tensor] = getattr(utils, reader)
        full = {}
        for name, parameter in self._slices.items():
            value = read(parameter)
            full[name] = value / divisor if divisor != 1.0 else value
        return full


def _mark(parameter: nn.Parameter, sharding: Sharding) -> None:
    """Tell DeepSpeed's norm to count ``parameter`` here if and only if this rank owns it."""
    flags: Any = parameter
    flags.model_parallel = sharding.owner
    flags.ds_pipe_replicated = not sharding.owner


def _summing(group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    def total(gradient: Tensor) -> Tensor:
        wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32), copy=True)
        dist.all_reduce(wide, group=group)
        return wide.to(gradient.dtype)

    return total
