"""What one layout takes: its stages, its memory and its time, as the two models say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from orchestrate.config import Config, Recompute, RecomputeConfig, Schedule, ZeroBackend
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.memory.model import MemoryModel
from orchestrate.plan.pipeline.stages import from_sizes, split_layers
from orchestrate.plan.placement.arrangement import Arrangement, Arranger
from orchestrate.plan.placement.reach import Reach
from orchestrate.plan.plan import MemoryEstimate, StageLayers, TimeEstimate
from orchestrate.plan.time.step import CostModel
from orchestrate.plan.units import GIB
from orchestrate.topology.cluster import Cluster


@dataclass(frozen=True)
class Candidate:
    """A layout that obeys the rules, with what it will take."""

    layout: Layout
    stages: tuple[StageLayers, ...]
    memory: tuple[MemoryEstimate, ...]
    time: TimeEstimate

    @property
    def peak(self) -> MemoryEstimate:
        """Of the fullest pipeline rank."""
        return peak(self.memory)

    @property
    def preference(self) -> tuple[float, ...]:
        """The fastest first; of equally fast ones the least cut up and the simplest."""
        layout, dims = self.layout, self.layout.dims
        schedule = ("1f1b", "interleaved", "gpipe", "zbv").index(layout.schedule.value)
        mode = layout.recompute.mode
        recompute = (0 if mode is None else list(type(mode)).index(mode), layout.recompute.layers or 0)
        cuts = dims.pp, dims.tp, dims.cp, dims.vpp, schedule, layout.zero_stage, not layout.sequence_parallel
        return self.time.step, *cuts, *recompute, -layout.micro_batch


def peak(memory: tuple[MemoryEstimate, ...]) -> MemoryEstimate:
    """The estimate of the fullest pipeline rank."""
    return max(memory, key=lambda estimate: estimate.total)


def running_out(memory: tuple[MemoryEstimate, ...]) -> float:
    """The probability that a rank runs out of memory: that of the likeliest rank, because what an estimate
    gets wrong, it gets wrong for all of them."""
    return max(estimate.probability_of_running_out for estimate in memory)


def lone_replica(
    tp: int,
    cp: int,
    sequence_parallel: bool = False,
    micro_batch: int = 1,
    recompute: Recompute = Recompute.none,
) -> Layout:
    """One replica without a pipeline that works on one micro-batch: what every layout with the same
    ``tp`` and ``cp`` has to do for each of its micro-batches."""
    return Layout(
        dims=ParallelDims(tp=tp, cp=cp),
        micro_batch=micro_batch,
        global_batch=micro_batch,
        schedule=Schedule.one_f_one_b,
        sequence_parallel=sequence_parallel,
        zero_stage=0,
        zero_engine=ZeroBackend.deepspeed,
        recompute=RecomputeConfig(recompute),
    )


class Models:
    """Memory and time of the layouts of one config, with what many of them share worked out once."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self.config, self.cluster = config, cluster
        self.model, self.dtype = config.model, config.precision.dtype
        self._arranger = Arranger(cluster, tp_anywhere=config.parallel.allow_tp_across_nodes)
        self._reaches: dict[ParallelDims, dict[str, Reach]] = {}
        self._splits: dict[tuple[int, int, int], tuple[StageLayers, ...]] = {}

    @cached_property
    def capacity(self) -> float:
        """Bytes of one device."""
        return self.cluster.device.memory_gib * GIB

    def memory(self, layout: Layout) -> tuple[MemoryEstimate, ...]:
        """Bytes by pipeline rank."""
        stages = self._stages(layout)
        copies = self.config.checkpoint.copies
        return MemoryModel(
            self.cluster, self.model, self.dtype, layout, stages, saved_from_copy=copies
        ).estimate()

    def time(self, layout: Layout) -> TimeEstimate:
        """Seconds of a step."""
        return self.cost(layout).estimate(self._stages(layout))

    def arranged(self, candidate: Candidate) -> tuple[Candidate, Arrangement]:
        """``candidate`` with its axes in the order that suits the cluster best, or the pinned one, over the
        nodes in the order that does; and that arrangement."""
        dims, pinned = candidate.layout.dims, self.config.parallel.order
        options = self._arranger.options(dims, None if pinned is None else [pinned])
        if len(options) <= 1:
            arrangement = options[0] if options else self._arranger.best_guess(dims)
            if arrangement.dims == dims and arrangement.reach == self.reach(dims):
                return candidate, arrangement
            options = (arrangement,)
        tried = []
        for option in options:
            layout = replace(candidate.layout, dims=option.dims)
            cost = CostModel(self.cluster, self.model, self.dtype, layout, option.reach)
            tried.append((replace(candidate, layout=layout, time=cost.estimate(candidate.stages)), option))
        return min(tried, key=lambda one: one[0].time.step)

    def least(self, layout: Layout) -> float:
        """Seconds that a step is never below, many times cheaper than `time`."""
        return self.cost(layout).least(self._stages(layout))

    def candidate(self, layout: Layout, memory: tuple[MemoryEstimate, ...]) -> Candidate:
        """``layout``, whose ``memory`` is known, with its stages and its time."""
        return Candidate(layout, self._stages(layout), memory, self.time(layout))

    def cost(self, layout: Layout) -> CostModel:
        """The time model of ``layout``."""
        return CostModel(self.cluster, self.model, self.dtype, layout, self.reach(layout.dims))

    def reach(self, dims: ParallelDims) -> dict[str, Reach]:
        """By axis, what its groups span with the ranks placed in order."""
        if dims not in self._reaches:
            self._reaches[dims] = self._arranger.best_guess(dims).reach
        return self._reaches[dims]

    def stages(self, tp: int, cp: int, stages: int) -> tuple[StageLayers, ...]:
        """The layers cut into virtual ``stages``, as pinned or of as equal cost as can be.

        What a layer costs beside embedding and head hardly depends on anything but ``tp`` and ``cp``, so
        the smallest micro-batch decides for all.
        """
        if self.config.parallel.stage_layers is not None:
            return from_sizes(self.config.parallel.stage_layers)
        key = tp, cp, stages
        if key not in self._splits:
            parts = self.cost(lone_replica(tp, cp)).stage_costs
            layers = self.model.layers
            self._splits[key] = split_layers(layers, stages, parts.layer, parts.embedding, parts.head)
        return self._splits[key]

    def _stages(self, layout: Layout) -> tuple[StageLayers, ...]:
        dims = layout.dims
        return self.stages(dims.tp, dims.cp, dims.pp * dims.vpp)
