"""Seconds of one optimizer step, term by term; and the floating-point operations of a model.

Matrix products at a fixed share of the device's peak, everything between them by the bytes it reads
and writes, collectives over the slowest link that their group crosses. Nothing overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import Activation, DType, ModelConfig, Recompute
from orchestrate.plan import activations
from orchestrate.plan.choice import Layout
from orchestrate.plan.collectives import Fabric, fabric
from orchestrate.plan.layout import pipeline_rank, stages_by_rank
from orchestrate.plan.memory import stage_parameters
from orchestrate.plan.parameters import ParameterCount, count_parameters, padded_vocab
from orchestrate.plan.placement import Reach
from orchestrate.plan.plan import StageLayers, TimeEstimate
from orchestrate.plan.schedule import bubble
from orchestrate.plan.toolkits import Toolkit
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
    """Seconds of one micro-batch, forward and backward, without recomputation."""

    layer: float
    embedding: float
    head: float
    embedding_messages: float
    """Tensor-parallel collectives of the embedding; those of the head and the loss."""
    head_messages: float


@dataclass(frozen=True)
class CostModel:
    """The time of ``layout``; ``reach`` says by axis how its groups sit in the cluster."""

    cluster: Cluster
    model: ModelConfig
    dtype: DType
    layout: Layout
    reach: Mapping[str, Reach]
    toolkit: Toolkit = Toolkit.orchestrate

    @cached_property
    def _tokens(self) -> int:
        return self.layout.micro_batch * self.model.seq

    @cached_property
    def _tp(self) -> int:
        return self.layout.dims.tp

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
        return tokens * (flops / self._tp / self._flops_per_second + 2 * kept / self._bytes_per_second)

    @cached_property
    def _layer(self) -> activations.LayerActivations:
        return activations.layer_activations(
            self.model,
            self._tp,
            self.layout.sequence_parallel,
            self.dtype.bytes,
            self.cluster.device.kind,
        )

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
        element, tp, sp = self.dtype.bytes, self._tp, self.layout.sequence_parallel
        link = self._fabric("tp")
        head = activations.head_activations(self.model, tp, sp, element, self.cluster.device.kind)
        padded = padded_vocab(self.model.vocab, tp) * 2 * self.model.hidden
        return StageCosts(
            layer=3 * self._layer_forward,
            embedding=3 * self._forward(0.0, self.model.hidden * element),
            head=3 * self._forward(padded, head),
            embedding_messages=link.all_reduce(self._hidden_bytes),
            # The head's input gradient; three fp32 numbers per token make up the loss.
            head_messages=link.all_reduce(self._hidden_bytes) + link.all_reduce(12.0 * self._tokens),
        )

    @cached_property
    def _layer_recompute(self) -> float:
        """Seconds per micro-batch of computing again what one layer did not keep."""
        mode = self.layout.recompute.mode
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
        if not self.layout.sequence_parallel:
            return 4 * link.all_reduce(size)
        return 4 * (link.reduce_scatter(size) + link.all_gather(size)) + 2 * link.all_gather(size)

    @cached_property
    def _hidden_bytes(self) -> float:
        return float(self._tokens * self.model.hidden * self.dtype.bytes)

    def estimate(self, stages: tuple[StageLayers, ...]) -> TimeEstimate:
        """The step with the layers cut into virtual ``stages``; the slowest pipeline rank sets the pace."""
        layout, costs = self.layout, self.stage_costs
        pp, vpp, m = layout.dims.pp, layout.dims.vpp, layout.micro_batches
        held = stages_by_rank(layout.schedule, pp, len(stages))
        compute = [sum(len(stages[s]) for s in mine) * costs.layer for mine in held]
        messages = [sum(len(stages[s]) for s in mine) * self._layer_messages for mine in held]
        recompute = [sum(map(self._recomputed, (stages[s] for s in mine))) for mine in held]
        last = pipeline_rank(layout.schedule, pp, len(stages) - 1)
        compute[0] += costs.embedding
        compute[last] += costs.head
        messages[0] += costs.embedding_messages
        messages[last] += costs.head_messages
        # Between stages: an input and a gradient received for every micro-batch and virtual stage.
        cut = self._tp if layout.sequence_parallel else 1
        handover = 2 * vpp * self._fabric("pp").send(self._hidden_bytes / cut)
        busy = [compute[r] + recompute[r] + messages[r] + handover for r in range(pp)]
        slowest = max(range(pp), key=busy.__getitem__)
        most = max(stage_parameters(self.model, self._count, stages, mine) for mine in held)
        terms = {
            "compute": m * compute[slowest],
            "recompute": m * recompute[slowest],
            "bubble": bubble(layout.schedule, pp, vpp, m, sum(busy) - busy[slowest]),
            "tp communication": m * messages[slowest],
            "pp communication": m * handover,
            "dp communication": self._reduction(most),
            "optimizer": self._update(most),
        }
        return TimeEstimate({name: seconds for name, seconds in terms.items() if seconds > 0})

    def _recomputed(self, stage: StageLayers) -> float:
        limit = self.layout.recompute.layers
        layers = len(stage) if limit is None else min(len(stage), limit)
        return layers * self._layer_recompute

    def _reduction(self, parameters: int) -> float:
        """Seconds of averaging gradients and gathering weights over dp, with ``parameters`` on a rank."""
        link, m = self._fabric("dp"), self.layout.micro_batches
        weights, gradients = parameters * self.dtype.bytes, parameters * max(4, self.dtype.bytes)
        match self.layout.zero_stage:
            case 0:
                return link.all_reduce(gradients)
            case 1:
                return link.reduce_scatter(gradients) + link.all_gather(weights)
            case 2:  # gradients that are kept cut leave after every micro-batch
                return m * link.reduce_scatter(gradients) + link.all_gather(weights)
            case _:  # weights are gathered for the forward and again for the backward pass of each
                return m * (link.reduce_scatter(gradients) + 2 * link.all_gather(weights))

    def _update(self, parameters: int) -> float:
        """Seconds of AdamW: reads the gradient, reads and writes the master weight and two moments, and
        writes the weight."""
        share = parameters / (self.layout.dims.dp if self.layout.zero_stage > 0 else 1)
        element = self.dtype.bytes
        touched = share * (7 * max(4, element) + (element if element < 4 else 0))
        return touched / self._bytes_per_second

    @cached_property
    def _count(self) -> ParameterCount:
        return count_parameters(self.model, self._tp)
