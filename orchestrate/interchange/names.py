"""Which tensors a Hugging Face file has for a model, and which rows of our parameters each is made of.

The one table that export, import and the comparison with ``transformers`` share. Vocabulary padding
is no part of it: here as there, an embedding has a row per token id and no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrate.config import ModelConfig
from orchestrate.interchange.architecture import Family, family_of


@dataclass(frozen=True)
class Part:
    """Rows (along dim 0) of one of our parameters."""

    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class Counterpart:
    """One tensor of a Hugging Face file: our ``parts``, one below the other, perhaps transposed."""

    name: str
    shape: tuple[int, ...]
    """As in the file."""
    parts: tuple[Part, ...]
    transposed: bool = False
    """GPT-2 keeps matrices as [in, out]."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Piece:
    """Rows of one of our parameters, and where a Hugging Face file has them."""

    tensor: Counterpart
    first: int
    """Along the dim of ``tensor`` that our rows run along: 0, or 1 where it is transposed."""
    rows: int


@dataclass(frozen=True)
class Parameter:
    """One of our parameters, whole."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    """In the order of its rows."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def counterparts(model: ModelConfig) -> tuple[Counterpart, ...]:
    """Every tensor of the Hugging Face form of ``model``, in the order of the forward pass.

    Raises:
        ExchangeError: the model belongs to neither family.
    """
    tensors = _gpt2 if family_of(model) is Family.gpt2 else _llama
    return tuple(tensors(model))


def parameters(tensors: Sequence[Counterpart]) -> tuple[Parameter, ...]:
    """Our parameters, as ``tensors`` hold them."""
    found: dict[str, list[tuple[int, Piece]]] = {}
    columns: dict[str, tuple[int, ...]] = {}
    for tensor in tensors:
        offset = 0
        for part in tensor.parts:
            found.setdefault(part.name, []).append((part.first, Piece(tensor, offset, part.rows)))
            columns[part.name] = tensor.shape[:1] if tensor.transposed else tensor.shape[1:]
            offset += part.rows
    return tuple(
        Parameter(
            name,
            (sum(piece.rows for _, piece in pieces), *columns[name]),
            tuple(piece for _, piece in sorted(pieces, key=lambda pair: pair[0])),
        )
        for name, pieces in found.items()
    )


def _gpt2(model: ModelConfig) -> Iterator[Counterpart]:
    h, f = model.hidden, model.ffn_hidden
    yield _whole("transformer.wte.weight", "embedding.word.weight", (model.vocab, h))
    yield _whole("transformer.wpe.weight", "embedding.position.weight", (model.seq, h))
    for layer in range(model.layers):
        there, here = f"transformer.h.{layer}", f"layers.{layer}"
        yield from _norm(f"{there}.ln_1", f"{here}.attention_norm", h, bias=True)
        yield from _norm(f"{there}.ln_2", f"{here}.mlp_norm", h, bias=True)
        for theirs, parts, columns in (
            ("attn.c_attn", (("attention.query", 0, h), ("attention.key_value", 0, 2 * h)), h),
            ("attn.c_proj", (("attention.output", 0, h),), h),
            ("mlp.c_fc", (("mlp.up", 0, f),), h),
            ("mlp.c_proj", (("mlp.down", 0, h),), f),
        ):
            yield from _linear(f"{there}.{theirs}", here, parts, columns, bias=True, transposed=True)
    yield from _norm("transformer.ln_f", "head.norm", h, bias=True)
    if not model.tied_embeddings:
        yield _whole("lm_head.weight", "head.word.weight", (model.vocab, h))


def _llama(model: ModelConfig) -> Iterator[Counterpart]:
    # Both turn the two halves of a head together (orchestrate.model.attention), so that the rows of queries
    # and keys stand in one order. The files that Meta published do not: theirs turn neighbours.
    h, f = model.hidden, model.ffn_hidden
    kv = model.key_value_heads * model.head_dim
    yield _whole("model.embed_tokens.weight", "embedding.word.weight", (model.vocab, h))
    for layer in range(model.layers):
        there, here = f"model.layers.{layer}", f"layers.{layer}"
        yield from _norm(f"{there}.input_layernorm", f"{here}.attention_norm", h)
        for theirs, ours, first, rows in (
            ("q_proj", "attention.query", 0, h),
            ("k_proj", "attention.key_value", 0, kv),
            ("v_proj", "attention.key_value", kv, kv),
            ("o_proj", "attention.output", 0, h),
        ):
            part = ((ours, first, rows),)
            yield from _linear(f"{there}.self_attn.{theirs}", here, part, h, bias=model.bias)
        yield from _norm(f"{there}.post_attention_layernorm", f"{here}.mlp_norm", h)
        for theirs, ours, first, rows, columns in (
            ("gate_proj", "mlp.up", 0, f, h),
            ("up_proj", "mlp.up", f, f, h),
            ("down_proj", "mlp.down", 0, h, f),
        ):
            part = ((ours, first, rows),)
            yield from _linear(f"{there}.mlp.{theirs}", here, part, columns, bias=model.bias)
    yield from _norm("model.norm", "head.norm", h)
    if not model.tied_embeddings:
        yield _whole("lm_head.weight", "head.word.weight", (model.vocab, h))


def _whole(theirs: str, ours: str, shape: tuple[int, ...]) -> Counterpart:
    return Counterpart(theirs, shape, (Part(ours, 0, shape[0]),))


def _norm(theirs: str, ours: str, features: int, *, bias: bool = False) -> Iterator[Counterpart]:
    for kind in ("weight", "bias") if bias else ("weight",):
        yield _whole(f"{theirs}.{kind}", f"{ours}.{kind}", (features,))


def _linear(
    theirs: str,
    layer: str,
    parts: Sequence[tuple[str, int, int]],
    columns: int,
    *,
    bias: bool,
    transposed: bool = False,
) -> Iterator[Counterpart]:
    rows = sum(length for _, _, length in parts)

    def of(kind: str) -> tuple[Part, ...]:
        return tuple(Part(f"{layer}.{name}.{kind}", first, length) for name, first, length in parts)

    shape = (columns, rows) if transposed else (rows, columns)
    yield Counterpart(f"{theirs}.weight", shape, of("weight"), transposed)
    if bias:
        yield Counterpart(f"{theirs}.bias", (rows,), of("bias"))
