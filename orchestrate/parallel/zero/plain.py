"""Stage 0: every replica holds everything; gradients are averaged once per step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orchestrate.config import Config
from orchestrate.mesh import ParallelContext
from orchestrate.parallel.gradients import clip_coefficient, global_norm, sum_over, sum_partial
from orchestrate.parallel.zero.base import Counters, Fragment, Observer, Update
from orchestrate.parallel.zero.scaler import LossScaler
from orchestrate.parallel.zero.slices import (
    adamw,
    decay_groups,
    even_shares,
    moments,
    named_slices,
    set_lr,
    set_updates,
    updates,
)
from orchestrate.plan.buckets import bucket_elements


class PlainEngine:
    """Replicated AdamW on what has accumulated in ``.grad`` when `step` is called."""

    works_from_grad = True

    def __init__(self, config: Config, ctx: ParallelContext, stages: Sequence[nn.Module]) -> None:
        self._ctx = ctx
        self._clip = config.train.clip
        self._slices, self._shardings = named_slices(stages)
        self._scaler = LossScaler(config.precision)
        self.bucket_elements = bucket_elements(sum(p.numel() for p in self._slices.values()))
        self._masters: dict[str, nn.Parameter] = {}
        for name, parameter in self._slices.items():
            low = parameter.dtype in (torch.bfloat16, torch.float16)
            if low:
                parameter.grad_dtype = torch.float32
            self._masters[name] = nn.Parameter(parameter.detach().float()) if low else parameter
        self._optimizer = adamw(decay_groups(self._masters, self._shardings, config.optim), config.optim)

    @property
    def loss_scale(self) -> float:
        return self._scaler.scale

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    @torch.no_grad()
    def step(self, lr: float, observe: Observer | None = None) -> Update:
        gradients = self._take_gradients()
        sum_partial(gradients, self._shardings, self.bucket_elements)
        if self._ctx.dp.group is not None:
            sum_over(list(gradients.values()), self._ctx.dp.group, self.bucket_elements)
        # The sums stay as they are until one factor brings mean, loss scale and clipping together.
        loss_scale = self._scaler.scale
        mean = 1.0 / (self._ctx.dp.size * loss_scale)
        if observe is not None:
            observe({name: gradient * mean for name, gradient in gradients.items()})
        norm = global_norm(gradients, self._shardings, self._ctx.model) * mean
        if self._scaler.update(finite=math.isfinite(norm)):
            return Update(norm, True, loss_scale)
        factor = mean * clip_coefficient(norm, self._clip)
        if factor != 1.0:
            torch._foreach_mul_(list(gradients.values()), factor)
        self._apply(gradients, lr)
        return Update(norm, False, loss_scale)

    def parameters(self) -> dict[str, Tensor]:
        return {name: master.detach() for name, master in self._masters.items()}

    def fragments(self) -> dict[str, Fragment]:
        shares = even_shares(self._shardings, self._ctx.dp.rank, self._ctx.dp.size)
        found = {}
        for name, master in self._masters.items():
            average, square = moments(self._optimizer, master)
            found[name] = Fragment(
                self._shardings[name],
                0,
                master.detach().view(-1),
                average.view(-1),
                square.view(-1),
                shares[name],
            )
        return found

    def counters(self) -> Counters:
        return Counters(updates(self._optimizer), self._scaler.scale, self._scaler.good_steps)

    @torch.no_grad()
    def restore(self, counters: Counters) -> None:
        self.fragments()
        set_updates(self._optimizer, counters.updates)
        self._scaler.restore(counters.loss_scale, counters.good_steps)
        self._copy_masters()

    def _take_gradients(self) -> dict[str, Tensor]:
        gradients = {}
        for name, parameter in self._slices.items():
            # A rank that did not use a parameter still takes part in the sums over it.
            wanted = parameter.grad_dtype or parameter.dtype
            gradients[name] = (
                torch.zeros_like(parameter, dtype=wanted) if parameter.grad is None else parameter.grad
            )
            parameter.grad = None
        return gradients

    def _apply(self, gradients: dict[str, Tensor], lr: float) -> None:
        for name, master in self._masters.items():
            master.grad = gradients[name]
        set_lr(self._optimizer, lr)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._copy_masters()

    def _copy_masters(self) -> None:
        copied = [name for name, master in self._masters.items() if master is not self._slices[name]]
        if copied:
            torch._foreach_copy_([self._slices[n] for n in copied], [self._masters[n] for n in copied])
