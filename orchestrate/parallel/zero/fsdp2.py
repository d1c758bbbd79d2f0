"""ZeRO 1 to 3 by PyTorch's ``fully_shard``: parameters, gradients and optimizer state cut over dp.

All stages keep the master weights as shards and differ in when the rest is whole:

==========  ==============================  =====================================
stage       whole weights                   gradients reduced to shards
==========  ==============================  =====================================
1           from first forward to the step  once per step
2           from first forward to the step  after every micro-batch's backward
3           around each layer's use         after every micro-batch's backward
==========  ==============================  =====================================

(Rajbhandari et al. 2020, arXiv:1910.02054; Zhao et al. 2023, arXiv:2304.11277.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from orchestrate.config import Config
from orchestrate.mesh import ParallelContext
from orchestrate.model.init import fill
from orchestrate.parallel.gradients import clip_coefficient, global_norm, sum_partial
from orchestrate.parallel.zero.base import Counters, Fragment, Observer, Update
from orchestrate.parallel.zero.scaler import LossScaler
from orchestrate.parallel.zero.slices import (
    adamw,
    all_owned,
    decay_groups,
    moments,
    named_slices,
    set_lr,
    set_updates,
    updates,
)
from orchestrate.plan.buckets import bucket_elements


class FSDPEngine:
    """AdamW on the shards that ``fully_shard`` keeps.

    FSDP's own hooks gather weights and reduce gradients, whoever runs the backward.
    """

    works_from_grad = False

    def __init__(
        self, config: Config, ctx: ParallelContext, stages: Sequence[nn.Module], zero_stage: int
    ) -> None:
        self._ctx = ctx
        self._clip = config.train.clip
        self._zero_stage = zero_stage
        self._scaler = LossScaler(config.precision)
        self._root = _shard(stages, ctx, zero_stage, config.train.seed)
        parameters, self._shardings = named_slices(stages)
        self._shards = cast(dict[str, DTensor], parameters)
        self.bucket_elements = bucket_elements(sum(p.to_local().numel() for p in self._shards.values()))
        # The optimizer works on the local tensors: on DTensors each of its calls costs a dispatch.
        self._masters = {name: nn.Parameter(shard.to_local()) for name, shard in self._shards.items()}
        self._optimizer = adamw(decay_groups(self._masters, self._shardings, config.optim), config.optim)
        for stage in stages:
            weight_gradients: Any = getattr(stage, "weight_gradients", None)
            if weight_gradients is not None:
                weight_gradients.finished = self._finish_backward

    @property
    def loss_scale(self) -> float:
        return self._scaler.scale

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    @torch.no_grad()
    def step(self, lr: float, observe: Observer | None = None) -> Update:
        self._reduce_the_rest()
        gradients = self._take_gradients()
        # Ranks that share a parameter cut it alike: the sum of shards is the shard of the sum.
        sum_partial(gradients, self._shardings, self.bucket_elements)
        loss_scale = self._scaler.scale
        if observe is not None:
            observe({name: self._whole(name, g / loss_scale) for name, g in gradients.items()})
        norm = global_norm(gradients, self._shardings, self._ctx.world) / loss_scale
        skipped = self._scaler.update(finite=math.isfinite(norm))
        if not skipped:
            self._apply(gradients, lr, clip_coefficient(norm, self._clip) / loss_scale)
        self._gather_anew()
        return Update(norm, skipped, loss_scale)

    @torch.no_grad()
    def parameters(self) -> dict[str, Tensor]:
        return {name: self._whole(name, master.detach()) for name, master in self._masters.items()}

    def fragments(self) -> dict[str, Fragment]:
        found = {}
        for name, master in self._masters.items():
            if master.numel() == 0:
                continue
            shape = self._shards[name].shape
            rows = -(-shape[0] // self._ctx.dp.size)  # as torch.chunk cuts
            first = self._ctx.dp.rank * rows * math.prod(shape[1:])
            average, square = moments(self._optimizer, master)
            sharding = self._shardings[name]
            found[name] = Fragment(
                sharding,
                first,
                master.detach().view(-1),
                average.view(-1),
                square.view(-1),
                all_owned(sharding, first, master.numel()),
            )
        return found

    def counters(self) -> Counters:
        return Counters(updates(self._optimizer), self._scaler.scale, self._scaler.good_steps)

    def restore(self, counters: Counters) -> None:
        for master in self._masters.values():
            moments(self._optimizer, master)
        set_updates(self._optimizer, counters.updates)
        self._scaler.restore(counters.loss_scale, counters.good_steps)
        self._gather_anew()

    def _gather_anew(self) -> None:
        """Weights that stayed whole are gathered from the masters again by the next forward."""
        for module in self._root.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _finish_backward(self) -> None:
        # What autograd calls at the end of a backward through the root: every unit takes in the
        # gradients it has not seen yet. There is no public call for gradients from elsewhere.
        fully_shard.state(self._root)._root_post_backward_final_callback()  # type: ignore[attr-defined]

    def _reduce_the_rest(self) -> None:
        """Reduce what has accumulated whole, wait for it, and end the step for FSDP."""
        self._root.set_requires_gradient_sync(True)
        self._root.set_is_last_backward(True)
        self._finish_backward()
        self._root.set_requires_gradient_sync(self._zero_stage > 1)
        self._root.set_is_last_backward(False)

    def _take_gradients(self) -> dict[str, Tensor]:
        gradients = {}
        for name, shard in self._shards.items():
            gradient = cast(DTensor | None, shard.grad)
            local = shard.to_local()
            gradients[name] = torch.zeros_like(local) if gradient is None else gradient.to_local()
            shard.grad = None
        return gradients

    def _apply(self, gradients: dict[str, Tensor], lr: float, factor: float) -> None:
        if factor != 1.0:
            torch._foreach_mul_(list(gradients.values()), factor)
        for name, master in self._masters.items():
            master.grad = gradients[name]
        set_lr(self._optimizer, lr)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _whole(self, name: str, local: Tensor) -> Tensor:
        shard = self._shards[name]
        whole = DTensor.from_local(
            local,
            shard.device_mesh,
            shard.placements,
            run_check=False,
            shape=shard.shape,
            stride=shard.stride(),
        )
        return whole.full_tensor()


class _Root(nn.Module):
    """All virtual stages of this rank under one root, so that they share streams and parameters."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self) -> None:
        """Nothing; FSDP takes for its root the module whose forward comes first."""


