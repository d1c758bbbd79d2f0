"""Initial weights that depend on the seed and the parameter's name, never on the layout."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from orchestrate.model.sharding import Sharding

_BLOCK_ELEMENTS = 1 << 20


def initialise(parameter: Tensor, name: str, sharding: Sharding, seed: int) -> None:
    """Fill ``parameter`` with this rank's slice of the initial values of the parameter ``name``.

    The whole parameter is a sequence of blocks of rows, each drawn by a generator of its own, on the
    CPU and in fp32. A rank draws the blocks that it has rows of, one at a time, so the values are the
    same bits in every layout and memory stays bounded.
    """
    with torch.no_grad():
        if sharding.init_std is None:
            parameter.fill_(sharding.init_value)
            return
        parameter.zero_()
        rows = sharding.full_shape[0]
        block_rows = max(1, _BLOCK_ELEMENTS // math.prod(sharding.full_shape[1:]))
        for start in range(0, rows, block_rows):
            stop = min(start + block_rows, rows)
            if _touches(sharding, start, stop):
                block = _draw(seed, name, start, (stop - start, *sharding.full_shape[1:]), sharding.init_std)
                _place(parameter, block, start, stop, sharding)


def fill(module: nn.Module, stages: Sequence[Any], device: torch.device, seed: int) -> None:
    """Give the parameters of ``module``, a part of ``stages``, that are on the meta device memory on
    ``device`` and their initial values. Parameters that are elsewhere stay."""
    empty = {
        id(parameter): (name, stage.shardings[name])
        for stage in stages
        for name, parameter in stage.named_parameters()
        if parameter.is_meta
    }
    for owner in module.modules():
        for key, parameter in list(owner.named_parameters(recurse=False)):
            if id(parameter) in empty:
                filled = nn.Parameter(torch.empty_like(parameter, device=device))
                initialise(filled, *empty[id(parameter)], seed)
                setattr(owner, key, filled)


def _touches(sharding: Sharding, start: int, stop: int) -> bool:
    if sharding.dim != 0:
        return True
    return any(start < first + length and first < stop for first, length in sharding.segments)


def _draw(seed: int, name: str, block: int, shape: tuple[int, ...], std: float) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{name}/{block}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(shape, dtype=torch.float32).normal_(0.0, std, generator=generator)


def _place(parameter: Tensor, block: Tensor, start: int, stop: int, sharding: Sharding) -> None:
    """Copy what belongs to this rank of rows ``start`` … ``stop`` of the whole parameter."""
    if sharding.dim is None:
        parameter[start:stop].copy_(block)
        return
    offset = 0
    for first, length in sharding.segments:
        if sharding.dim == 0:
            low, high = max(first, start), min(first + length, stop)
            if low < high:
                parameter[offset + low - first : offset + high - first].copy_(
                    block[low - start : high - start]
                )
        else:
            rows = parameter[start:stop]
            rows.narrow(sharding.dim, offset, length).copy_(block.narrow(sharding.dim, first, length))
        offset += length
