"""A GPT, cut into stages: the slice of one virtual pipeline stage, as one tensor-parallel rank holds it."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrate.config import Activation, ModelConfig, Norm, Position, Recompute
from orchestrate.mesh import Axis, ParallelContext
from orchestrate.model.attention import Attention, residual_std, rotation_of
from orchestrate.model.cross_entropy import vocab_parallel_cross_entropy
from orchestrate.model.dropout import dropout, site_key
from orchestrate.model.init import initialise
from orchestrate.model.sharding import Sharding
from orchestrate.model.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    TensorParallel,
    VocabParallelEmbedding,
    WeightGradients,
    vocab_sharding,
)
from orchestrate.parallel.recompute import recomputed
from orchestrate.plan.plan import Plan


class Normalisation(nn.Module):
    """LayerNorm or RMSNorm over the last dim."""

    def __init__(
        self, model: ModelConfig, parallel: TensorParallel, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.eps = model.norm_eps
        self.rms = model.norm is Norm.rmsnorm
        shape = (model.hidden,)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.shardings = {"weight": replace(parallel.whole(shape), init_value=1.0)}
        self.bias = None
        if not self.rms:
            self.bias = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
            self.shardings["bias"] = parallel.whole(shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.rms:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class MLP(nn.Module):
    """[s(/tp), b, hidden] -> the same, through ffn_hidden features cut over the ranks."""

    def __init__(
        self, model: ModelConfig, parallel: TensorParallel, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.gated = model.activation is Activation.swiglu
        blocks = 2 if self.gated else 1  # gate rows, then up rows: one product for both
        up = parallel.cut((blocks * model.ffn_hidden, model.hidden), 0, model.init_std, blocks)
        self.up = ColumnParallelLinear(up, model.bias, parallel, dtype, device)
        down = parallel.cut((model.hidden, model.ffn_hidden), 1, residual_std(model))
        self.down = RowParallelLinear(down, model.bias, parallel, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        features = self.up(x)
        if self.gated:
            gate, up = features.chunk(2, -1)
            return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]
        return self.down(F.gelu(features, approximate="tanh"))  # type: ignore[no-any-return]


class Dropout(nn.Module):
    """Dropout of [s(/tp), b, hidden], the same in every layout."""

    def __init__(self, model: ModelConfig, parallel: TensorParallel, name: str, seed: int) -> None:
        super().__init__()
        self.p, self.key, self.seq = model.dropout, site_key(seed, name), model.seq
        self.first = 0
        if parallel.sequence_parallel:
            self.first = parallel.axis.rank * model.seq // parallel.axis.size

    def forward(self, x: Tensor, samples: Tensor) -> Tensor:
        if not (self.p and self.training):
            return x
        return dropout(x, self.p, self.key, samples, self.first, self.seq)


class Block(nn.Module):
    """One transformer layer, normalised before each of its two branches."""

    def __init__(
        self,
        model: ModelConfig,
        parallel: TensorParallel,
        kv_replicas: Axis,
        *,
        name: str,
        seed: int,
        recompute_core: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.attention_norm = Normalisation(model, parallel, dtype, device)
        self.attention = Attention(
            model,
            parallel,
            kv_replicas,
            name=f"{name}.attention",
            seed=seed,
            recompute=recompute_core,
            dtype=dtype,
            device=device,
        )
        self.attention_dropout = Dropout(model, parallel, f"{name}.attention_dropout", seed)
        self.mlp_norm = Normalisation(model, parallel, dtype, device)
        self.mlp = MLP(model, parallel, dtype, device)
        self.mlp_dropout = Dropout(model, parallel, f"{name}.mlp_dropout", seed)

    def forward(self, x: Tensor, samples: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), samples, rotation), samples)
        return x + self.mlp_dropout(self.mlp(self.mlp_norm(x)), samples)  # type: ignore[no-any-return]


class Embedding(nn.Module):
    """Token ids [s, b] -> [s(/tp), b, hidden], with learned positions where the model has them."""

    def __init__(
        self,
        model: ModelConfig,
        parallel: TensorParallel,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.word = VocabParallelEmbedding(_words(model, parallel), parallel, dtype, device)
        self.position = None
        self.first, self.length = 0, model.seq
        if parallel.sequence_parallel:
            self.length = model.seq // parallel.axis.size
            self.first = parallel.axis.rank * self.length
        if model.position is Position.learned:
            self.position = _Table(model, parallel, dtype, device)
        self.dropout = Dropout(model, parallel, "embedding.dropout", seed)

    def forward(self, tokens: Tensor, samples: Tensor) -> Tensor:
        x = self.word(tokens)
        if self.position is not None:
            x = x + self.position(self.first, self.length)[:, None]
        return self.dropout(x, samples)  # type: ignore[no-any-return]


class _Table(nn.Module):
    """Learned positions [seq, hidden], whole on every rank."""

    def __init__(
        self, model: ModelConfig, parallel: TensorParallel, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        shape = (model.seq, model.hidden)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.shardings = {"weight": replace(parallel.whole(shape), init_std=model.init_std)}

    def forward(self, first: int, length: int) -> Tensor:
        return self.weight[first : first + length]


class Head(nn.Module):
    """The last norm, and the words' output vectors where they are not the input's (tied)."""

    def __init__(
        self, model: ModelConfig, parallel: TensorParallel, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.parallel = parallel
        self.norm = Normalisation(model, parallel, dtype, device)
        if not model.tied_embeddings:
            self.word = VocabParallelEmbedding(_words(model, parallel), parallel, dtype, device)

    def forward(self, x: Tensor, labels: Tensor, word: VocabParallelEmbedding) -> Tensor:
        logits = word(self.norm(x), self.parallel)
        return vocab_parallel_cross_entropy(
            logits.flatten(0, 1), labels.flatten(), self.parallel.axis, word.first, word.rows
        )


class GPTStage(nn.Module):
    """One virtual stage: some layers, the embedding before the first of all, the head after the last.

    Parameter names are those of the whole model, whatever the layout: ``layers.7.mlp.up.weight``.

    Args:
        empty: leave the parameters on the meta device, for `orchestrate.model.init.fill`.

    Attributes:
        shardings: by parameter name, how this rank's slice sits in the whole parameter.
        weight_gradients: set ``deferred`` to put weight gradients off (for split-backward schedules).
    """

    def __init__(
        self,
        plan: Plan,
        context: ParallelContext,
        stage: int,
        dtype: torch.dtype,
        seed: int,
        empty: bool = False,
    ) -> None:
        super().__init__()
        model, device = plan.model, torch.device("meta") if empty else context.device
        self.weight_gradients = WeightGradients()
        parallel = TensorParallel(context.tp, plan.sequence_parallel, self.weight_gradients)
        layers = plan.stages[stage]
        self.is_first, self.is_last = stage == 0, stage == len(plan.stages) - 1
        self.tied = model.tied_embeddings
        self.embedding: nn.Module | None = None
        if self.is_first:
            self.embedding = Embedding(model, parallel, seed, dtype, device)
        self.layers = nn.ModuleDict(
            {
                str(index): Block(
                    model,
                    parallel,
                    context.kv_replicas,
                    name=f"layers.{index}",
                    seed=seed,
                    recompute_core=plan.recompute_mode is Recompute.selective,
                    dtype=dtype,
                    device=device,
                )
                for index in range(layers.first, layers.last)
            }
        )
        self.head = Head(model, parallel, dtype, device) if self.is_last else None
        if self.is_last and model.tied_embeddings and self.embedding is None:
            word = VocabParallelEmbedding(_words(model, parallel), parallel, dtype, device)
            self.embedding = nn.ModuleDict({"word": word})
        self.recomputed_layers = 0
        if plan.recompute_mode is Recompute.full:
            limit = plan.recompute.layers
            self.recomputed_layers = len(layers) if limit is None else min(limit, len(layers))
        self.rotation = rotation_of(model, context.device, dtype)
        self.shardings = _shardings(self)
        if context.tied.group is not None and (name := "embedding.word.weight") in self.shardings:
            whole = self.shardings[name]
            self.shardings[name] = replace(
                whole, partial=(*whole.partial, context.tied.group), owner=context.tied.rank == 0
            )
        if not empty:
            for name, parameter in self.named_parameters():
                initialise(parameter, name, self.shardings[name], seed)

    def forward(self, x: Tensor, *, labels: Tensor | None = None, samples: Tensor) -> Tensor:
        """One micro-batch through this stage.

        Args:
            x: on the first stage token ids [b, seq]; elsewhere hidden [seq(/tp), b, hidden].
            labels: on the last stage, the next token's id at every position [b, seq].
            samples: [b] global sample numbers.

        Returns:
            Hidden [seq(/tp), b, hidden]; on the last stage the mean loss per token, a scalar.
        """
        if self.is_first:
            assert self.embedding is not None
            x = self.embedding(x.t(), samples)
        for position, block in enumerate(self.layers.values()):
            if position < self.recomputed_layers and torch.is_grad_enabled():
                x = recomputed(block, x, samples, self.rotation)
            else:
                x = block(x, samples, self.rotation)
        if self.head is None:
            return x
        assert labels is not None
        word = self.embedding.word if self.tied else self.head.word  # type: ignore[union-attr]
        return self.head(x, labels.t(), word)  # type: ignore[no-any-return]


def build_stages(
    plan: Plan, context: ParallelContext, dtype: torch.dtype, seed: int, empty: bool = False
) -> list[GPTStage]:
    """The virtual stages of this rank, first to last, with their initial weights in ``dtype``, or ``empty``
    (see `GPTStage`).

    Where the first and the last stage of a model with tied embeddings are both here, they share
    one parameter.
    """
    mine = plan.stages_of(context.coordinates.pp)
    stages = [GPTStage(plan, context, stage, dtype, seed, empty) for stage in mine]
    first, last = stages[0], stages[-1]
    if plan.model.tied_embeddings and first is not last and first.is_first and last.is_last:
        assert isinstance(first.embedding, Embedding)
        assert isinstance(last.embedding, nn.ModuleDict)
        last.embedding["word"] = first.embedding.word
    return stages


def _words(model: ModelConfig, parallel: TensorParallel) -> Sharding:
    return vocab_sharding(model.vocab, model.hidden, parallel.axis, model.init_std)


def _shardings(stage: nn.Module) -> dict[str, Sharding]:
    return {
        f"{prefix}.{name}": sharding
        for prefix, module in stage.named_modules()
        for name, sharding in (getattr(module, "shardings", None) or {}).items()
    }