def _shard(stages: Sequence[nn.Module], ctx: ParallelContext, zero_stage: int, seed: int) -> Any:
    """Shard ``stages`` in place, layer by layer, each filled only then; their common root."""
    root = _Root(stages)
    low = next(root.parameters()).dtype in (torch.bfloat16, torch.float16)
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if low:
        policy = MixedPrecisionPolicy(next(root.parameters()).dtype, torch.float32, cast_forward_inputs=False)
    one_stage = ctx.pp.size == 1 and len(stages) == 1

    def shard(module: nn.Module, free_after_forward: bool) -> None:
        fill(module, stages, ctx.device, seed)
        if low:
            module.float()
        fully_shard(module, mesh=ctx.mesh["dp"], mp_policy=policy, reshard_after_forward=free_after_forward)

    for module in (*_shared_modules(stages), *(layer for stage in stages for layer in _layers(stage))):
        shard(module, zero_stage == 3)
    for stage in stages:
        # What is left of a stage, embedding or head, is used at once in the backward of a lone stage.
        shard(stage, zero_stage == 3 and not one_stage)
    fully_shard(root, mesh=ctx.mesh["dp"], mp_policy=policy)
    root()
    sharded = cast(FSDPModule, root)
    sharded.set_requires_gradient_sync(zero_stage > 1)
    sharded.set_reshard_after_backward(zero_stage == 3)
    sharded.set_is_last_backward(False)
    for unit in root.modules():
        if isinstance(unit, FSDPModule):
            unit.set_force_sum_reduction_for_comms(ctx.device.type == "cpu")  # gloo has no average
            if low:
                _accumulate_in_fp32(unit)
    return sharded


def _accumulate_in_fp32(unit: FSDPModule) -> None:
    # Whole weights are the same Parameter objects at every use; autograd adds to their fp32 .grad.
    unit.unshard()
    for parameter in cast(nn.Module, unit).parameters():
        if not isinstance(parameter, DTensor):
            parameter.grad_dtype = torch.float32
    unit.reshard()


def _layers(stage: nn.Module) -> list[nn.Module]:
    layers = getattr(stage, "layers", None)
    return list(layers.children()) if isinstance(layers, nn.Module) else []


def _shared_modules(stages: Sequence[nn.Module]) -> list[nn.Module]:
    """Modules that several stages have in common; each becomes a unit of its own."""
    count = Counter(
        module
        for stage in stages
        for module in stage.modules()
        if next(module.parameters(False), None) is not None
    )
    return [module for module, uses in count.items() if uses > 1]
