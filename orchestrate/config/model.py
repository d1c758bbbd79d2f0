"""A GPT's architecture."""

from __future__ import annotations

import dataclasses
from enum import Enum


class Norm(str, Enum):
    layernorm = "layernorm"
    rmsnorm = "rmsnorm"


class Activation(str, Enum):
    gelu = "gelu"
    swiglu = "swiglu"


class Position(str, Enum):
    learned = "learned"
    rotary = "rotary"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A GPT's architecture. Sizes count elements, not bytes."""

    name: str
    layers: int
    hidden: int
    heads: int
    ffn_hidden: int
    vocab: int
    """Token ids that exist; the trainer pads this so that TP divides it."""
    seq: int
    """Tokens per sample."""
    kv_heads: int | None = None
    """Key-value heads of grouped-query attention; null: as many as heads."""
    norm: Norm = Norm.layernorm
    norm_eps: float = 1e-5
    activation: Activation = Activation.gelu
    position: Position = Position.learned
    rope_theta: float = 10000.0
    bias: bool = True
    tied_embeddings: bool = True
    dropout: float = 0.0
    """On the embedding and on each block's two outputs."""
    attention_dropout: float = 0.0
    """On the attention probabilities (then computed without the fused kernel)."""
    init_std: float = 0.02

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads
