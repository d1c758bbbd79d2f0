"""Bytes on each rank of a pipeline stage, term by term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from orchestrate.config import DeviceKind, DType, ModelConfig, Recompute, Schedule, ZeroBackend
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import AXES, stages_by_rank
from orchestrate.plan.memory import activations
from orchestrate.plan.memory.state import ModelState
from orchestrate.plan.memory.traits import HELD_AT_MOST, LAYER_START_S, TRAITS, MemoryTraits
from orchestrate.plan.parameters import ParameterCount, count_parameters
from orchestrate.plan.pipeline.schedule import in_flight
from orchestrate.plan.plan import MemoryEstimate, StageLayers
from orchestrate.plan.toolkits import Toolkit
from orchestrate.plan.units import GIB
from orchestrate.topology.cluster import Cluster

COMMUNICATOR_BYTES = 24 * 2 * 6 * 2**20
"""Of one NCCL communicator: 24 channels, each with a connection in and one out, whose buffers for the
three protocols are 4 MiB (``NCCL_BUFFSIZE``) and some 2 MiB."""


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
    saved_from_copy: bool = False
    """Whether checkpoints are written out of a copy in host memory (`CheckpointConfig.copies`), which on a
    CPU is the device's own."""

    def estimate(self) -> tuple[MemoryEstimate, ...]:
        """By pipeline rank."""
        capacity, spread = self.cluster.device.memory_gib * GIB, self._traits.spread
        layout = self.layout
        flow = _flow(layout.schedule, layout.dims.pp, self._vpp, layout.micro_batches)
        return tuple([MemoryEstimate(self._terms(*rank), capacity, spread) for rank in flow])

    def _terms(self, stages: tuple[int, ...], alive: tuple[float, ...], passed: float) -> dict[str, float]:
        """Bytes on the rank of ``stages``, with what `_flow` says of it."""
        parameters = stage_parameters(self.model, self._count, self.stages, stages)
        state, tokens, kept = self._state, self._tokens, self._kept
        terms = state.terms(parameters)
        # What is taken and given back within a step: between that the allocator leaves gaps.
        loose = terms.get("gradient buckets", 0.0) + terms.get("gathered weights", 0.0)
        terms["activations"] = in_flight_bytes = tokens * (
            alive[0] * kept[stages[0]]
            if len(stages) == 1
            else sum([count * kept[stage] for stage, count in zip(stages, alive, strict=True)])
        )
        loose += in_flight_bytes
        if passed:
            terms["pipeline buffers"] = buffers = passed * self._handed_on
            loose += buffers
        last = stages[-1] == len(self.stages) - 1
        terms["workspace"] = workspace = self._last_workspace if last else self._workspace
        loose += workspace
        # 16-bit gradients fill what the last micro-batch's activations have left, the update's copies
        # what all have left; only what is larger than that adds to the peak.
        if state.passes and (beside := state.passing(parameters) - kept[stages[0]] * tokens) > 0:
            terms["passing gradients"] = beside
            loose += beside
        if state.copies and (beside := state.update(parameters) - loose) > 0:
            terms["update copies"] = beside
            loose += beside
        if self._on_cuda:
            self._add_device_terms(stages, alive, loose, terms)
        elif self.saved_from_copy:
            terms["checkpoint copy"] = state.saved(parameters)
        if self._built_whole and (beside := state.built(parameters) - sum(terms.values())) > 0:
            terms["whole while built"] = beside
        terms["reserved"] = self.cluster.device.reserved_gib * GIB
        return terms

    def _add_device_terms(
        self, stages: tuple[int, ...], alive: tuple[float, ...], loose: float, terms: dict[str, float]
    ) -> None:
        """Add what torch's allocator, its libraries and NCCL take beside the tensors, of which ``loose``
        bytes come and go."""
        if self._host_runs_ahead and (passes := self._passes_ahead(alive)):
            # A layer's pass in either direction has two reduce-scatters' inputs of the whole hidden state.
            layers = sum([len(self.stages[stage]) for stage in stages])
            held = min(2 * layers * passes, HELD_AT_MOST) * self.model.hidden * self._element * self._tokens
            terms["held by communication"] = held
            loose += held
        terms["allocator slack"] = self._traits.slack * loose
        terms.update(self._outside)

    @cached_property
    def _kept(self) -> list[float]:
        """By virtual stage, bytes per token that one micro-batch leaves there."""
        recompute, layer = self.layout.recompute, self._layer
        assert recompute.mode is not None
        each, whole = layer.under(recompute.mode), layer.kept
        if recompute.mode is Recompute.full and recompute.layers is not None:
            limit = recompute.layers
            kept = [min(n, limit) * each + max(n - limit, 0) * whole for n in map(len, self.stages)]
        else:
            kept = [each * len(stage) for stage in self.stages]
        kept[0] += activations.embedding_activations(self.model)
        kept[-1] += activations.head_activations(*self._shape, traits=self._traits)
        return kept

    @cached_property
    def _handed_on(self) -> float:
        """Bytes of one tensor that goes from stage to stage."""
        cut = self._traits.scattered_outputs and not self.layout.sequence_parallel
        return self._layer.input * self._tokens / (self.layout.dims.tp if cut else 1)

    @cached_property
    def _workspace(self) -> float:
        """Bytes that come and go inside one layer."""
        return (self._layer_workspace + self._gathers) * self._tokens

    @cached_property
    def _last_workspace(self) -> float:
        """The same where there is a loss too."""
        return (max(self._layer_workspace, self._head_workspace) + self._gathers) * self._tokens

    @cached_property
    def _host_runs_ahead(self) -> bool:
        """Whether the host starts collectives long before the device comes to them. In a pipeline it waits
        for what other stages send, and for itself where layers are short; no published run whose tensor
        parallelism spans nodes shows it there."""
        layout = self.layout
        dims = layout.dims
        if not self._traits.runs_ahead or dims.tp == 1:
            return False
        device = self.cluster.device
        flops = device.peak_tflops[self.dtype] * device.matmul_efficiency * 1e12
        slow = 2 * self._count.layer * self._tokens > LAYER_START_S * flops
        return dims.pp == 1 or (slow and dims.tp <= self.cluster.nvlink_domain)

    def _passes_ahead(self, alive: tuple[float, ...]) -> float:
        """Of a stage, how many the host can be ahead: the forward passes up to the first backward one of a
        pipeline; without one the present forward pass, and a backward pass if another came before."""
        if self.layout.dims.pp > 1:
            return sum(alive)
        return min(self.layout.micro_batches, 2)

    @cached_property
    def _built_whole(self) -> bool:
        layout = self.layout
        deepspeed = layout.zero_engine is ZeroBackend.deepspeed
        return layout.zero_stage == 3 and deepspeed and self.toolkit is Toolkit.orchestrate

    @property
    def _vpp(self) -> int:
        return len(self.stages) // self.layout.dims.pp

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
    def _outside(self) -> dict[str, float]:
        """What libraries and NCCL take, on every rank alike."""
        dims = self.layout.dims
        outside = {"library workspaces": self._traits.libraries_gib * GIB}
        if communicators := sum(dims.degree(axis) > 1 for axis in AXES):
            communicators += self._traits.groups
            outside["communication buffers"] = float(communicators * COMMUNICATOR_BYTES)
        return outside

    @cached_property
    def _count(self) -> ParameterCount:
        return count_parameters(self.model, self.layout.dims.tp)

    @cached_property
    def _state(self) -> ModelState:
        return ModelState(self.dtype, self.layout, self._count, self.toolkit, self.fp32_gradients)

    @cached_property
    def _layer(self) -> activations.LayerActivations:
        return activations.layer_activations(*self._shape, traits=self._traits)

    @property
    def _shape(self) -> tuple[ModelConfig, int, bool, int, DeviceKind]:
        layout = self.layout
        device = self.cluster.device
        return self.model, layout.dims.tp, layout.sequence_parallel, self._element, device.kind

    @property
    def _head_workspace(self) -> float:
        return activations.head_workspace(self.model, self.layout.dims.tp, self._element, self._traits)

    @property
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


