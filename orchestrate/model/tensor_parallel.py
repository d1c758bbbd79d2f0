"""Linear layers and embeddings cut over the tensor-parallel ranks, on plain tensors.

A column-parallel layer cuts its output features, a row-parallel one its input features, so that a
pair of them needs one sum per direction (Shoeybi et al. 2019, arXiv:1909.08053, section 3). With
sequence parallelism the activations between the pairs are cut over the sequence, and each sum
becomes an all-gather and a reduce-scatter (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2).
Activations are [sequence, micro-batch, features], so that dim 0 is the one that is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrate.mesh import Axis
from orchestrate.model.collectives import all_gather, all_reduce, reduce_scatter
from orchestrate.model.sharding import Sharding


@dataclass
class WeightGradients:
    """When the gradients of weight matrices are computed, and where they go."""

    direct: bool = False
    """Add to ``weight.grad`` in the product itself, sparing a pass over it; autograd's hooks see nothing."""
    deferred: bool = False
    """Direct, and only once the pipeline schedule has time for them (zero bubble)."""
    pending: list[Callable[[], object]] = field(default_factory=list)
    finished: Callable[[], None] = lambda: None
    """Called when gradients that were put off have been added: no autograd hook tells of them."""

    def compute(self, weight: Tensor, grad: Tensor, x: Tensor) -> Tensor | None:
        """Gradient [out, in] of ``weight`` for autograd to add; None where it is added already.

        Args:
            grad: of the product's output [s, b, out].
            x: its input [s, b, in].
        """
        rows, columns = grad.flatten(0, -2).t(), x.flatten(0, -2)
        if not (self.direct or self.deferred):
            return rows @ columns
        if weight.grad is None:
            weight.grad = (rows @ columns).to(weight.grad_dtype or weight.dtype)
        elif weight.grad.dtype == rows.dtype:
            weight.grad.addmm_(rows, columns)
        else:
            weight.grad += rows @ columns
        return None

    def take(self) -> Callable[[], None]:
        """What computes the gradients put off so far and adds them to ``weight.grad``."""
        work, self.pending = self.pending, []

        @torch.no_grad()
        def run() -> None:
            for compute in work:
                compute()
            self.finished()

        return run


@dataclass(frozen=True)
class TensorParallel:
    """How the layers of one stage are cut."""

    axis: Axis
    sequence_parallel: bool
    weight_gradients: WeightGradients

    def whole(self, shape: tuple[int, ...]) -> Sharding:
        """Sharding of a parameter that every TP rank holds whole.

        Under sequence parallelism it acts on the rank's part of the sequence, so that its gradient is
        only a part too.
        """
        partial = (self.axis.group,) if self.sequence_parallel and self.axis.group else ()
        return Sharding(shape, partial=partial, owner=self.axis.rank == 0)

    def cut(self, shape: tuple[int, int], dim: int, init_std: float, blocks: int = 1) -> Sharding:
        """Sharding of a matrix made of ``blocks`` equal blocks along ``dim``, each cut evenly."""
        block = shape[dim] // blocks
        length = block // self.axis.size
        segments = tuple((b * block + self.axis.rank * length, length) for b in range(blocks))
        return Sharding(shape, dim, segments, decay=True, init_std=init_std)


class _ColumnLinear(torch.autograd.Function):
    """Several column-parallel products of one input, with one collective per direction."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, parallel: TensorParallel, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights, biases = parameters[::2], parameters[1::2]
        gather = parallel.sequence_parallel
        whole = all_gather(x, parallel.axis).wait() if gather else x
        ctx.parallel, ctx.has_bias = parallel, [bias is not None for bias in biases]
        # Parameters stay out of the saved tensors: activation checkpointing hands those back as copies,
        # and a gradient put off must reach the parameter itself.
        ctx.weights = weights
        ctx.save_for_backward(x)
        return tuple(F.linear(whole, w, b) for w, b in zip(weights, biases, strict=True))  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,), weights = ctx.saved_tensors, ctx.weights
        parallel: TensorParallel = ctx.parallel
        later = parallel.weight_gradients
        sequence = parallel.sequence_parallel
        gathering = all_gather(x, parallel.axis) if sequence and not later.deferred else None
        dx = _input_gradient(grads, weights)
        # The sum over ranks travels while this rank multiplies for its weights.
        reducing = reduce_scatter(dx, parallel.axis) if sequence else all_reduce(dx, parallel.axis)

        weight_grads: list[Tensor | None] = [None] * len(weights)
        if later.deferred:

            def compute() -> None:
                whole = all_gather(x, parallel.axis).wait() if sequence else x
                for weight, grad in zip(weights, grads, strict=True):
                    later.compute(weight, grad, whole)

            later.pending.append(compute)
        else:
            whole = gathering.wait() if gathering is not None else x
            weight_grads = [later.compute(w, g, whole) for w, g in zip(weights, grads, strict=True)]
        bias_grads = [
            grad.flatten(0, -2).sum(0) if has_bias else None
            for grad, has_bias in zip(grads, ctx.has_bias, strict=True)
        ]
        parameter_grads = [grad for pair in zip(weight_grads, bias_grads, strict=True) for grad in pair]
        return reducing.wait(), None, *parameter_grads


class _RowLinear(torch.autograd.Function):
    """The product of features that are cut, summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parallel: TensorParallel, weight: Tensor) -> Tensor:
        ctx.parallel, ctx.weight = parallel, weight
        ctx.save_for_backward(x)
        partial = F.linear(x, weight)
        collective = reduce_scatter if parallel.sequence_parallel else all_reduce
        return collective(partial, parallel.axis).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,), weight = ctx.saved_tensors, ctx.weight
        parallel: TensorParallel = ctx.parallel
        whole = all_gather(grad, parallel.axis).wait() if parallel.sequence_parallel else grad
        later = parallel.weight_gradients
        dx = _input_gradient((whole,), (weight,))
        if later.deferred:
            later.pending.append(lambda: later.compute(weight, whole, x))
            return dx, None, None
        return dx, None, later.compute(weight, whole, x)


