"""Actions that keep one rank's device busy: matrix products, the operators between, passes of a small GPT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from orchestrate.calibrate.cases import OPERATORS, small_model
from orchestrate.calibrate.samples import Operator, Pass, Product
from orchestrate.mesh import ParallelContext
from orchestrate.model.gpt import build_stages
from orchestrate.plan.plan import Plan, StageLayers

Action = Callable[[], object]


def product(case: Product, dtype: torch.dtype, device: torch.device) -> Action:
    """The product of `case`, into memory that is there already."""
    a = torch.randn(case.m, case.k, device=device).to(dtype)
    # As a linear layer has it: the weight's rows are the outputs.
    weight = torch.randn(case.n, case.k, device=device).to(dtype).t()
    out = torch.empty(case.m, case.n, dtype=dtype, device=device)
    return lambda: torch.mm(a, weight, out=out)


def operator(case: Operator, dtype: torch.dtype, device: torch.device) -> Action:
    """The operator of `case` on tensors whose bytes add up to its size."""
    width = 256
    rows = max(1, case.size // OPERATORS[case.name] // dtype.itemsize // width)
    x = torch.randn(rows, width, device=device).to(dtype)
    out = torch.empty_like(x)
    if case.name == "copy":
        return lambda: out.copy_(x)
    if case.name == "add":
        y = torch.randn_like(x)
        return lambda: torch.add(x, y, out=out)
    if case.name == "gelu":
        return lambda: F.gelu(x, approximate="tanh")
    if case.name == "layer_norm":
        weight = torch.ones(width, dtype=dtype, device=device)
        return lambda: F.layer_norm(x, (width,), weight, weight)
    assert case.name == "softmax", f"no operator {case.name}"
    return lambda: torch.softmax(x, dim=-1)


def whole_pass(case: Pass, plan: Plan, context: ParallelContext, dtype: torch.dtype) -> Action:
    """Forward and backward of the GPT of `case`, as `train` runs them; ``context`` has its tp groups."""
    model = small_model(plan.model, case)
    alone = replace(plan, model=model, dims=context.dims, stages=(StageLayers(0, model.layers),))
    (stage,) = build_stages(alone, context, dtype, seed=0)
    stage.weight_gradients.direct = True
    stage.train()
    tokens = torch.randint(model.vocab, (case.micro_batch, model.seq + 1), device=context.device)
    samples = torch.arange(case.micro_batch, device=context.device)

    def run() -> None:
        stage(tokens[:, :-1], labels=tokens[:, 1:], samples=samples).backward()

    return run
