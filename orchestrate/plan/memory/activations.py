"""Bytes that one token leaves behind in the forward pass for the backward pass.

Item by item after Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
Models" (arXiv:2205.05198), section 4, widened to gated feed-forward layers, grouped key-value heads
and fused attention. With their model (GELU, dropout, 16 bit, sequence parallelism) the items add up to
their ``34 h / t + 5 a s / t`` bytes per token, but for unfused attention's probabilities, which are
kept in fp32 here: ``7 a s / t``. What other toolkits keep differs as `MemoryTraits` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.config import Activation, DeviceKind, ModelConfig, Norm, Position, Recompute
from orchestrate.plan.memory.traits import TRAITS, MemoryTraits
from orchestrate.plan.parameters import local_key_value_heads, padded_vocab
from orchestrate.plan.toolkits import Toolkit

OURS = TRAITS[Toolkit.orchestrate]


@dataclass(frozen=True)
class LayerActivations:
    """Bytes per token of one layer on one tensor-parallel rank."""

    kept: float
    """By a layer without recomputation."""
    core: float
    """Of those, by the attention core: what selective recomputation makes again."""
    input: float
    """By a layer that is recomputed in full: its input."""

    def under(self, mode: Recompute) -> float:
        """Kept under recomputation ``mode``."""
        return {
            Recompute.none: self.kept,
            Recompute.selective: self.kept - self.core,
            Recompute.full: self.input,
        }[mode]


def layer_activations(
    model: ModelConfig,
    tp: int,
    sequence_parallel: bool,
    element: int,
    kind: DeviceKind = DeviceKind.cuda,
    traits: MemoryTraits = OURS,
) -> LayerActivations:
    """What one layer keeps, with activations of ``element`` bytes."""
    f, heads = model.ffn_hidden, model.heads
    along_sequence = tp if sequence_parallel else 1
    mask = 1 if model.dropout > 0 else 0
    # Two norms (their outputs feed the column-parallel matrices) and two dropout masks.
    residual = 2 * (_norm(model, element, kind) + model.hidden * mask) / along_sequence
    query_and_output = 2 * model.hidden // tp
    key = local_key_value_heads(model, tp) * model.head_dim
    feed_forward = (traits.gated_tensors if model.activation is Activation.swiglu else 2) * f // tp
    if model.attention_dropout > 0:
        # Unfused: the probabilities, their dropout's mask and its output.
        probability = max(4, element) if traits.precise_probabilities else element
        core = heads / tp * model.seq * (probability + 1 + element)
    else:
        # Fused: the log of each row's sum of exponentials, in fp32.
        core = heads / tp * 4.0
    if model.position is Position.rotary and traits.turned_projection:
        # Beside the turned keys: the plain ones share their memory with the values.
        core += (key + (model.hidden // tp if traits.turned_projection > 1 else 0)) * element
    return LayerActivations(
        kept=residual + (query_and_output + 2 * key + feed_forward) * element + core,
        core=core,
        input=model.hidden * element / along_sequence,
    )


def _norm(model: ModelConfig, element: int, kind: DeviceKind) -> float:
    """Bytes per token of one norm's input and output, and of what comes between where it is not fused:
    torch's RMSNorm on CPUs keeps the normalised values, and 16-bit inputs in fp32 too."""
    kept = 2 * model.hidden * element
    if model.norm is Norm.rmsnorm and kind is DeviceKind.cpu:
        kept += model.hidden * (element if element >= 4 else 4 + element)
    return float(kept)


def embedding_activations(model: ModelConfig) -> float:
    """Bytes per token that the embedding keeps: its dropout's mask (ids are counted as nothing)."""
    return float(model.hidden) if model.dropout > 0 else 0.0


def head_activations(
    model: ModelConfig,
    tp: int,
    sequence_parallel: bool,
    element: int,
    kind: DeviceKind = DeviceKind.cuda,
    traits: MemoryTraits = OURS,
) -> float:
    """Bytes per token that the head keeps: the final norm's input and output, and the probabilities of
    this rank's part of the vocabulary in at least fp32, unless a fused loss does without them."""
    norm = _norm(model, element, kind) / (tp if sequence_parallel else 1)
    return norm + padded_vocab(model.vocab, tp) / tp * max(traits.kept_logits, element)


def head_workspace(model: ModelConfig, tp: int, element: int, traits: MemoryTraits = OURS) -> float:
    """Bytes per token that the loss takes for a moment beside what it keeps: 16-bit logits in the
    forward pass, their gradient in the backward pass. In fp32 and fp64 both are made in place."""
    return padded_vocab(model.vocab, tp) / tp * traits.passing_logits if element < 4 else 0.0


def scores_workspace(model: ModelConfig, tp: int, element: int, traits: MemoryTraits = OURS) -> float:
    """Bytes per token of the attention scores that unfused attention makes and does not keep."""
    if model.attention_dropout == 0:
        return 0.0
    return model.heads / tp * model.seq * traits.passing_scores * element


def dropout_workspace(
    model: ModelConfig, tp: int, sequence_parallel: bool, traits: MemoryTraits = OURS
) -> float:
    """Bytes per token while a dropout mask is made: three 64-bit counters per element."""
    elements = 0.0
    if not traits.mask_counters:
        return elements
    if model.dropout > 0:
        elements = model.hidden / (tp if sequence_parallel else 1)
    if model.attention_dropout > 0:
        elements = max(elements, model.heads / tp * model.seq)
    return 3 * 8 * elements