def _input_gradient(grads: tuple[Tensor, ...], weights: Any) -> Tensor:
    first, *rest = zip(grads, weights, strict=True)
    dx: Tensor = first[0].flatten(0, -2) @ first[1]
    for grad, weight in rest:
        dx.addmm_(grad.flatten(0, -2), weight)
    return dx.view(*grads[0].shape[:-1], dx.shape[-1])


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    return function.apply(*args)  # type: ignore[no-untyped-call]


class _ParallelLinear(nn.Module):
    """The parameters of a linear layer that is cut: a weight and, perhaps, a bias."""

    def __init__(
        self,
        weight: Sharding,
        bias: Sharding | None,
        parallel: TensorParallel,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.parallel = parallel
        self.weight = nn.Parameter(torch.empty(weight.local_shape, dtype=dtype, device=device))
        self.bias = None
        self.shardings = {"weight": weight}
        if bias is not None:
            self.bias = nn.Parameter(torch.empty(bias.local_shape, dtype=dtype, device=device))
            self.shardings["bias"] = bias


class ColumnParallelLinear(_ParallelLinear):
    """Output features cut over the ranks: [s(/tp), b, in] -> [s, b, out / tp].

    Args:
        sharding: of the weight [out, in]; the bias is cut alike.
    """

    def __init__(
        self,
        sharding: Sharding,
        bias: bool,
        parallel: TensorParallel,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        alike = replace(sharding, full_shape=sharding.full_shape[:1], decay=False, init_std=None)
        super().__init__(sharding, alike if bias else None, parallel, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        (out,) = column_linear(x, self)
        return out


def column_linear(x: Tensor, *layers: ColumnParallelLinear) -> tuple[Tensor, ...]:
    """Outputs of several column-parallel layers of one input, sharing its collectives."""
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    outputs: tuple[Tensor, ...] = _apply(_ColumnLinear, x, layers[0].parallel, *parameters)
    return outputs


class RowParallelLinear(_ParallelLinear):
    """Input features cut over the ranks: [s, b, in / tp] -> [s(/tp), b, out], summed.

    Args:
        sharding: of the weight [out, in]; every rank holds the bias whole.
    """

    def __init__(
        self,
        sharding: Sharding,
        bias: bool,
        parallel: TensorParallel,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        whole = parallel.whole(sharding.full_shape[:1])
        super().__init__(sharding, whole if bias else None, parallel, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _apply(_RowLinear, x, self.parallel, self.weight)
        return out if self.bias is None else out + self.bias


class _Reduce(torch.autograd.Function):
    """Sum over the ranks; the gradient of a sum is the gradient of each summand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parallel: TensorParallel) -> Tensor:
        ctx.parallel = parallel
        collective = reduce_scatter if parallel.sequence_parallel else all_reduce
        return collective(x, parallel.axis).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        parallel: TensorParallel = ctx.parallel
        return (all_gather(grad, parallel.axis).wait() if parallel.sequence_parallel else grad), None


class VocabParallelEmbedding(nn.Module):
    """One vector per word, its rows cut over the ranks; used at the input, at the output, or at both.

    Token ids [s, b] int64 become vectors [s(/tp), b, hidden]. Vectors [s(/tp), b, hidden] become the
    logits of this rank's words [s, b, rows]. The last ranks' slices end in rows that stand for no word
    where tp does not divide the vocabulary.
    """

    def __init__(
        self, sharding: Sharding, parallel: TensorParallel, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.parallel = parallel
        self.first, self.rows = sharding.segments[0]
        self.weight = nn.Parameter(torch.empty(sharding.local_shape, dtype=dtype, device=device))
        self.shardings = {"weight": sharding}

    def forward(self, x: Tensor, parallel: TensorParallel | None = None) -> Tensor:
        """Vectors of token ids, or logits of vectors.

        Args:
            parallel: for logits, that of the stage which asks, where the stage of the input holds the
                module: the gradients that one stage puts off are due at its own turn in the schedule.
        """
        return self._logits(x, parallel or self.parallel) if x.is_floating_point() else self._vectors(x)

    def _logits(self, x: Tensor, parallel: TensorParallel) -> Tensor:
        logits: Tensor
        (logits,) = _apply(_ColumnLinear, x, parallel, self.weight, None)
        return logits

    def _vectors(self, tokens: Tensor) -> Tensor:
        if self.parallel.axis.size == 1:
            return F.embedding(tokens, self.weight)
        local = tokens - self.first
        elsewhere = (local < 0) | (local >= self.rows)
        found = F.embedding(local.masked_fill(elsewhere, 0), self.weight)
        vectors: Tensor = _apply(_Reduce, found.masked_fill(elsewhere[..., None], 0), self.parallel)
        return vectors


def vocab_sharding(vocab: int, hidden: int, axis: Axis, init_std: float) -> Sharding:
    """Sharding of an embedding [vocab, hidden]: equal local shapes, padded where tp does not divide."""
    rows = -(-vocab // axis.size)
    first = min(axis.rank * rows, vocab)
    length = min(rows, vocab - first)
    return Sharding(
        (vocab, hidden), 0, ((first, length),), padding=rows - length, decay=True, init_std=init_std
    )
