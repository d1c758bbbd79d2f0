"""Cross-entropy of logits that are cut over the vocabulary, without ever gathering them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrate.mesh import Axis


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, axis: Axis, first: int, rows: int) -> Tensor:
        # Softmax over what all ranks hold: the largest logit, the sum of exponentials and the label's
        # logit are all that ranks must tell one another, three numbers per token.
        at_least_fp32 = torch.float64 if logits.dtype == torch.float64 else torch.float32
        probabilities = logits.detach().to(at_least_fp32)  # in place from here on where it is no copy
        probabilities[:, rows:] = -torch.inf  # padding is never predicted
        largest = probabilities.amax(-1)
        if axis.group is not None:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=axis.group)
        probabilities -= largest[:, None]
        local = labels - first
        elsewhere = (local < 0) | (local >= rows)
        local = local.masked_fill_(elsewhere, 0)
        label_logit = probabilities.gather(1, local[:, None])[:, 0].masked_fill_(elsewhere, 0)
        sums = torch.stack([probabilities.exp_().sum(-1), label_logit])
        if axis.group is not None:
            dist.all_reduce(sums, group=axis.group)
        probabilities /= sums[0][:, None]
        ctx.save_for_backward(probabilities, local, elsewhere)
        ctx.dtype = logits.dtype
        return (sums[0].log() - sums[1]).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradient, local, elsewhere = ctx.saved_tensors
        tokens = torch.arange(len(local), device=local.device)
        gradient[tokens, local] -= (~elsewhere).to(gradient.dtype)
        gradient *= grad / len(local)
        return gradient.to(ctx.dtype), None, None, None, None


def vocab_parallel_cross_entropy(logits: Tensor, labels: Tensor, axis: Axis, first: int, rows: int) -> Tensor:
    """Mean cross-entropy (nats per token), a scalar in at least fp32, the same on every rank of ``axis``.

    Args:
        logits: [tokens, local rows]; overwritten. The columns past ``rows`` are padding.
        labels: [tokens] int64 ids in the whole vocabulary.
        first: the token id of the first column.
        rows: columns that stand for tokens.
    """
    loss: Tensor = _VocabParallelCrossEntropy.apply(logits, labels, axis, first, rows)  # type: ignore[no-untyped-call]
    return loss
