"""Bytes on each rank of a pipeline stage, term by term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import DType, ModelConfig, Recompute, RecomputeConfig, Schedule, ZeroBackend
from orchestrate.parallel.zero.buckets import bucket_elements
from orchestrate.plan import activations
from orchestrate.plan.layout import pipeline_rank
from orchestrate.plan.parameters import count_parameters
from orchestrate.plan.plan import MemoryEstimate, StageLayers
from orchestrate.plan.schedule import in_flight
from orchestrate.topology.cluster import Cluster

GIB = 2**30
BUCKETS_IN_FLIGHT = 2
"""Gradient buckets that exist at once: one travels while the next is filled."""


@dataclass(frozen=True)
class MemoryModel:
    """All that the memory of a layout depends on. Sizes in elements, sequences or layers."""

    cluster: Cluster
    model: ModelConfig
    dtype: DType
    tp: int
    pp: int
    dp: int
    stages: tuple[StageLayers, ...]
    schedule: Schedule
    micro_batch: int
    micro_batches: int
    sequence_parallel: bool
    zero_stage: int
    zero_engine: ZeroBackend
    recompute: RecomputeConfig

    def estimate(self) -> tuple[MemoryEstimate, ...]:
        """By pipeline rank."""
        capacity = self.cluster.device.memory_gib * GIB
        return tuple(MemoryEstimate(self._terms(rank), capacity) for rank in range(self.pp))

    def _terms(self, rank: int) -> dict[str, float]:
        stages = [s for s in range(len(self.stages)) if pipeline_rank(self.schedule, self.pp, s) == rank]
        parameters = self._parameters(stages)
        terms = {**self._state(parameters), **self._activations(rank, stages)}
        terms["reserved"] = self.cluster.device.reserved_gib * GIB
        return {name: value for name, value in terms.items() if value > 0}

    def _parameters(self, stages: list[int]) -> int:
        count = count_parameters(self.model, self.tp)
        layers = sum(len(self.stages[s]) for s in stages)
        first, last = 0 in stages, len(self.stages) - 1 in stages
        total = layers * count.layer
        if first:
            total += count.word + count.position
        if last:
            total += count.final_norm + count.head
            if self.model.tied_embeddings and not first:
                total += count.word  # the copy that the last stage multiplies with
        return total

    def _state(self, parameters: int) -> dict[str, float]:
        """Weights, gradients and optimizer, cut over dp as ZeRO says (Rajbhandari et al. 2020,
        arXiv:1910.02054, section 5). Gradients accumulate in at least fp32."""
        element, precise = self.dtype.bytes, max(4, self.dtype.bytes)
        cut = [self.dp if self.zero_stage >= stage else 1 for stage in (1, 2, 3)]
        low = element < 4
        # DeepSpeed's ZeRO optimizer updates a flat copy of its share even where weights are precise.
        flat_copy = self.zero_engine is ZeroBackend.deepspeed and self.zero_stage > 0
        terms = {
            "weights": parameters * element / cut[2],
            "gradients": parameters * precise / cut[1],
            "master weights": parameters * precise / cut[0] if low or flat_copy else 0.0,
            "optimizer": 2 * parameters * precise / cut[0],
        }
        if self.dp > 1:
            terms["gradient buckets"] = BUCKETS_IN_FLIGHT * bucket_elements(parameters) * precise
        if self.zero_stage == 3 and self.dp > 1:
            # The layer at work and the next one, gathered; and one layer's whole gradient.
            terms["gathered layers"] = self._largest_unit * (2 * element + precise)
        return terms

    @cached_property
    def _largest_unit(self) -> int:
        count = count_parameters(self.model, self.tp)
        return max(count.layer, count.word)

    @cached_property
    def _tokens(self) -> int:
        return self.micro_batch * self.model.seq

    @cached_property
    def _layer(self) -> activations.LayerActivations:
        return activations.layer_activations(self.model, self.tp, self.sequence_parallel, self.dtype.bytes)

    def _activations(self, rank: int, stages: list[int]) -> dict[str, float]:
        m = self.micro_batches
        alive = in_flight(self.schedule, self.pp, len(stages), rank, m)
        kept = received = 0.0
        for stage, count in zip(stages, alive, strict=True):
            kept += count * self._kept(stage)
            # torch.distributed.pipelining holds a buffer for the input and one for the output's gradient
            # of every micro-batch, all step long.
            received += m * ((stage > 0) + (stage < len(self.stages) - 1)) if self.pp > 1 else 0
        element, tp, sp = self.dtype.bytes, self.tp, self.sequence_parallel
        hidden = self.model.hidden * element / (tp if sp else 1)
        workspace = activations.dropout_workspace(self.model, tp, sp)
        if self.recompute.mode is Recompute.full:
            workspace += self._layer.kept - self._layer.input
        elif self.recompute.mode is Recompute.selective:
            workspace += self._layer.core
        # The gradients inside one layer, of its feed-forward part at the widest.
        workspace += (2 * self.model.hidden + 2 * self.model.ffn_hidden / tp) * element
        if len(self.stages) - 1 in stages:
            workspace = max(workspace, activations.head_workspace(self.model, tp, element))
        return {
            "activations": kept * self._tokens,
            "pipeline buffers": received * hidden * self._tokens,
            "workspace": workspace * self._tokens,
        }

    def _kept(self, stage: int) -> float:
        """Bytes per token that one micro-batch leaves in ``stage``."""
        layers, mode = len(self.stages[stage]), self.recompute.mode
        assert mode is not None
        kept = layers * self._layer.under(mode)
        if mode is Recompute.full and self.recompute.layers is not None:
            whole = max(0, layers - self.recompute.layers)
            kept += whole * (self._layer.kept - self._layer.input)
        if stage == 0:
            kept += activations.embedding_activations(self.model)
        if stage == len(self.stages) - 1:
            kept += activations.head_activations(
                self.model, self.tp, self.sequence_parallel, self.dtype.bytes
            )
        return kept
