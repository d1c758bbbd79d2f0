"""Every layout that is compared with one process: each kind of parallelism alone, then what people run."""

from __future__ import annotations

from dataclasses import replace

from orchestrate.config import DType, Recompute, Schedule, ZeroBackend
from tests.equivalence.layouts import GPT, LLAMA, Layout, with_dropout

DEEPSPEED, FSDP2 = ZeroBackend.deepspeed, ZeroBackend.fsdp2
GPIPE, INTERLEAVED, ZBV = Schedule.gpipe, Schedule.interleaved, Schedule.zbv
SELECTIVE, FULL = Recompute.selective, Recompute.full
FP64, BF16, FP16 = DType.fp64, DType.bf16, DType.fp16

DROPOUT_GPT = with_dropout(GPT)
DROPOUT_LLAMA = with_dropout(LLAMA)
SIX_LAYERS = replace(LLAMA, layers=6, name="llama6")
UNTIED_GPT = replace(GPT, tied_embeddings=False, name="gpt-untied")
TIED_LLAMA = replace(LLAMA, tied_embeddings=True, name="llama-tied")

TENSOR = (
    Layout(tp=2, micro_batch=2),
    Layout(tp=2, sp=True, micro_batch=2),
    Layout(tp=4, sp=True, micro_batch=4),
    Layout(LLAMA, tp=2, sp=True, micro_batch=2),
    # Two key-value heads on four ranks.
    Layout(LLAMA, tp=4, micro_batch=4),
    Layout(LLAMA, tp=4, sp=True, micro_batch=4),
    Layout(DROPOUT_GPT, tp=2, sp=True, micro_batch=2),
)

PIPELINE = (
    Layout(pp=2, schedule=GPIPE),
    Layout(pp=2),
    Layout(pp=2, vpp=2, schedule=INTERLEAVED),
    Layout(pp=2, vpp=2, schedule=ZBV),
    Layout(pp=4),
    Layout(pp=2, stage_layers=(1, 3)),
    Layout(UNTIED_GPT, pp=2),
    Layout(LLAMA, pp=2, schedule=GPIPE),
    Layout(LLAMA, pp=2, vpp=2, schedule=ZBV),
    Layout(TIED_LLAMA, pp=2, vpp=2, schedule=INTERLEAVED),
    Layout(DROPOUT_LLAMA, pp=2, vpp=2, schedule=ZBV),
)

DATA = (
    Layout(dp=2),
    Layout(dp=4),
    Layout(dp=2, zero=1, engine=DEEPSPEED),
    Layout(dp=2, zero=2, engine=DEEPSPEED),
    Layout(dp=2, zero=3, engine=DEEPSPEED),
    Layout(dp=2, zero=1, engine=FSDP2),
    Layout(dp=2, zero=2, engine=FSDP2),
    Layout(dp=2, zero=3, engine=FSDP2),
    Layout(LLAMA, dp=4, zero=1, engine=DEEPSPEED),
    Layout(LLAMA, dp=4, zero=3, engine=FSDP2, recompute=FULL),
    Layout(DROPOUT_LLAMA, dp=2, zero=3, engine=DEEPSPEED, recompute=FULL),
)

RECOMPUTE = (
    Layout(recompute=SELECTIVE),
    Layout(recompute=FULL),
    Layout(recompute=FULL, recompute_layers=2),
    Layout(LLAMA, recompute=SELECTIVE),
)

PAIRS = (
    Layout(tp=2, dp=2, sp=True, zero=2, engine=DEEPSPEED, micro_batch=2),
    Layout(LLAMA, tp=2, dp=2, sp=True, zero=3, engine=DEEPSPEED, micro_batch=2),
    Layout(LLAMA, tp=2, dp=2, zero=3, engine=FSDP2, micro_batch=2),
    Layout(tp=2, pp=2, sp=True, recompute=SELECTIVE, micro_batch=2),
    Layout(LLAMA, tp=2, pp=2, vpp=2, sp=True, schedule=ZBV, micro_batch=2),
    Layout(pp=2, dp=2, zero=1, engine=DEEPSPEED),
    Layout(pp=2, dp=2, zero=3, engine=FSDP2, schedule=GPIPE),
    # Pipeline ranks next to each other, TP ranks far apart: order is data.
    Layout(tp=2, pp=2, sp=True, order=("pp", "dp", "cp", "tp"), micro_batch=2),
)


