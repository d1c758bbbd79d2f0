"""What one rank's operators cost in a layer, in the embedding and in the head, for one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from orchestrate.config import Activation, ModelConfig, Position
from orchestrate.plan.parameters import local_key_value_heads, padded_vocab
from orchestrate.plan.time.operators import Processor, Work
from orchestrate.plan.time.traits import TimeTraits

OTHER_OPERATORS = 8
"""Operators of a layer's pass that move next to nothing, such as views that copy and casts of biases."""
HEAD_OPERATORS, EMBEDDING_OPERATORS = 32, 12
"""Operators of head and loss, and of the embedding with fetching the batch, forward and backward: few beside
those of the layers, but the device is idle while the host starts them, for it reads what they made."""


@dataclass(frozen=True)
class LayerWork:
    """Of one layer, without communication."""

    forward: Work
    backward: Work
    """Gradients of inputs and weights, without recomputation."""
    weights: float
    """Device seconds of the backward pass that only make gradients of weights."""
    core_forward: Work
    """Of the forward pass, the attention core: what selective recomputation does again."""


@lru_cache(maxsize=4096)
def layer_work(
    device: Processor,
    model: ModelConfig,
    traits: TimeTraits,
    tp: int,
    cp: int,
    micro_batch: int,
    sequence_parallel: bool,
) -> LayerWork:
    """One layer on one of ``tp`` ranks, which holds ``micro_batch * seq / cp`` tokens."""
    h, f, d, seq = model.hidden, ceil(model.ffn_hidden / tp), model.head_dim, model.seq
    tokens, element = micro_batch * seq // cp, device.element
    heads, kv_heads = ceil(model.heads / tp), local_key_value_heads(model, tp)
    qkv = (heads + 2 * kv_heads) * d
    gates = 2 if model.activation is Activation.swiglu else 1
    forward = backward = Work(operators=OTHER_OPERATORS)
    weights = 0.0
    for columns, inner in ((qkv, h), (h, heads * d), (gates * f, h), (h, f)):
        forward += Work(device.matmul(tokens, columns, inner), 1)
        weight = device.matmul(columns, inner, tokens)
        backward += Work(device.matmul(tokens, inner, columns) + weight, 2)
        weights += weight
    # Norms read and write once forward, and read twice and write once more backward; so do residuals.
    cut = tokens * h / (tp if sequence_parallel else 1) * traits.elementwise
    mask = 1 if model.dropout > 0 else 0
    forward += _streams(device, 2, cut * 2 * element) + _streams(device, 2, cut * (3 * element + mask))
    backward += _streams(device, 4, cut * 2 * element) + _streams(device, 2, cut * (2 * element + mask))
    # The activation function, and the layout of queries, keys and values (turned where rotary).
    forward += _streams(device, 1, tokens * f * element * (1 + gates))
    backward += _streams(device, 2, tokens * f * element * (1 + 2 * gates) / 2)
    moved = tokens * qkv * element * 2
    turns = 3 if model.position is Position.rotary else 2
    forward += Work(device.stream(moved), turns)
    backward += Work(device.stream(moved), turns)
    core_forward, core_backward = _core(device, model, traits, heads, micro_batch, cp)
    return LayerWork(forward + core_forward, backward + core_backward, weights, core_forward)


def _streams(device: Processor, operators: int, moved: float) -> Work:
    return Work(operators * device.stream(moved), operators)


def _core(
    device: Processor, model: ModelConfig, traits: TimeTraits, heads: int, micro_batch: int, cp: int
) -> tuple[Work, Work]:
    """Attention between queries, keys and values: forward, backward."""
    d, seq, batch = model.head_dim, model.seq, micro_batch * heads
    rows = seq // cp
    if model.attention_dropout == 0:
        # Fused and causal: half of the products, and the backward pass makes the scores once more.
        flops = 0.5 * 4 * batch * rows * seq * d
        speed = device.flops
        return (
            Work(flops / (speed * traits.flash_forward) + device.kernel, 2),
            Work(2.5 * flops / (speed * traits.flash_backward) + device.kernel, 3),
        )
    products = device.matmul(rows, seq, d, batch) + device.matmul(rows, d, seq, batch)
    scores = batch * rows * seq * (1 + seq / traits.scores_row)
    element = device.element
    # Softmax reads and writes the scores; dropout does too, and its mask.
    forward = products + device.stream(scores * 2 * element) + device.stream(scores * (2 * element + 1))
    backward = 2 * products + device.stream(scores * (2 * element + 1)) + device.stream(scores * 3 * element)
    return Work(forward, 4), Work(backward, 6)


@lru_cache(maxsize=4096)
def head_work(
    device: Processor, model: ModelConfig, traits: TimeTraits, tp: int, cp: int, micro_batch: int
) -> tuple[float, float, float]:
    """Seconds of logits and loss: forward, backward, and what of the latter only makes gradients of weights.
    The final norm is as nothing beside them."""
    tokens, columns = micro_batch * model.seq // cp, padded_vocab(model.vocab, tp) // tp
    weight = device.matmul(columns, model.hidden, tokens)
    loss = device.stream(tokens * columns * traits.loss_bytes)
    host = HEAD_OPERATORS * device.launch
    forward = device.matmul(tokens, columns, model.hidden) + (loss + host) / 2
    return forward, device.matmul(tokens, model.hidden, columns) + weight + (loss + host) / 2, weight


def embedding_seconds(device: Processor, model: ModelConfig, cp: int, micro_batch: int) -> float:
    """Seconds of the embedding, forward and backward: rows read, added up, dropped out, and scattered."""
    tokens = micro_batch * model.seq // cp
    moved = tokens * model.hidden * 10.0 * device.element
    return device.stream(moved) + EMBEDDING_OPERATORS * device.launch
