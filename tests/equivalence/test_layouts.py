"""Every layout computes what one process computes: losses, gradients, norms and weights, by parameter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from orchestrate.config import DType, ZeroBackend
from orchestrate.train.compare import COPIES, GRADIENT, INITIAL, LOSS, NORM, WEIGHT, Report, compare
from orchestrate.train.verify import TOLERANCE
from tests.distributed.pool import Pool
from tests.equivalence.cases import ALL, HALF
from tests.equivalence.layouts import STEPS, Layout, References, run


def explain(report: Report) -> str:
    beyond = [d for d in report.differences if not d.ok]
    lines = [f"{d.quantity} of {d.name or 'all'} at step {d.step}: {d.relative:.1e}" for d in beyond]
    return f"{len(beyond)} beyond tolerance\n" + "\n".join(lines[:12])


@pytest.mark.parametrize("layout", ALL, ids=str)
def test_equals_one_process(pool: Pool, references: References, layout: Layout) -> None:
    record = pool.run(layout.world, run, layout)[0]
    report = compare(record, references(layout), TOLERANCE[layout.dtype])
    assert report.ok, explain(report)
    assert len([d for d in report.differences if d.quantity == LOSS]) == STEPS
    assert len([d for d in report.differences if d.quantity == NORM]) == STEPS
    for quantity in (INITIAL, WEIGHT, GRADIENT):
        names = {d.name for d in report.differences if d.quantity == quantity}
        assert names == set(report.parameters)
    worst = report.worst(COPIES)
    assert worst is not None
    assert worst.relative == 0.0, "ranks that hold the same slice must hold the same bits"


@pytest.mark.parametrize("layout", HALF, ids=str)
def test_16_bit_stays_close_to_fp32(pool: Pool, references: References, layout: Layout) -> None:
    """Of each step's loss and norm, and of the gradient as a whole: of single elements, rounding
    to 8 bits may leave little."""
    full = references(replace(layout, dtype=DType.fp32))
    record = pool.run(layout.world, run, layout)[0]
    for place, wanted in full.items():
        if place.startswith((f"{LOSS}/", f"{NORM}/")):
            assert record[place] == pytest.approx(wanted, rel=0.02), place
        elif place.startswith(f"{GRADIENT}/1/"):
            size = math.sqrt(float((wanted.astype("f8") ** 2).sum()))
            apart = math.sqrt(float(((record[place].astype("f8") - wanted) ** 2).sum()))
            assert apart <= 0.05 * size, place


def test_every_axis_and_engine_is_covered() -> None:
    """The list in `cases` keeps what it promises, whatever is added or taken away."""
    cube = [c for c in ALL if (c.tp, c.pp, c.dp) == (2, 2, 2) and c.dtype is DType.fp32]
    assert len(cube) >= 12
    assert sum(c.stage_layers is not None for c in cube) >= 2
    assert sum(c.model.tied_embeddings for c in cube) >= 2
    assert sum(c.model.dropout > 0 for c in cube) >= 2
    assert sum(c.tp > c.model.key_value_heads for c in ALL) >= 2
    zero = {(c.zero, c.engine) for c in ALL if c.zero}
    assert zero == {(stage, engine) for stage in (1, 2, 3) for engine in ZeroBackend}
    assert len({c.schedule for c in cube}) == 4
    assert len({c.recompute for c in cube}) == 3
