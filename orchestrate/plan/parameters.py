"""How many parameters a GPT has, in closed form: whole, or on one tensor-parallel rank."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.config import Activation, ModelConfig, Norm, Position


@dataclass(frozen=True)
class ParameterCount:
    """Elements by part of the model."""

    word: int
    """The word embedding (also the head's where they are tied)."""
    position: int
    attention: int
    """Of one layer."""
    feed_forward: int
    """Of one layer."""
    norms: int
    """Of one layer."""
    final_norm: int
    head: int
    """Zero where the head is tied to the word embedding."""
    layers: int

    @property
    def layer(self) -> int:
        """One layer."""
        return self.attention + self.feed_forward + self.norms

    @property
    def total(self) -> int:
        """The whole model."""
        return self.word + self.position + self.layers * self.layer + self.final_norm + self.head


def padded_vocab(vocab: int, tp: int) -> int:
    """The smallest vocabulary of at least ``vocab`` ids that ``tp`` divides."""
    return -(-vocab // tp) * tp


def local_key_value_heads(model: ModelConfig, tp: int) -> int:
    """Key-value heads on one tensor-parallel rank: where ``tp`` exceeds them, ranks share one."""
    return max(model.key_value_heads // tp, 1)


def count_parameters(model: ModelConfig, tp: int = 1) -> ParameterCount:
    """Parameters of ``model`` that one of ``tp`` tensor-parallel ranks holds; with tp=1 all of them.

    Columns and rows of the matrices and the vocabulary are cut in ``tp``. Norms, positions and the
    biases of row-parallel matrices are whole on every rank.
    """
    h, f = model.hidden, model.ffn_hidden
    kv = local_key_value_heads(model, tp) * model.head_dim
    bias = int(model.bias)
    norm = h * (2 if model.norm is Norm.layernorm else 1)
    inputs = 2 if model.activation is Activation.swiglu else 1
    word = padded_vocab(model.vocab, tp) // tp * h
    return ParameterCount(
        word=word,
        position=model.seq * h if model.position is Position.learned else 0,
        attention=(h + bias) * (h // tp + 2 * kv) + h * h // tp + bias * h,
        feed_forward=(h + bias) * inputs * (f // tp) + h * f // tp + bias * h,
        norms=2 * norm,
        final_norm=norm,
        head=0 if model.tied_embeddings else word,
        layers=model.layers,
    )
