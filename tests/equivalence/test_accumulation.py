"""Many micro-batches are one big batch: gradients are averaged over them, once."""

from __future__ import annotations

import pytest

from orchestrate.train.compare import compare
from orchestrate.train.verify import TOLERANCE
from tests.distributed.pool import Pool
from tests.equivalence.cases import DEEPSPEED, DROPOUT_GPT, FSDP2, GPIPE, INTERLEAVED, ZBV
from tests.equivalence.layouts import GLOBAL_BATCH, GPT, LLAMA, Layout, References, run
from tests.equivalence.test_layouts import explain


@pytest.mark.parametrize(
    "layout",
    [
        Layout(GPT, micro_batch=1),
        Layout(LLAMA, micro_batch=4),
        Layout(DROPOUT_GPT, micro_batch=2),
        Layout(GPT, pp=2, schedule=GPIPE),
        Layout(GPT, pp=2),
        Layout(LLAMA, pp=2, vpp=2, schedule=INTERLEAVED),
        Layout(DROPOUT_GPT, pp=2, vpp=2, schedule=ZBV),
        Layout(LLAMA, pp=2, dp=2, zero=2, engine=FSDP2),
        Layout(GPT, dp=2, zero=2, engine=DEEPSPEED),
        Layout(LLAMA, tp=2, pp=2, dp=2, sp=True, zero=1, engine=DEEPSPEED),
    ],
    ids=str,
)
def test_micro_batches_add_up_to_the_batch(pool: Pool, references: References, layout: Layout) -> None:
    whole = references(Layout(layout.model, micro_batch=GLOBAL_BATCH))
    report = compare(pool.run(layout.world, run, layout)[0], whole, TOLERANCE[layout.dtype])
    assert report.ok, explain(report)
