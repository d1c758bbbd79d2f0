"""Collectives along dim 0 of a tensor, as torch has them, for every backend."""

from __future__ import annotations

import torch
import torch.distributed as dist

from orchestrate.mesh import Axis


class Pending:
    """A collective under way. `wait` returns its result."""

    def __init__(
        self, work: dist.Work | None, result: torch.Tensor, parts: torch.Tensor | None = None
    ) -> None:
        self._work, self._result, self._parts = work, result, parts

    def wait(self) -> torch.Tensor:
        """Block (on CUDA: the current stream only) until done; the tensor that results."""
        if self._work is not None:
            self._work.wait()
        if self._parts is not None:
            torch.sum(self._parts, dim=0, out=self._result)
        return self._result


def all_reduce(x: torch.Tensor, axis: Axis) -> Pending:
    """Start summing ``x`` over ``axis``, in place."""
    if axis.group is None:
        return Pending(None, x)
    return Pending(dist.all_reduce(x, group=axis.group, async_op=True), x)


def all_gather(x: torch.Tensor, axis: Axis) -> Pending:
    """Start gathering: [n, …] on each of ``axis.size`` ranks to [n * size, …] on all."""
    if axis.group is None:
        return Pending(None, x)
    out = x.new_empty((x.shape[0] * axis.size, *x.shape[1:]))
    return Pending(dist.all_gather_single(out, x.contiguous(), group=axis.group, async_op=True), out)


def reduce_scatter(x: torch.Tensor, axis: Axis) -> Pending:
    """Start summing over ``axis`` and keeping one part: [n * size, …] to [n, …]."""
    if axis.group is None:
        return Pending(None, x)
    x = x.contiguous()
    out = x.new_empty((x.shape[0] // axis.size, *x.shape[1:]))
    if x.device.type == "cpu":
        # Gloo's own reduce-scatter is a whole all-reduce. An exchange of parts sends half as much.
        parts = torch.empty_like(x)
        work = dist.all_to_all_single(parts, x, group=axis.group, async_op=True)
        return Pending(work, out, parts.view(axis.size, *out.shape))
    return Pending(dist.reduce_scatter_single(out, x, group=axis.group, async_op=True), out)
