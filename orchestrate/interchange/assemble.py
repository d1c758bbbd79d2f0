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


def assemble_ours(parameter: Parameter, read: ReadTheirs, rows: slice | None = None) -> Tensor:
    """``rows`` of ``parameter``, or all, as the model here holds it; perhaps not contiguous."""
    first, stop = (rows.start, rows.stop) if rows is not None else (0, parameter.shape[0])
    parts, passed = [], 0
    for piece in parameter.pieces:
        # This piece is `passed` and on of the parameter, `piece.first` and on of their tensor.
        low, high = max(first - passed, 0), min(stop - passed, piece.rows)
        if low < high:
            parts.append(read(piece.tensor, slice(piece.first + low, piece.first + high)))
        passed += piece.rows
    return _stack(parts)


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
