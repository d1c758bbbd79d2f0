"""Where a run of a slice's elements lies in the whole parameter, as boxes. No torch here.

Engines cut slices by element, not by row: ZeRO's share of a matrix may begin in the middle of one row
and end in the middle of another. Checkpoints know boxes of whole tensors alone. So a run becomes the
rest of its first row, the whole rows, and the beginning of its last; and each of those is cut again
where the slice's segments (`Sharding.segments`) lie apart in the whole parameter. Padding is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class Place(Protocol):
    """What is needed of a `orchestrate.model.sharding.Sharding`."""

    @property
    def full_shape(self) -> tuple[int, ...]: ...
    @property
    def dim(self) -> int | None: ...
    @property
    def segments(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def local_shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Chunk:
    """A box of the whole parameter, and where the slice holds it."""

    offsets: tuple[int, ...]
    """Of its first element in the whole parameter."""
    sizes: tuple[int, ...]
    first: int
    """Of its first element in the slice, counted row by row."""
    strides: tuple[int, ...]
    """Elements of the slice from one index of each dim to the next."""


def chunks(place: Place, start: int, stop: int) -> Iterator[Chunk]:
    """The boxes of elements ``start`` up to ``stop`` (not included) of the slice at ``place``."""
    shape = place.local_shape
    strides = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    for low, sizes in boxes(shape, start, stop):
        if place.dim is None:
            yield Chunk(low, sizes, _flat(low, strides), strides)
            continue
        dim, passed = place.dim, 0
        for first, length in place.segments:
            # This segment is `passed` and on of the slice, `first` and on of the parameter.
            begin = max(low[dim], passed)
            end = min(low[dim] + sizes[dim], passed + length)
            if begin < end:
                here = (*low[:dim], begin, *low[dim + 1 :])
                there = (*low[:dim], first + begin - passed, *low[dim + 1 :])
                size = (*sizes[:dim], end - begin, *sizes[dim + 1 :])
                yield Chunk(there, size, _flat(here, strides), strides)
            passed += length


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes of the fewest boxes that make up elements ``start`` … ``stop`` - 1 of ``shape``."""
    if start >= stop:
        return
    if len(shape) <= 1:
        yield ((start,), (stop - start,)) if shape else ((), ())
        return
    row = math.prod(shape[1:])
    first, last = start // row, (stop - 1) // row
    if first == last and stop - start < row:
        yield from _within(shape, first, start - first * row, stop - first * row)
        return
    if start % row:
        yield from _within(shape, first, start % row, row)
        first += 1
    whole = stop // row
    if first < whole:
        yield (first, *(0 for _ in shape[1:])), (whole - first, *shape[1:])
    if stop % row:
        yield from _within(shape, whole, 0, stop % row)


def _within(
    shape: Sequence[int], index: int, start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for offsets, sizes in boxes(shape[1:], start, stop):
        yield (index, *offsets), (1, *sizes)


def _flat(offsets: Sequence[int], strides: Sequence[int]) -> int:
    return sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))


def split(chunk: Chunk, elements: int) -> Iterator[Chunk]:
    """``chunk`` in boxes of at most so many ``elements``, or of one row where that is more."""
    if not chunk.sizes or math.prod(chunk.sizes) <= elements:
        yield chunk
        return
    step = max(1, elements // math.prod(chunk.sizes[1:]))
    for start in range(0, chunk.sizes[0], step):
        yield Chunk(
            (chunk.offsets[0] + start, *chunk.offsets[1:]),
            (min(step, chunk.sizes[0] - start), *chunk.sizes[1:]),
            chunk.first + start * chunk.strides[0],
            chunk.strides,
        )
