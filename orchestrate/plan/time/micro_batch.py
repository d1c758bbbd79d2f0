"""What one micro-batch costs one rank: in a layer, in the embedding, and in the head with the loss;
tensor- and context-parallel communication included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from orchestrate.config import ModelConfig, Recompute
from orchestrate.plan.parameters import count_parameters, local_key_value_heads
from orchestrate.plan.time.collectives import Fabric
from orchestrate.plan.time.layer import LayerWork, embedding_seconds, head_work, layer_work
from orchestrate.plan.time.operators import Processor, Work
from orchestrate.plan.time.traits import TimeTraits


@dataclass(frozen=True)
class Passes:
    """Seconds of a part of the model."""

    forward: float
    backward: float
    """Recomputation included."""
    weights: float = 0.0
    """Of ``backward``, what only makes gradients of weights."""
    recompute: float = 0.0
    """Of ``backward``."""
    tp: float = 0.0
    """Exposed tensor-parallel communication of both, that of recomputation left out."""
    cp: float = 0.0
    """The same of context-parallel communication."""

    @property
    def once(self) -> float:
        """Both without recomputation."""
        return self.forward + self.backward - self.recompute


@dataclass(frozen=True)
class MicroBatchCosts:
    """One micro-batch's parts."""

    layer: Passes
    embedding: Passes
    head: Passes
    hidden_bytes: float
    """Of the hidden states on one rank, whole over tp."""


@lru_cache(maxsize=8192)
def micro_batch_costs(
    device: Processor,
    model: ModelConfig,
    traits: TimeTraits,
    tp: Fabric,
    cp: Fabric,
    sequences: int,
    sequence_parallel: bool,
    recompute: Recompute,
    gradient: int,
    engine: int = 0,
) -> MicroBatchCosts:
    """A micro-batch of ``sequences``, each cut over ``cp`` ranks, its layers cut over ``tp``; gradients of
    all micro-batches are added up in ``gradient`` bytes each. ``engine`` is what the ZeRO engine costs the
    host in both passes of a layer, in operators."""
    tokens = sequences * model.seq // cp.size
    hidden = float(tokens * model.hidden * device.element)
    work = layer_work(device, model, traits, tp.size, cp.size, sequences, sequence_parallel)
    embedding = embedding_seconds(device, model, cp.size, sequences) / 2
    summed = tp.all_reduce(hidden)
    count = count_parameters(model, tp.size)
    layer = _layer(device, model, traits, tp, cp, tokens, sequence_parallel, recompute, work, engine)
    head = _head(device, model, traits, tp, cp, sequences, sequence_parallel, hidden)
    fused = sequence_parallel and traits.sums_fused_with_sp
    moved = 0 if fused else traits.sums.bytes(device.element, gradient)

    def summing(part: Passes, parameters: int) -> Passes:
        seconds = parameters * moved / device.bandwidth
        return replace(part, backward=part.backward + seconds, weights=part.weights + seconds)

    return MicroBatchCosts(
        layer=summing(layer, count.layer),
        embedding=summing(Passes(embedding + summed, embedding, tp=summed), count.word),
        head=summing(head, count.head),
        hidden_bytes=hidden,
    )


def _layer(
    device: Processor,
    model: ModelConfig,
    traits: TimeTraits,
    tp: Fabric,
    cp: Fabric,
    tokens: int,
    sequence_parallel: bool,
    recompute: Recompute,
    work: LayerWork,
    engine: int,
) -> Passes:
    size = float(tokens * model.hidden * device.element)
    sums = 2 * _sum(tp, size, sequence_parallel) * (1 - traits.tp_hidden)
    # What is gathered once more for the gradients of weights runs behind products only where the device
    # computes while others speak.
    regathered = 2 * tp.all_gather(size) if sequence_parallel and not device.overlaps else 0.0
    ring = _ring(model, tp, cp, tokens * device.element, work)
    # The host starts collectives too, and toolkits differ in what else it does for each rank of tp.
    collectives = (4 if sequence_parallel else 2) if tp.size > 1 else 0
    more = traits.tp_launch_us * 1e-6 * (tp.size - 1) / device.launch if device.launch else 0.0
    forward = work.forward + Work(sums + ring, collectives + more + engine / 2)
    backward = work.backward + Work(sums + regathered + 2 * ring, collectives + more + engine / 2)
    again = Work()
    if recompute is Recompute.full:
        again = forward
    elif recompute is Recompute.selective and model.attention_dropout > 0:
        # A fused core keeps nothing that its backward pass would not make again anyway.
        again = work.core_forward
    alone, whole = device.elapsed(backward), device.elapsed(backward + again)
    return Passes(
        device.elapsed(forward), whole, work.weights, whole - alone, 2 * sums + regathered, 3 * ring
    )


def _sum(tp: Fabric, size: float, sequence_parallel: bool) -> float:
    """Seconds of summing hidden states over tp: two such sums a layer in each pass (Shoeybi et al. 2019,
    arXiv:1909.08053, section 3). With sequence parallelism a sum is a reduce-scatter, and the gather
    that follows it; the inputs that are kept cut are gathered once more behind the backward pass's
    products (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2)."""
    if sequence_parallel:
        return tp.reduce_scatter(size) + tp.all_gather(size)
    return tp.all_reduce(size)


def _ring(model: ModelConfig, tp: Fabric, cp: Fabric, token_bytes: int, work: LayerWork) -> float:
    """Exposed seconds in a layer's forward pass of handing keys and values around the ring of cp ranks
    behind the attention core (Liu et al. 2023, arXiv:2310.01889); twice that backward."""
    if cp.size == 1:
        return 0.0
    block = 2 * local_key_value_heads(model, tp.size) * model.head_dim * token_bytes
    around = (cp.size - 1) * (block / cp.message + cp.start)
    return max(0.0, around - work.core_forward.seconds)


def _head(
    device: Processor,
    model: ModelConfig,
    traits: TimeTraits,
    tp: Fabric,
    cp: Fabric,
    sequences: int,
    sequence_parallel: bool,
    hidden: float,
) -> Passes:
    forward, backward, weights = head_work(device, model, traits, tp.size, cp.size, sequences)
    messages = 0.0
    if tp.size > 1:
        # The head's input or its gradient; three fp32 numbers per token make up the loss.
        tokens = sequences * model.seq // cp.size
        messages = _sum(tp, hidden, sequence_parallel) * (1 - traits.tp_hidden)
        messages += 3 * tp.all_reduce(4.0 * tokens)
    return Passes(forward + messages / 2, backward + messages / 2, weights, tp=messages)