def _cube(model: object = GPT, **options: object) -> Layout:
    return Layout(model, tp=2, pp=2, dp=2, **options)  # type: ignore[arg-type]


CUBE = (
    _cube(),
    _cube(sp=True, schedule=GPIPE, zero=1, engine=FSDP2),
    _cube(sp=True, zero=1, engine=DEEPSPEED, recompute=SELECTIVE),
    _cube(sp=True, vpp=2, schedule=INTERLEAVED, zero=1, engine=DEEPSPEED, recompute=FULL),
    _cube(sp=True, vpp=2, schedule=ZBV, zero=1, engine=DEEPSPEED),
    _cube(sp=True, vpp=2, schedule=ZBV, zero=2, engine=FSDP2),
    _cube(sp=True, zero=3, engine=FSDP2, recompute=FULL, recompute_layers=1),
    _cube(sp=True, stage_layers=(1, 3), zero=1, engine=DEEPSPEED),
    _cube(UNTIED_GPT, schedule=GPIPE, zero=1, engine=DEEPSPEED, micro_batch=2),
    _cube(LLAMA, sp=True, zero=1, engine=DEEPSPEED, recompute=SELECTIVE),
    _cube(LLAMA, sp=True, vpp=2, schedule=ZBV, zero=1, engine=DEEPSPEED, recompute=FULL),
    _cube(LLAMA, sp=True, vpp=2, schedule=INTERLEAVED, zero=2, engine=FSDP2),
    _cube(SIX_LAYERS, sp=True, vpp=2, schedule=INTERLEAVED, stage_layers=(1, 2, 2, 1), zero=3, engine=FSDP2),
    _cube(TIED_LLAMA, sp=True, vpp=2, schedule=INTERLEAVED, zero=1, engine=DEEPSPEED),
    _cube(DROPOUT_GPT, sp=True, zero=1, engine=DEEPSPEED, recompute=SELECTIVE),
    _cube(DROPOUT_GPT, sp=True, vpp=2, schedule=ZBV, zero=1, engine=FSDP2, recompute=FULL),
    _cube(LLAMA, sp=True, zero=1, engine=DEEPSPEED, order=("tp", "pp", "cp", "dp")),
    Layout(LLAMA, tp=4, pp=2, sp=True, micro_batch=2),
    Layout(LLAMA, tp=4, dp=2, sp=True, zero=1, engine=DEEPSPEED, micro_batch=2),
)

DOUBLE = tuple(
    replace(layout, dtype=FP64)
    for layout in (
        Layout(tp=2, sp=True, micro_batch=2),
        Layout(LLAMA, tp=4, sp=True, micro_batch=4),
        Layout(pp=2, vpp=2, schedule=ZBV),
        Layout(dp=2, zero=3, engine=FSDP2),
        _cube(sp=True, recompute=SELECTIVE),
        _cube(LLAMA, sp=True, vpp=2, schedule=ZBV, zero=2, engine=FSDP2),
    )
)

HALF = tuple(
    replace(layout, dtype=dtype)
    for dtype, layout in (
        (BF16, Layout(tp=2, sp=True, micro_batch=2)),
        (BF16, Layout(dp=2, zero=2, engine=DEEPSPEED)),
        (BF16, Layout(dp=2, zero=3, engine=FSDP2)),
        (BF16, _cube(sp=True, zero=1, engine=DEEPSPEED, recompute=SELECTIVE)),
        (BF16, _cube(LLAMA, sp=True, vpp=2, schedule=ZBV, zero=2, engine=FSDP2)),
        (FP16, Layout(dp=2, zero=1, engine=FSDP2)),
        (FP16, Layout(LLAMA, pp=2, dp=2, zero=1, engine=DEEPSPEED)),
    )
)

GROUPS = {
    "Tensor and sequence parallelism": TENSOR,
    "Pipeline": PIPELINE,
    "Data parallelism and ZeRO": DATA,
    "Recompute": RECOMPUTE,
    "Two axes": PAIRS,
    "Three axes, and eight ranks": CUBE,
    "fp64": DOUBLE,
    "16 bit": HALF,
}
ALL = tuple(layout for group in GROUPS.values() for layout in group)
