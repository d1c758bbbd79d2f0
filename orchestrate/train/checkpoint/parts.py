"""The tensors of a checkpoint that a rank has parts of, by the names that they have there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrate.model.sharding import Sharding
from orchestrate.parallel.zero.base import Fragment
from orchestrate.train.checkpoint.chunks import Chunk, chunks

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Part:
    """A run of elements of this rank's slice of one tensor."""

    name: str
    """As in the checkpoint."""
    sharding: Sharding
    first: int
    """The element of the slice, row by row, that ``values`` begins with."""
    values: Tensor
    """1-D."""

    def chunks(self) -> Iterator[Chunk]:
        """The boxes of the whole tensor that ``values`` covers."""
        return chunks(self.sharding, self.first, self.first + self.values.numel())

    def view(self, chunk: Chunk) -> Tensor:
        """The elements of ``chunk`` [chunk.sizes] in ``values``."""
        start = self.values.storage_offset() + chunk.first - self.first
        return self.values.as_strided(chunk.sizes, chunk.strides, start)


def weight_key(name: str) -> str:
    """The name in a checkpoint of the weights of the parameter ``name``."""
    return f"model.{name}"


def moment_key(name: str, moment: str) -> str:
    """The name in a checkpoint of a moment of the parameter ``name``."""
    return f"optimizer.{name}.{moment}"


def is_moment(key: str) -> bool:
    """Whether ``key``, a name in a checkpoint, is that of a moment."""
    return key.startswith("optimizer.")


def held(fragments: Mapping[str, Fragment]) -> list[Part]:
    """All that this rank holds."""
    return [
        Part(key, fragment.sharding, fragment.first, values)
        for name, fragment in fragments.items()
        for key, values in _tensors(name, fragment)
    ]


def written(fragments: Mapping[str, Fragment]) -> list[Part]:
    """What is this rank's to save."""
    parts = []
    for name, fragment in fragments.items():
        start, length = fragment.written.start - fragment.first, len(fragment.written)
        if length > 0:
            parts += [
                Part(key, fragment.sharding, fragment.written.start, values.narrow(0, start, length))
                for key, values in _tensors(name, fragment)
            ]
    return parts


def _tensors(name: str, fragment: Fragment) -> Iterator[tuple[str, Tensor]]:
    yield weight_key(name), fragment.master
    yield moment_key(name, "exp_avg"), fragment.exp_avg
    yield moment_key(name, "exp_avg_sq"), fragment.exp_avg_sq


class HostCopy:
    """Copies of parts in host memory, which is kept from one copy to the next."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, parts: list[Part]) -> list[Part]:
        """``parts`` as they are now; what the last call returned is overwritten."""
        copies, devices = [], set()
        for part in parts:
            buffer = self._buffers.get(part.name)
            if buffer is None or buffer.shape != part.values.shape or buffer.dtype != part.values.dtype:
                buffer = torch.empty(
                    part.values.shape, dtype=part.values.dtype, pin_memory=part.values.is_cuda
                )
                self._buffers[part.name] = buffer
            buffer.copy_(part.values, non_blocking=True)
            devices.update([part.values.device] if part.values.is_cuda else [])
            copies.append(Part(part.name, part.sharding, part.first, buffer))
        for device in devices:
            torch.cuda.synchronize(device)
        return copies
