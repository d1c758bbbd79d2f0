"""16-bit gradients add up in fp32: over micro-batches, over replicas, into fp32 weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from orchestrate.config import DType, ZeroBackend
from orchestrate.mesh import build_context
from orchestrate.model.sharding import Sharding
from orchestrate.parallel.zero import build_engine, parameter_dtype
from orchestrate.plan.layout import ParallelDims
from tests.distributed.pool import Pool
from tests.distributed.zero_cases import Case, config_of, plan_of

CASES = [
    (0, ZeroBackend.fsdp2),
    *((stage, engine) for engine in ZeroBackend for stage in (1, 2, 3)),
]
MICRO_BATCHES = 8
TINY = {DType.bf16: 2.0**-10, DType.fp16: 2.0**-12}
"""Added to 1 in that dtype, these are lost."""


class Table(nn.Module):
    """Weights of one whose gradient is the input."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, 16, dtype=dtype))
        self.shardings = {"weight": Sharding((16, 16))}

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).sum()


def accumulate(case: Case, tiny: float) -> tuple[Tensor, Tensor, float]:
    """A gradient of one, then tiny ones; the gradient observed, the weights after a step, and the norm."""
    plan, config = plan_of(case), config_of(case)
    context = build_context(plan, torch.device("cpu"))
    dtype = parameter_dtype(plan, config.precision)
    table = Table(dtype)
    engine = build_engine(plan, config, context, [table])
    for micro_batch in range(MICRO_BATCHES):
        large = context.dp.rank == 0 and micro_batch == 0
        x = torch.full((16, 16), 1.0 if large else tiny, dtype=dtype)
        engine.backward(table(x).float() * engine.loss_scale)
    seen: dict[str, Tensor] = {}
    update = engine.step(1e-5, lambda found: seen.update({n: g.clone() for n, g in found.items()}))
    return seen["weight"], engine.parameters()["weight"].clone(), update.grad_norm


@pytest.mark.parametrize("dtype", [DType.bf16, DType.fp16])
@pytest.mark.parametrize(("stage", "engine"), CASES)
def test_what_16_bits_would_lose_is_kept(pool: Pool, stage: int, engine: ZeroBackend, dtype: DType) -> None:
    case = replace(Case(ParallelDims(dp=2)), stage=stage, engine=engine, dtype=dtype, clip=0.0)
    tiny = TINY[dtype]
    mean = (1 + (2 * MICRO_BATCHES - 1) * tiny) / 2
    for gradient, weights, norm in pool.run(2, accumulate, case, tiny):
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, torch.full((16, 16), mean))
        assert norm == pytest.approx(16 * mean, rel=1e-6)
        # Adam's first step is lr in size, and too small for 16 bits.
        assert weights.dtype == torch.float32
        assert torch.allclose(weights, torch.tensor(1 - 1e-5), rtol=0, atol=1e-7)
