"""Bytes on each rank of a pipeline stage, term by term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import DType, ModelConfig, Recompute, ZeroBackend
from orchestrate.plan import activations
from orchestrate.plan.buckets import bucket_elements
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import stages_by_rank
from orchestrate.plan.parameters import ParameterCount, count_parameters
from orchestrate.plan.plan import MemoryEstimate, StageLayers
from orchestrate.plan.schedule import in_flight
from orchestrate.plan.toolkits import Toolkit
from orchestrate.topology.cluster import Cluster

GIB = 2**30
BUCKETS_IN_FLIGHT = 2
"""Gradient buckets that exist at once: one travels while the next is filled."""


@dataclass(frozen=True)
class MemoryModel:
    """The memory of ``layout`` with its layers cut into virtual ``stages``."""

    cluster: Cluster
    model: ModelConfig
    dtype: DType
    layout: Layout
    stages: tuple[StageLayers, ...]
    toolkit: Toolkit = Toolkit.orchestrate

    def estimate(self) -> tuple[MemoryEstimate, ...]:
        """By pipeline rank."""
        capacity = self.cluster.device.memory_gib * GIB
        held = stages_by_rank(self.layout.schedule, self.layout.dims.pp, len(self.stages))
        return tuple(MemoryEstimate(self._terms(rank, mine), capacity) for rank, mine in enumerate(held))

    def _terms(self, rank: int, stages: tuple[int, ...]) -> dict[str, float]:
        parameters = stage_parameters(self.model, self._count, self.stages, stages)
        terms = {**self._state(parameters), **self._activations(rank, stages)}
        terms["reserved"] = self.cluster.device.reserved_gib * GIB
        return {name: value for name, value in terms.items() if value > 0}

    def _state(self, parameters: int) -> dict[str, float]:
        """Weights, gradients and optimizer, cut over dp as ZeRO says (Rajbhandari et al. 2020,
        arXiv:1910.02054, section 5). Gradients accumulate in at least fp32."""
        element, precise = self._element, self._precise
        stage, dp = self.layout.zero_stage, self.layout.dims.dp
        engine = self.layout.zero_engine if stage > 0 else None
        optimizer, gradients, weights = (parameters / (dp if stage >= cut else 1) for cut in (1, 2, 3))
        terms = {
            "weights": weights * element,
            "gradients": gradients * precise,
            # Both ZeRO engines update a copy of their share, even where weights are precise already.
            "master weights": optimizer * precise if element < 4 or engine else 0.0,
            "optimizer": 2 * optimizer * precise,
        }
        largest = max(self._count.layer, self._count.word)
        if engine is ZeroBackend.fsdp2:
            # FSDP reduces layer by layer; in stage 3 its masters are all the weights it keeps.
            terms["gradient buckets"] = BUCKETS_IN_FLIGHT * largest * precise
            if stage == 3:
                terms["weights"] = 0.0
        elif dp > 1:
            terms["gradient buckets"] = BUCKETS_IN_FLIGHT * bucket_elements(parameters) * precise
        if engine is ZeroBackend.deepspeed and stage == 1:
            # The averaged share stands beside the whole gradients until the update.
            terms["gradient share"] = optimizer * precise
        if stage == 3:
            # The layer at work and the next one, gathered.
            terms["gathered layers"] = 2 * largest * element
        return terms

    def _activations(self, rank: int, stages: tuple[int, ...]) -> dict[str, float]:
        layout, last = self.layout, len(self.stages) - 1
        pp, m = layout.dims.pp, layout.micro_batches
        alive = in_flight(layout.schedule, pp, len(stages), rank, m)
        kept = sum(count * self._kept(stage) for stage, count in zip(stages, alive, strict=True))
        # The output that a stage has sent on stays until its backward; the input is the first layer's,
        # and counted there. One tensor more may be on its way in, per direction (parallel/stage.py).
        outputs = sum(count for stage, count in zip(stages, alive, strict=True) if stage < last)
        borders = sum((stage > 0) + (stage < last) for stage in stages)
        buffers = outputs + borders if pp > 1 else 0
        workspace = self._layer_workspace
        if last in stages:
            head = activations.head_workspace(self.model, layout.dims.tp, self._element)
            workspace = max(workspace, head)
        tokens = layout.micro_batch * self.model.seq
        return {
            "activations": kept * tokens,
            "pipeline buffers": buffers * self._layer.input * tokens,
            "workspace": workspace * tokens,
        }

    def _kept(self, stage: int) -> float:
        """Bytes per token that one micro-batch leaves in ``stage``."""
        layers, recompute = len(self.stages[stage]), self.layout.recompute
        assert recompute.mode is not None
        kept = layers * self._layer.under(recompute.mode)
        if recompute.mode is Recompute.full and recompute.layers is not None:
            whole = max(0, layers - recompute.layers)
            kept += whole * (self._layer.kept - self._layer.input)
        if stage == 0:
            kept += activations.embedding_activations(self.model)
        if stage == len(self.stages) - 1:
            kept += self._head
        return kept

    @cached_property
    def _element(self) -> int:
        return self.dtype.bytes

    @cached_property
    def _precise(self) -> int:
        return max(4, self._element)

    @cached_property
    def _count(self) -> ParameterCount:
        return count_parameters(self.model, self.layout.dims.tp)

    @cached_property
    def _layer(self) -> activations.LayerActivations:
        layout = self.layout
        return activations.layer_activations(
            self.model, layout.dims.tp, layout.sequence_parallel, self._element, self.cluster.device.kind
        )

    @cached_property
    def _head(self) -> float:
        layout = self.layout
        return activations.head_activations(
            self.model, layout.dims.tp, layout.sequence_parallel, self._element, self.cluster.device.kind
        )

    @cached_property
    def _layer_workspace(self) -> float:
        """Bytes per token that come and go inside one layer: what its recomputation makes again, and
        the gradients of its feed-forward part, the widest."""
        layout, model = self.layout, self.model
        again = {
            Recompute.full: self._layer.kept - self._layer.input,
            Recompute.selective: self._layer.core,
        }.get(layout.recompute.mode or Recompute.none, 0.0)
        widest = 2 * (model.hidden + model.ffn_hidden / layout.dims.tp) * self._element
        masks = activations.dropout_workspace(model, layout.dims.tp, layout.sequence_parallel)
        return again + widest + masks


def stage_parameters(
    model: ModelConfig, count: ParameterCount, split: tuple[StageLayers, ...], stages: tuple[int, ...]
) -> int:
    """Elements on a rank that holds the virtual ``stages`` of ``split``, ``count`` being one rank's share."""
    total = sum(len(split[stage]) for stage in stages) * count.layer
    first, last = 0 in stages, len(split) - 1 in stages
    if first:
        total += count.word + count.position
    if last:
        total += count.final_norm + count.head
        if model.tied_embeddings and not first:
            total += count.word  # the copy that the last stage multiplies with
    return total
