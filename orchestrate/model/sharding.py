"""How one rank's slice of a parameter sits in the whole parameter.

Everything that must treat parameters alike in all layouts (initial weights, the global norm,
gradient sums, comparison, checkpoints) reads this record and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Sharding:
    """The place of a local slice in the parameter of shape ``full_shape``."""

    full_shape: tuple[int, ...]
    dim: int | None = None
    """The dim that is cut; None: every rank holds the whole parameter."""
    segments: tuple[tuple[int, int], ...] = ()
    """``(start, length)`` along ``dim`` of the full parameter, in the order of the local slice."""
    padding: int = 0
    """Rows of zeros after the segments, so that all ranks hold slices of one shape."""
    partial: tuple[dist.ProcessGroup, ...] = ()
    """Groups over which this rank's gradient is only one summand: sum over each before the update."""
    owner: bool = True
    """False where another rank of the same replica holds an equal slice and counts it in the norm."""
    decay: bool = False
    """Whether weight decay applies."""
    init_std: float | None = None
    """Of the normal distribution of the initial values; None: ``init_value`` everywhere."""
    init_value: float = 0.0

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of this rank's slice."""
        if self.dim is None:
            return self.full_shape
        length = sum(length for _, length in self.segments) + self.padding
        return (*self.full_shape[: self.dim], length, *self.full_shape[self.dim + 1 :])

    def take(self, full: torch.Tensor) -> torch.Tensor:
        """A copy of this rank's slice of ``full`` [full_shape]."""
        if self.dim is None:
            return full.clone()
        local = full.new_zeros(self.local_shape)
        offset = 0
        for start, length in self.segments:
            local.narrow(self.dim, offset, length).copy_(full.narrow(self.dim, start, length))
            offset += length
        return local

    def put(self, local: torch.Tensor, full: torch.Tensor) -> None:
        """Write the slice ``local`` [local_shape] where it belongs in ``full`` [full_shape]."""
        if self.dim is None:
            full.copy_(local)
            return
        offset = 0
        for start, length in self.segments:
            full.narrow(self.dim, start, length).copy_(local.narrow(self.dim, offset, length))
            offset += length
