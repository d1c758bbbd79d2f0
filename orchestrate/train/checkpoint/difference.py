"""How far two checkpoints lie apart, tensor by tensor, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrate.train.checkpoint.read import Tensors

_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Difference:
    """Of one tensor."""

    name: str
    largest: float
    """Largest absolute difference of two elements; 0: the same bits."""
    relative: float
    """The same over the largest absolute value of the first checkpoint's tensor."""
    note: str = ""
    """What keeps the two from being compared."""


def differences(one: Path, other: Path) -> Iterator[Difference]:
    """Every tensor of two checkpoints, by name; besides chunks, some 16 MiB of each are in memory.

    Raises:
        CheckpointError: one cannot be read.
    """
    first, second = Tensors(one), Tensors(other)
    for name in sorted(first.shapes.keys() | second.shapes.keys()):
        shapes = first.shapes.get(name), second.shapes.get(name)
        if shapes[0] is None or shapes[1] is None:
            yield Difference(
                name, math.inf, math.inf, f"only in the {'second' if shapes[0] is None else 'first'}"
            )
        elif shapes[0] != shapes[1]:
            yield Difference(name, math.inf, math.inf, f"{shapes[0]} and {shapes[1]}")
        else:
            yield _compare(name, shapes[0], first, second)


def _compare(name: str, shape: tuple[int, ...], first: Tensors, second: Tensors) -> Difference:
    largest = size = 0.0
    for offsets, sizes in _boxes(shape):
        a, b = (tensors.read(name, offsets, sizes).double() for tensors in (first, second))
        if a.numel() and not a.equal(b):
            apart = (a - b).abs().max().item()
            largest = math.inf if math.isnan(apart) else max(largest, apart)
        size = max(size, a.abs().max().item() if a.numel() else 0.0)
    return Difference(name, largest, largest / size if size else largest)


def _boxes(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    if not shape:
        yield (), ()
        return
    rows = max(1, _ELEMENTS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield (start, *(0 for _ in shape[1:])), (min(rows, shape[0] - start), *shape[1:])
