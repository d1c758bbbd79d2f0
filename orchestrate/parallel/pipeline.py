"""Micro-batches through the stages: the one place that knows whether there is a pipeline.

The schedules are those of ``torch.distributed.pipelining``. Each stage computes the loss itself on the
last stage, so no logits outlive their micro-batch, and what a schedule calls the loss function only
scales it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)

from orchestrate.config import Schedule
from orchestrate.data.loader import Batch
from orchestrate.mesh import ParallelContext
from orchestrate.model.gpt import GPTStage
from orchestrate.parallel.stage import Stage
from orchestrate.parallel.zero.base import ZeroEngine
from orchestrate.plan.plan import Plan


class Pipeline(ABC):
    """Runs one replica's share of a batch."""

    @abstractmethod
    def run(self, batch: Batch) -> Tensor:
        """Forward and backward of every micro-batch; gradients are left to the ZeRO engine.

        Returns:
            The replica's mean loss per token: a detached scalar, zero on ranks without the last stage.
        """

    @abstractmethod
    def evaluate(self, batch: Batch) -> Tensor:
        """The same mean loss without gradients and without dropout."""


def build_pipeline(
    plan: Plan,
    context: ParallelContext,
    stages: Sequence[GPTStage],
    zero: ZeroEngine,
    activation_dtype: torch.dtype,
) -> Pipeline:
    """The pipeline of this rank over its virtual ``stages``, whose parameters ``zero`` manages."""
    if plan.dims.pp == 1:
        return _OneStage(plan, stages[0], zero)
    return _Scheduled(plan, context, stages, zero, activation_dtype)


class _OneStage(Pipeline):
    """No pipeline: micro-batches one after another."""

    def __init__(self, plan: Plan, stage: GPTStage, zero: ZeroEngine) -> None:
        self._micro_batch, self._stage, self._zero = plan.micro_batch, stage, zero

    def run(self, batch: Batch) -> Tensor:
        self._stage.train()
        micro_batches = _micro_batches(batch, self._micro_batch)
        losses = []
        for tokens, labels, samples in micro_batches:
            loss = self._stage(tokens, labels=labels, samples=samples)
            self._zero.backward(loss * (self._zero.loss_scale / len(micro_batches)))
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        self._stage.eval()
        losses = [
            self._stage(tokens, labels=labels, samples=samples)
            for tokens, labels, samples in _micro_batches(batch, self._micro_batch)
        ]
        return torch.stack(losses).mean()


