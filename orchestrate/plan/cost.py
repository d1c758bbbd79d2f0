"""Seconds of one optimizer step, term by term; and the floating-point operations of a model.

Matrix products at a fixed share of the device's peak, everything between them by the bytes it reads
and writes, collectives over the slowest link that their group crosses. Nothing overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import Activation, DType, ModelConfig, Recompute, RecomputeConfig, Schedule
from orchestrate.plan import activations
from orchestrate.plan.collectives import Fabric, fabric
from orchestrate.plan.layout import pipeline_rank
from orchestrate.plan.parameters import count_parameters, padded_vocab
from orchestrate.plan.placement import Reach
from orchestrate.plan.plan import StageLayers, TimeEstimate
from orchestrate.plan.schedule import bubble
from orchestrate.topology.cluster import Cluster


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


@dataclass(frozen=True)
class StageCosts:
    """Forward and backward seconds of one micro-batch without recomputation or communication."""

    layer: float
    embedding: float
    head: float


@dataclass(frozen=True)
class CostModel:
    """All that the time of a layout depends on, but for its stages.

    ``reach`` says by axis how its groups sit in the cluster. Sizes in sequences and elements.
    """

    cluster: Cluster
    model: ModelConfig
    dtype: DType
    tp: int
    pp: int
    dp: int
    vpp: int
    schedule: Schedule
    micro_batch: int
    micro_batches: int
    sequence_parallel: bool
    zero_stage: int
    recompute: RecomputeConfig
    reach: Mapping[str, Reach]

    @cached_property
    def _tokens(self) -> int:
        return self.micro_batch * self.model.seq

    @cached_property
    def _flops_per_second(self) -> float:
        device = self.cluster.device
        return device.peak_tflops[self.dtype] * 1e12 * device.matmul_efficiency

    @cached_property
    def _bytes_per_second(self) -> float:
        return self.cluster.device.memory_bandwidth_gbps * 1e9

    def _fabric(self, axis: str) -> Fabric:
        return fabric(self.cluster, self.reach[axis])

    def _forward(self, flops: float, kept: float) -> float:
        """Seconds per micro-batch of ``flops`` per token cut over tp, whose operators leave ``kept``
        bytes per token: what is kept is written once and read once."""
        tokens = self._tokens
        return tokens * (flops / self.tp / self._flops_per_second + 2 * kept / self._bytes_per_second)

    @cached_property
    def _layer(self) -> activations.LayerActivations:
        return activations.layer_activations(self.model, self.tp, self.sequence_parallel, self.dtype.bytes)

    @cached_property
    def _layer_forward(self) -> float:
        return self._forward(layer_flops(self.model, attention=self._attention_share), self._layer.kept)

    @property
    def _attention_share(self) -> float:
        # The fused kernel leaves out what lies above the diagonal; unfused attention does it all.
        return 0.5 if self.model.attention_dropout == 0 else 1.0

    @cached_property
    def stage_costs(self) -> StageCosts:
        """What a stage's parts cost; the backward pass twice the forward pass."""
        element, tp, sp = self.dtype.bytes, self.tp, self.sequence_parallel
        head = activations.head_activations(self.model, tp, sp, element)
        padded = padded_vocab(self.model.vocab, tp) * 2 * self.model.hidden
        return StageCosts(
            layer=3 * self._layer_forward,
            embedding=3 * self._forward(0.0, self.model.hidden * element),
            head=3 * self._forward(padded, head),
        )

    @cached_property
    def _layer_recompute(self) -> float:
        """Seconds per micro-batch of computing again what one layer did not keep."""
        mode = self.recompute.mode
        if mode is Recompute.full:
            return self._layer_forward + self._layer_messages * 0.5
        if mode is Recompute.selective:
            return self._forward(
                4 * self.model.hidden * self.model.seq * self._attention_share, self._layer.core
            )
        return 0.0

    @cached_property
    def _layer_messages(self) -> float:
        """Seconds of one layer's tensor-parallel collectives per micro-batch, forward and backward:
        two sums of the hidden state in each (Shoeybi et al. 2019, arXiv:1909.08053, section 3); with
        sequence parallelism each is a reduce-scatter and an all-gather, and the two inputs that are
        kept cut are gathered again in the backward pass (arXiv:2205.05198, section 4.2.2)."""
        link = self._fabric("tp")
        size = self._hidden_bytes
        if not self.sequence_parallel:
            return 4 * link.all_reduce(size)
        return 4 * (link.reduce_scatter(size) + link.all_gather(size)) + 2 * link.all_gather(size)

    @cached_property
    def _hidden_bytes(self) -> float:
        return float(self._tokens * self.model.hidden * self.dtype.bytes)

    def estimate(self, stages: tuple[StageLayers, ...]) -> TimeEstimate:
        """The step of a layout cut into virtual ``stages``; the slowest pipeline rank sets the pace."""
        m, costs = self.micro_batches, self.stage_costs
        compute, recompute, messages = ([0.0] * self.pp for _ in range(3))
        for index, stage in enumerate(stages):
            rank = pipeline_rank(self.schedule, self.pp, index)
            layers = len(stage)
            compute[rank] += layers * costs.layer
            again = layers if self.recompute.layers is None else min(layers, self.recompute.layers)
            recompute[rank] += again * self._layer_recompute
            messages[rank] += layers * self._layer_messages
        ends = [pipeline_rank(self.schedule, self.pp, s) for s in (0, len(stages) - 1)]
        compute[ends[0]] += costs.embedding
        compute[ends[1]] += costs.head
        tp = self._fabric("tp")
        messages[ends[0]] += tp.all_reduce(self._hidden_bytes)
        messages[ends[1]] += tp.all_reduce(self._hidden_bytes) + 2 * tp.all_reduce(4.0 * 2 * self._tokens)
        # Between stages: an input received and a gradient received for every micro-batch and virtual stage.
        cut = self.tp if self.sequence_parallel else 1
        handover = 2 * self.vpp * self._fabric("pp").send(self._hidden_bytes / cut)
        busy = [compute[r] + recompute[r] + messages[r] + handover for r in range(self.pp)]
        slowest = max(range(self.pp), key=busy.__getitem__)
        gradients, update = self._gradients_and_update(stages)
        terms = {
            "compute": m * compute[slowest],
            "recompute": m * recompute[slowest],
            "bubble": bubble(self.schedule, self.pp, self.vpp, m, sum(busy) - busy[slowest]),
            "tp communication": m * messages[slowest],
            "pp communication": m * handover,
            "dp communication": gradients,
            "optimizer": update,
        }
        return TimeEstimate({name: seconds for name, seconds in terms.items() if seconds > 0})

    def _gradients_and_update(self, stages: tuple[StageLayers, ...]) -> tuple[float, float]:
        """Seconds of averaging gradients and gathering weights over dp, and of AdamW, on the rank with
        most parameters."""
        count = count_parameters(self.model, self.tp)
        held = [0] * self.pp
        for index, stage in enumerate(stages):
            held[pipeline_rank(self.schedule, self.pp, index)] += len(stage) * count.layer
        held[0] += count.word + count.position
        held[pipeline_rank(self.schedule, self.pp, len(stages) - 1)] += count.head or (
            count.word if self.pp > 1 else 0
        )
        parameters, link = max(held), self._fabric("dp")
        element, precise = self.dtype.bytes, max(4, self.dtype.bytes)
        weights, gradients = parameters * element, parameters * precise
        m = self.micro_batches
        seconds = {
            0: link.all_reduce(gradients),
            1: link.reduce_scatter(gradients) + link.all_gather(weights),
            # Gradients that are kept cut leave after every micro-batch.
            2: m * link.reduce_scatter(gradients) + link.all_gather(weights),
            # Weights are gathered for the forward and again for the backward pass of each.
            3: m * (link.reduce_scatter(gradients) + 2 * link.all_gather(weights)),
        }[self.zero_stage]
        share = parameters / (self.dp if self.zero_stage > 0 else 1)
        # Reads the gradient; reads and writes the master weight and two moments; writes the weight.
        touched = share * (precise * 7 + (element if element < 4 else 0))
        return seconds, touched / self._bytes_per_second
