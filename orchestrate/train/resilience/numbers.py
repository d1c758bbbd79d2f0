"""Numbers that cannot be right: gradients that are not finite, and losses that jump."""

from __future__ import annotations

import math
import statistics
from collections import deque

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrate.config import Config, DType
from orchestrate.data.loader import Batch
from orchestrate.parallel.zero.base import Update
from orchestrate.train.setup import Replica

_RECENT = 20
_LEAST = 5
"""Logged losses that a median is taken of: at most, and at least."""
_NAMED = 3


class NumericalError(RuntimeError):
    """Numbers are not finite, and another try would not mend that."""

    final = True


class NonFinite:
    """Counts steps that were skipped over gradients that are not finite, and ends the run at the limit."""

    def __init__(self, config: Config, replica: Replica) -> None:
        self._config, self._replica = config, replica
        self._skipped = 0

    def check(self, step: int, batch: Batch, rate: float, update: Update) -> None:
        """Take note of what ``step`` did; the same on every rank.

        Raises:
            NumericalError: more steps were skipped than ``faults.nonfinite_budget`` allows.
        """
        # With fp16 an overflow is how the loss scale is found, until it cannot go down any more.
        expected = self._config.precision.dtype is DType.fp16 and update.loss_scale > 1
        if not update.skipped or expected:
            return
        self._skipped += 1
        budget = self._config.faults.nonfinite_budget
        if self._skipped > budget:
            where = self._find(batch, rate)
            raise NumericalError(
                f"step {step}: {where}; {self._skipped} steps were skipped over this and"
                f" faults.nonfinite_budget={budget}"
            )

    def _find(self, batch: Batch, rate: float) -> str:
        """What is not finite; goes through ``batch`` a second time, now with a look at every gradient."""
        replica = self._replica
        weights = self._named(replica.zero.parameters())
        if weights:
            return f"the weights of {_listed(weights)} are not finite"
        found: list[str] = []
        loss = replica.pipeline.run(batch)
        again = replica.zero.step(rate, observe=lambda gradients: found.extend(_not_finite(gradients)))
        names = self._gathered(found)
        if names:
            losses = "" if math.isfinite(loss.item()) else f", nor is the loss, {loss.item():g}"
            return f"the gradients of {_listed(names)} are not finite{losses}"
        if again.skipped:
            return f"the gradient norm is {again.grad_norm:g} though every gradient is finite"
        return "gradients were not finite, but are when the same batch is computed again: suspect a device"

    def _named(self, tensors: dict[str, Tensor]) -> list[str]:
        return self._gathered(_not_finite(tensors))

    def _gathered(self, mine: list[str]) -> list[str]:
        """The names that any rank has, in the order of the ranks; the same on every rank."""
        everyone: list[list[str]] = [mine]
        group = self._replica.context.world.group
        if group is not None:
            everyone = [[] for _ in range(self._replica.context.dims.world)]
            dist.all_gather_object(everyone, mine, group=group)
        return list(dict.fromkeys(name for theirs in everyone for name in theirs))


class Spikes:
    """Notices a logged loss that is ``factor`` times the median of those before."""

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def is_one(self, loss: float) -> bool:
        """Whether ``loss`` jumps; takes note of it."""
        usual = statistics.median(self._recent) if len(self._recent) >= _LEAST else math.inf
        jumps = self._factor is not None and math.isfinite(loss) and loss > self._factor * usual
        if math.isfinite(loss) and not jumps:
            self._recent.append(loss)
        return jumps


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more parameters" if more > 0 else "")
