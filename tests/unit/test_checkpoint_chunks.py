"""A slice's elements, in boxes of the whole parameter: every element once, in its place."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from orchestrate.model.sharding import Sharding
from orchestrate.train.checkpoint.chunks import boxes, split
from orchestrate.train.checkpoint.parts import Part

SHARDINGS = [
    Sharding((5,)),
    Sharding((4, 3)),
    Sharding((2, 3, 4)),
    Sharding((10, 3), 0, ((2, 3),)),
    Sharding((10, 3), 0, ((6, 2),), padding=2),
    Sharding((12, 3), 0, ((0, 2), (4, 2), (8, 1)), padding=1),
    Sharding((3, 8), 1, ((2, 3),)),
    Sharding((3, 8), 1, ((0, 2), (6, 2))),
    Sharding((9,), 0, ((7, 2),), padding=1),
    Sharding((9, 2), 0, ((9, 0),), padding=3),
]


@pytest.mark.parametrize("sharding", SHARDINGS, ids=str)
def test_every_run_of_a_slice_lies_where_it_belongs(sharding: Sharding) -> None:
    full = torch.arange(1.0, math.prod(sharding.full_shape) + 1).view(sharding.full_shape)
    slice_ = sharding.take(full).view(-1)
    for start, stop in itertools.combinations(range(slice_.numel() + 1), 2):
        part = Part("x", sharding, start, slice_[start:stop])
        seen = []
        for whole in part.chunks():
            for chunk in split(whole, 4):
                box = full
                for dim, (offset, size) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                    box = box.narrow(dim, offset, size)
                assert part.view(chunk).equal(box)
                seen += box.flatten().tolist()
        assert sorted(seen) == sorted(value for value in slice_[start:stop].tolist() if value)


def test_few_boxes() -> None:
    assert len(list(boxes((100, 7), 0, 700))) == 1
    assert len(list(boxes((100, 7), 7, 70))) == 1
    assert len(list(boxes((100, 7), 8, 69))) == 3
    assert list(boxes((3, 4), 5, 5)) == []
    assert list(boxes((), 0, 1)) == [((), ())]