class _Scheduled(Pipeline):
    """Stages on several ranks, in the order of a schedule."""

    def __init__(
        self,
        plan: Plan,
        context: ParallelContext,
        stages: Sequence[GPTStage],
        zero: ZeroEngine,
        dtype: torch.dtype,
    ) -> None:
        self._plan, self._context, self._zero = plan, context, zero
        self._stages = dict(zip(plan.stages_of(context.coordinates.pp), stages, strict=True))
        cut = context.tp.size if plan.sequence_parallel else 1
        self._hidden = torch.empty(
            (plan.model.seq // cut, plan.micro_batch, plan.model.hidden), dtype=dtype, device="meta"
        )
        wrapped = [
            _stage(plan, context, module, index, self._hidden) for index, module in self._stages.items()
        ]
        self._schedule = _schedule(plan, wrapped, self._scaled)

    def _scaled(self, loss: Tensor, _labels: Tensor) -> Tensor:
        return loss * (self._zero.loss_scale / self._plan.micro_batches)

    def run(self, batch: Batch) -> Tensor:
        for module in self._stages.values():
            module.train()
        tokens, labels = batch.tokens[:, :-1], batch.tokens[:, 1:]
        losses: list[Tensor] = []
        self._schedule.step(
            *((tokens,) if 0 in self._stages else ()),
            target=labels,
            losses=losses,
            return_outputs=False,
            labels=labels,
            samples=batch.samples,
        )
        # Only the rank of the last stage has losses, each already divided by their number.
        return sum((loss.detach() for loss in losses), torch.zeros((), device=self._context.device)) / (
            self._zero.loss_scale
        )

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        # A forward needs no schedule: stage by stage, each micro-batch is sent on as soon as it is done.
        micro_batches = _micro_batches(batch, self._plan.micro_batch)
        waiting: dict[tuple[int, int], Tensor] = {}
        sending, losses = [], []
        for index, module in self._stages.items():
            module.eval()
            for number, (tokens, labels, samples) in enumerate(micro_batches):
                x = tokens if index == 0 else waiting.pop((index, number), None)
                if x is None:
                    x = torch.empty_like(self._hidden, device=self._context.device)
                    dist.recv(x, self._peer(index - 1), group=self._link(index))
                out = module(x, labels=labels, samples=samples)
                if index == len(self._plan.stages) - 1:
                    losses.append(out)
                elif index + 1 in self._stages:
                    waiting[index + 1, number] = out
                else:
                    sending.append((dist.isend(out, self._peer(index + 1), group=self._link(index + 1)), out))
        for work, _out in sending:
            assert work is not None
            work.wait()
        return torch.stack(losses).mean() if losses else torch.zeros((), device=self._context.device)

    def _peer(self, stage: int) -> int:
        return self._context.pp.ranks[self._plan.pipeline_rank(stage)]

    def _link(self, stage: int) -> dist.ProcessGroup | None:
        """The group in which `evaluate` hands micro-batches to ``stage``.

        NCCL runs a group's messages on a rank strictly in the order of their calls, each until the
        other side takes part. Were the way back to a lower rank in the group of the way up, the last
        rank of an interleaved pipeline would wait for the first to receive, which still sends.
        """
        rank, before = self._plan.pipeline_rank(stage), self._plan.pipeline_rank(stage - 1)
        return (self._context.pp if rank > before else self._context.model).group


def _micro_batches(batch: Batch, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Token ids, labels and sample numbers of each micro-batch of ``size`` sequences."""
    tokens, samples = torch.split(batch.tokens, size), torch.split(batch.samples, size)
    return [(t[:, :-1], t[:, 1:], s) for t, s in zip(tokens, samples, strict=True)]


class _Opaque(nn.Module):
    """Hides what kind of module a stage is.

    Where torch's pipeline sees an FSDP module, it decides itself when gradients are reduced and
    weights freed, in one way for all ZeRO stages. That is the engine's to decide.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _stage(plan: Plan, context: ParallelContext, module: GPTStage, index: int, hidden: Tensor) -> Stage:
    """The torch stage around ``module``, told the shapes that cross its borders."""
    split_backward = plan.schedule is Schedule.zbv
    module.weight_gradients.deferred = split_backward
    hidden = hidden.detach().requires_grad_()
    tokens = torch.empty((plan.micro_batch, plan.model.seq), dtype=torch.int64, device="meta")
    loss_dtype = torch.promote_types(hidden.dtype, torch.float32)
    loss = torch.empty((), dtype=loss_dtype, device="meta", requires_grad=True)
    return Stage(
        _Opaque(module),
        index,
        len(plan.stages),
        context.device,
        input_args=tokens if module.is_first else hidden,
        output_args=loss if module.is_last else hidden,
        group=context.pp.group,
        dw_builder=module.weight_gradients.take if split_backward else None,
    )


def _schedule(plan: Plan, stages: list[Any], loss: Any) -> Any:
    options: dict[str, Any] = {"n_microbatches": plan.micro_batches, "loss_fn": loss, "scale_grads": False}
    match plan.schedule:
        case Schedule.gpipe:
            return ScheduleGPipe(stages[0], **options)
        case Schedule.one_f_one_b:
            return Schedule1F1B(stages[0], **options)
        case Schedule.interleaved:
            return ScheduleInterleaved1F1B(stages, **options)
        case Schedule.zbv:
            return ScheduleZBVZeroBubble(stages, **options)
