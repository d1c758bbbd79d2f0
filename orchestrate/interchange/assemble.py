"""One tensor at a time from ours to theirs and back, whatever it is read from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from orchestrate.interchange.names import Counterpart, Parameter

ReadOurs = Callable[[str, slice], Tensor]
"""Rows of one of our parameters, by its name: [rows, …]."""
ReadTheirs = Callable[[Counterpart, slice], Tensor]
"""Rows of ours out of one of their tensors: [rows, …], turned round where they keep it transposed."""


def assemble_theirs(tensor: Counterpart, read: ReadOurs) -> Tensor:
    """``tensor`` as a Hugging Face file holds it, [tensor.shape]; perhaps not contiguous."""
    stacked = _stack([read(part.name, slice(part.first, part.first + part.rows)) for part in tensor.parts])
    return stacked.t() if tensor.transposed else stacked


def assemble_ours(parameter: Parameter, read: ReadTheirs) -> Tensor:
    """``parameter`` as the model here holds it, [parameter.shape]; perhaps not contiguous."""
    return _stack(
        [read(piece.tensor, slice(piece.first, piece.first + piece.rows)) for piece in parameter.pieces]
    )


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
