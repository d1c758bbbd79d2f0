"""Floating-point operations of a model: what a step must do, whoever does it."""

from __future__ import annotations

from orchestrate.config import Activation, ModelConfig


def layer_flops(model: ModelConfig, attention: float = 1.0) -> float:
    """Forward floating-point operations per token of one layer.

    Two for each weight of each matrix, and ``4 * hidden * seq`` for attention (Korthikanti et al. 2022,
    arXiv:2205.05198, appendix A), of which a causal kernel does the share ``attention`` (half).
    """
    h, kv = model.hidden, model.key_value_heads * model.head_dim
    matrices = 3 if model.activation is Activation.swiglu else 2
    return 2 * (2 * h * h + 2 * h * kv + matrices * h * model.ffn_hidden) + 4 * h * model.seq * attention


def head_flops(model: ModelConfig) -> float:
    """Forward floating-point operations per token of the logits."""
    return 2 * model.hidden * model.vocab


def model_flops(model: ModelConfig, tokens: int) -> float:
    """Floating-point operations that training on ``tokens`` tokens needs, recomputation not counted.

    The backward pass costs twice the forward pass; attention counts whole, not causal, as is the
    custom for MFU (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
    """
    return 3.0 * tokens * (model.layers * layer_flops(model) + head_flops(model))