@lru_cache(maxsize=4096)
def _flow(
    schedule: Schedule, pp: int, vpp: int, micro_batches: int
) -> tuple[tuple[tuple[int, ...], tuple[float, ...], float], ...]:
    """By pipeline rank: its virtual stages, how many micro-batches are in flight in each at most, and how
    many tensors it holds of what goes from stage to stage.

    The output that a stage has sent on stays until its backward; the input is the first layer's, and
    counted there. One tensor more may be on its way in, per direction (parallel/stage.py).
    """
    last, flow = pp * vpp - 1, []
    for rank, stages in enumerate(stages_by_rank(schedule, pp, pp * vpp)):
        alive = in_flight(schedule, pp, vpp, rank, micro_batches)
        passed = 0.0
        for stage, count in zip(stages, alive, strict=True):
            passed += (stage > 0) + (count + 1 if stage < last else 0)
        flow.append((stages, alive, passed if pp > 1 else 0.0))
    return tuple(flow)


def stage_parameters(
    model: ModelConfig, count: ParameterCount, split: tuple[StageLayers, ...], stages: tuple[int, ...]
) -> int:
    """Elements on a rank that holds the virtual ``stages`` of ``split``, ``count`` being one rank's share."""
    total = sum([len(split[stage]) for stage in stages]) * count.layer
    first, last = 0 in stages, len(split) - 1 in stages
    if first:
        total += count.word + count.position
    if last:
        total += count.final_norm + count.head
        if model.tied_embeddings and not first:
            total += count.word  # the copy that the last stage multiplies with
    return total
