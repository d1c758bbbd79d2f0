"""Seconds of an action that all ranks repeat at once, agreed on by all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

BLOCKS = 3
_MOST_REPEATS = 2000


@dataclass(frozen=True)
class Clock:
    """Times actions on ``device`` for about ``seconds`` each, three times over."""

    device: torch.device
    seconds: float
    alone: bool = False
    """Whether this process is the only one, with no group to agree with."""

    def measure(self, action: Callable[[], object] | None) -> float:
        """Seconds of one ``action``: the slowest rank's mean over many in a row, the median of three blocks.

        Every rank calls this at the same time; one without an action only takes part in agreeing. Many
        in a row rather than one at a time: on shared cores a rank works in slices of milliseconds, and a
        GPU's queue must not run dry.
        """
        self._block(action, 1)
        trial = self._block(action, 1)
        repeats = max(1, min(_MOST_REPEATS, math.ceil(self.seconds / max(trial, 1e-7))))
        return statistics.median(self._block(action, repeats) for _ in range(BLOCKS))

    def _block(self, action: Callable[[], object] | None, repeats: int) -> float:
        """Seconds of each of ``repeats``, until the slowest rank is done."""
        self._meet()
        started = time.perf_counter()
        if action is not None:
            for _ in range(repeats):
                action()
        self._finish()
        return self._slowest(time.perf_counter() - started) / repeats

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _meet(self) -> None:
        if not self.alone:
            dist.barrier()
        self._finish()

    def _slowest(self, seconds: float) -> float:
        if self.alone:
            return seconds
        longest = torch.tensor([seconds], dtype=torch.float64, device=self.device)
        dist.all_reduce(longest, op=dist.ReduceOp.MAX)
        return float(longest.item())
