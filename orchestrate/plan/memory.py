"""Bytes on each rank of a pipeline stage, term by term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import DeviceKind, DType, ModelConfig, Recompute
from orchestrate.plan import activations
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import AXES, stages_by_rank
from orchestrate.plan.memory_state import ModelState
from orchestrate.plan.memory_traits import (
    LAUNCH_QUEUE,
    LAUNCHES_PER_HELD_TENSOR,
    TRAITS,
    Counted,
    MemoryTraits,
)
from orchestrate.plan.parameters import ParameterCount, count_parameters
from orchestrate.plan.plan import MemoryEstimate, StageLayers
from orchestrate.plan.schedule import in_flight
from orchestrate.plan.toolkits import Toolkit
from orchestrate.topology.cluster import Cluster

GIB = 2**30
COMMUNICATOR_BYTES = 24 * 2 * 6 * 2**20
"""Of one NCCL communicator: 24 channels, each with a connection in and one out, whose buffers for the
three protocols are 4 MiB (``NCCL_BUFFSIZE``) and some 2 MiB."""
COMES_AND_GOES = (
    "activations",
    "pipeline buffers",
    "workspace",
    "passing gradients",
    "update copies",
    "gradient buckets",
    "gathered weights",
    "held by communication",
)
"""Terms whose memory is taken and given back within a step, and between which the allocator leaves gaps."""


@dataclass(frozen=True)
class MemoryModel:
    """The memory of ``layout`` with its layers cut into virtual ``stages``."""

    cluster: Cluster
    model: ModelConfig
    dtype: DType
    layout: Layout
    stages: tuple[StageLayers, ...]
    toolkit: Toolkit = Toolkit.orchestrate
    fp32_gradients: bool | None = None
    """Whether gradients accumulate in fp32; None: as is the toolkit's habit."""

    def estimate(self) -> tuple[MemoryEstimate, ...]:
        """By pipeline rank."""
        capacity, spread = self.cluster.device.memory_gib * GIB, self._traits.spread
        held = stages_by_rank(self.layout.schedule, self.layout.dims.pp, len(self.stages))
        return tuple(
            MemoryEstimate(self._terms(rank, mine), capacity, spread) for rank, mine in enumerate(held)
        )

    def _terms(self, rank: int, stages: tuple[int, ...]) -> dict[str, float]:
        parameters = stage_parameters(self.model, self._count, self.stages, stages)
        terms = self._state.terms(parameters)
        passing = self._activations(rank, stages, terms)
        # 16-bit gradients fill what the last micro-batch's activations have left, the update's copies
        # what all have left; only what is larger than that adds to the peak.
        beside = self._state.passing(parameters) - passing
        if beside > 0:
            terms["passing gradients"] = beside
        copies = self._state.update(parameters)
        if copies > 0:
            copies -= terms["activations"] + terms["pipeline buffers"] + terms["workspace"]
            terms["update copies"] = copies
        if self._on_cuda:
            self._device_terms(stages, terms)
        if self.layout.zero_stage == 3 and self.toolkit is Toolkit.orchestrate:
            terms["whole while built"] = self._state.built(parameters) - sum(terms.values())
        terms["reserved"] = self.cluster.device.reserved_gib * GIB
        return {name: value for name, value in terms.items() if value > 0}

    def _activations(self, rank: int, stages: tuple[int, ...], terms: dict[str, float]) -> float:
        """Add the terms of activations to ``terms``; the bytes that one micro-batch's make up."""
        layout, last = self.layout, len(self.stages) - 1
        pp = layout.dims.pp
        alive = in_flight(layout.schedule, pp, len(stages), rank, layout.micro_batches)
        kept = outputs = borders = 0.0
        for stage, count in zip(stages, alive, strict=True):
            kept += count * self._kept(stage)
            # The output that a stage has sent on stays until its backward; the input is the first
            # layer's, and counted there. One tensor more may be on its way in, per direction.
            outputs += count if stage < last else 0.0
            borders += (stage > 0) + (stage < last)
        workspace = self._layer_workspace
        if last in stages:
            workspace = max(workspace, self._head_workspace)
        tokens = self._tokens
        terms["activations"] = kept * tokens
        terms["pipeline buffers"] = (outputs + borders) * self._layer.input * tokens if pp > 1 else 0.0
        terms["workspace"] = (workspace + self._gathers) * tokens
        return (self._kept(stages[0]) + workspace) * tokens

    def _device_terms(self, stages: tuple[int, ...], terms: dict[str, float]) -> None:
        """Add what torch's allocator, its libraries and NCCL take beside the tensors."""
        traits = self._traits
        if traits.runs_ahead and self.layout.dims.tp > 1 and self.layout.dims.pp == 1:
            # Four reduce-scatters' inputs a layer, forward and backward, each of the whole hidden state.
            layers = sum(len(self.stages[stage]) for stage in stages)
            tensors = min(4 * layers, LAUNCH_QUEUE // LAUNCHES_PER_HELD_TENSOR)
            terms["held by communication"] = tensors * self.model.hidden * self._element * self._tokens
        loose = sum(max(0.0, terms.get(name, 0.0)) for name in COMES_AND_GOES)
        terms["allocator slack"] = traits.slack * loose
        terms["library workspaces"] = traits.libraries_gib * GIB
        terms["communication buffers"] = self._communicators * COMMUNICATOR_BYTES

    def _kept(self, stage: int) -> float:
        """Bytes per token that one micro-batch leaves in ``stage``."""
        layers, recompute = len(self.stages[stage]), self.layout.recompute
        kept = layers * self._layer_kept
        if recompute.mode is Recompute.full and recompute.layers is not None:
            kept += max(0, layers - recompute.layers) * (self._layer.kept - self._layer.input)
        if stage == 0:
            kept += self._embedding
        if stage == len(self.stages) - 1:
            kept += self._head
        return kept

    @cached_property
    def _traits(self) -> MemoryTraits:
        return TRAITS[self.toolkit]

    @cached_property
    def _on_cuda(self) -> bool:
        return self.cluster.device.kind is DeviceKind.cuda

    @cached_property
    def _element(self) -> int:
        return self.dtype.bytes

    @cached_property
    def _tokens(self) -> float:
        """Of one micro-batch on one rank: context parallelism cuts the sequence."""
        return self.layout.micro_batch * self.model.seq / self.layout.dims.cp

    @cached_property
    def _communicators(self) -> int:
        dims = self.layout.dims
        return sum(dims.degree(axis) > 1 for axis in AXES)

    @cached_property
    def _count(self) -> ParameterCount:
        return count_parameters(self.model, self.layout.dims.tp)

    @cached_property
    def _state(self) -> ModelState:
        return ModelState(self.dtype, self.layout, self._count, self.toolkit, self.fp32_gradients)

    @cached_property
    def _layer(self) -> activations.LayerActivations:
        return activations.layer_activations(*self._shape, traits=self._traits)

    @cached_property
    def _layer_kept(self) -> float:
        assert self.layout.recompute.mode is not None
        return self._layer.under(self.layout.recompute.mode)

    @cached_property
    def _embedding(self) -> float:
        return activations.embedding_activations(self.model)

    @cached_property
    def _head(self) -> float:
        return activations.head_activations(*self._shape, traits=self._traits)

    @cached_property
    def _shape(self) -> tuple[ModelConfig, int, bool, int, DeviceKind]:
        layout = self.layout
        device = self.cluster.device
        return self.model, layout.dims.tp, layout.sequence_parallel, self._element, device.kind

    @cached_property
    def _head_workspace(self) -> float:
        return activations.head_workspace(self.model, self.layout.dims.tp, self._element, self._traits)

    @cached_property
    def _gathers(self) -> float:
        """Bytes per token of the buffers that sequence parallelism gathers into, kept for good."""
        whole = self.layout.sequence_parallel and self.layout.dims.tp > 1
        return self._traits.gather_buffers * self.model.hidden * self._element if whole else 0.0

    @cached_property
    def _layer_workspace(self) -> float:
        """Bytes per token that come and go inside one layer: what its recomputation makes again, and
        the gradients of its feed-forward part, the widest."""
        layout, model, traits = self.layout, self.model, self._traits
        tp = layout.dims.tp
        again = {
            Recompute.full: self._layer.kept - self._layer.input,
            Recompute.selective: self._layer.core,
        }.get(layout.recompute.mode or Recompute.none, 0.0)
        widest = 2 * (model.hidden + model.ffn_hidden / tp) * self._element
        masks = activations.dropout_workspace(model, tp, layout.sequence_parallel, traits)
        return again + widest + masks + activations.scores_workspace(model, tp, self._element, traits)


def published(estimates: Sequence[MemoryEstimate], toolkit: Toolkit) -> float:
    """Bytes that ``toolkit`` would publish of ranks that take ``estimates``, which are by pipeline rank."""
    traits = TRAITS[toolkit]
    outside = ["reserved", "communication buffers"]
    if traits.counted is Counted.allocated:
        outside += ["allocator slack", "held by communication"]
    totals = [estimate.total - sum(estimate.terms.get(o, 0.0) for o in outside) for estimate in estimates]
    return totals[0] if traits.first_stage else max(totals)


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
