"""What keeping replicas equal costs a step: gradients summed and weights gathered, as ZeRO cuts them."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.plan.time.collectives import Fabric
from orchestrate.plan.time.micro_batch import Passes

LEAST_BUCKET, BUCKET_PER_REPLICA = 40e6, 1e6
"""Parameters that travel together where communication hides behind computation: the larger of the first,
and of the second for each replica, lest large rings wait for latency alone (Megatron-Core's default)."""


@dataclass(frozen=True)
class Held:
    """What one rank holds of the model."""

    parameters: int
    layers: int
    layer_parameters: int
    """Of one layer."""
    weight_bytes: int
    """Of one element."""
    gradient_bytes: int
    """Of one element on its way."""


def exposed(
    link: Fabric,
    held: Held,
    layer: Passes,
    zero_stage: int,
    micro_batches: int,
    *,
    hidden: bool,
    whole_sums: bool = False,
) -> float:
    """Seconds of communication between replicas that no computation covers, in one step.

    With ``hidden`` gradients travel behind the last backward pass and weights behind the first forward
    pass (ZeRO-2: behind every backward pass; ZeRO-3: layer by layer behind both), but for the last bucket
    of gradients and the first one of weights. With ``whole_sums`` every replica gets the sum of all
    gradients under ZeRO-1 and 2 too.
    """
    if link.size == 1:
        return 0.0
    backward, forward = (held.layers * layer.backward, held.layers * layer.forward) if hidden else (0.0, 0.0)
    gradients, weights = held.parameters * held.gradient_bytes, held.parameters * held.weight_bytes
    if zero_stage == 3:
        return micro_batches * _sharded(link, held, layer, hidden)
    bucket = min(1.0, max(LEAST_BUCKET, BUCKET_PER_REPLICA * link.size) / held.parameters)
    whole = zero_stage == 0 or whole_sums
    summing = link.all_reduce(gradients) if whole else link.reduce_scatter(gradients)
    times = micro_batches if zero_stage == 2 else 1
    reduced = times * max(bucket * summing, summing - backward)
    if zero_stage == 0:
        return reduced
    gathering = link.all_gather(weights)
    return reduced + max(bucket * gathering, gathering - forward)


def _sharded(link: Fabric, held: Held, layer: Passes, hidden: bool) -> float:
    """For one micro-batch under ZeRO-3: each layer's weights are gathered for the forward and again for the
    backward pass, and its gradients reduced; what lies outside the layers hides behind nothing."""
    gather = link.all_gather(held.layer_parameters * held.weight_bytes)
    reduce = link.reduce_scatter(held.layer_parameters * held.gradient_bytes)
    forward = max(0.0, gather - (layer.forward if hidden else 0.0))
    backward = max(0.0, gather + reduce - (layer.backward if hidden else 0.0))
    rest = max(0, held.parameters - held.layers * held.layer_parameters)
    ends = 2 * link.all_gather(rest * held.weight_bytes) + link.reduce_scatter(rest * held.gradient_bytes)
    return held.layers * (forward + backward) + ends
