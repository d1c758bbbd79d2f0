"""Every layout that the open choices of a config allow, and what each will take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from orchestrate.config import Config, Recompute, Schedule
from orchestrate.plan.choice import Choice, Layout
from orchestrate.plan.cost import CostModel
from orchestrate.plan.layout import AXES, ParallelDims, Placement
from orchestrate.plan.memory import MemoryModel
from orchestrate.plan.numbers import divisors
from orchestrate.plan.placement import Reach, reach
from orchestrate.plan.plan import MemoryEstimate, Rejection, StageLayers, TimeEstimate
from orchestrate.plan.rules import first_violation
from orchestrate.plan.stages import from_sizes, split_layers
from orchestrate.topology.cluster import Cluster

HEADROOM = 0.05
"""Share of the memory that a chosen layout leaves free if any can: the allocator's gaps and the
estimate's own error."""
LARGEST_MICRO_BATCH = 64
"""Larger micro-batches are not searched: they only cost memory."""


@dataclass(frozen=True)
class Candidate:
    """A layout that obeys the rules, with what it will take."""

    choice: Choice
    layout: Layout
    stages: tuple[StageLayers, ...]
    memory: tuple[MemoryEstimate, ...]
    time: TimeEstimate

    @property
    def peak(self) -> MemoryEstimate:
        """Of the fullest pipeline rank."""
        return max(self.memory, key=lambda estimate: estimate.total)

    @property
    def fits(self) -> bool:
        """Whether every stage fits the device's memory."""
        return self.peak.fits

    @property
    def tight(self) -> bool:
        """Whether it leaves less than `HEADROOM`."""
        return self.peak.total > (1 - HEADROOM) * self.peak.capacity


class Space:
    """The layouts of one config on one cluster, and those turned down on the way."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self.config, self.cluster = config, cluster
        self.rejected: list[Rejection] = []
        self._placement = Placement(cluster.devices)
        self._reaches: dict[ParallelDims, dict[str, Reach]] = {}
        self._splits: dict[ParallelDims, tuple[StageLayers, ...]] = {}

    def candidates(self, start: Choice) -> Iterator[Candidate]:
        """Every complete layout that agrees with ``start`` and obeys the rules."""
        for choice in self._complete(start):
            yield self._evaluate(choice)

    def _complete(self, choice: Choice) -> Iterator[Choice]:
        if (violation := first_violation(self.config, self.cluster, choice)) is not None:
            self.rejected.append(Rejection(str(choice), *violation))
            return
        following = self._following(choice)
        if following is None:
            yield choice
            return
        for option in following:
            yield from self._complete(option)

    def _following(self, choice: Choice) -> list[Choice] | None:
        """``choice`` with its next open choice made in every way; None where nothing is open.

        A choice on which a rule depends comes as early as can be, so that whole branches are cut.
        """
        model, world = self.config.model, self.cluster.world
        if choice.tp is None:
            share = world // (choice.cp * (choice.pp or 1) * (choice.dp or 1))
            return [replace(choice, tp=d) for d in divisors(share)]
        if choice.pp is None:
            share = world // (choice.tp * choice.cp * (choice.dp or 1))
            degrees = divisors(share) if choice.dp is None else [share]
            return [replace(choice, pp=d) for d in degrees]
        if choice.dp is None:
            return [replace(choice, dp=world // (choice.tp * choice.cp * choice.pp))]
        if choice.sequence_parallel is None:
            return [replace(choice, sequence_parallel=choice.tp > 1 and model.seq % choice.tp == 0)]
        if choice.zero_stage is None:
            return [replace(choice, zero_stage=1 if choice.dp > 1 else 0)]
        if choice.micro_batch is None:
            return [replace(choice, micro_batch=d) for d in _micro_batches(choice)]
        if choice.schedule is None:
            return [replace(choice, schedule=_default_schedule(choice))]
        if choice.vpp is None:
            looped = choice.schedule in (Schedule.interleaved, Schedule.zbv)
            return [replace(choice, vpp=2 if looped and choice.pp > 1 else 1)]
        if choice.recompute is None:
            return [replace(choice, recompute=mode) for mode in Recompute]
        return None

    def _evaluate(self, choice: Choice) -> Candidate:
        layout, model, dtype = choice.complete(), self.config.model, self.config.precision.dtype
        cost = CostModel(self.cluster, model, dtype, layout, self._reach(layout.dims))
        stages = self._split(cost)
        memory = MemoryModel(self.cluster, model, dtype, layout, stages)
        return Candidate(choice, layout, stages, memory.estimate(), cost.estimate(stages))

    def _reach(self, dims: ParallelDims) -> dict[str, Reach]:
        if dims not in self._reaches:
            # Nodes are alike and ranks placed in order, so the first group of an axis stands for all.
            self._reaches[dims] = {
                axis: reach(self.cluster, self._placement, islice(dims.groups(axis), 1)) for axis in AXES
            }
        return self._reaches[dims]

    def _split(self, cost: CostModel) -> tuple[StageLayers, ...]:
        if self.config.parallel.stage_layers is not None:
            return from_sizes(self.config.parallel.stage_layers)
        # What a layer costs beside the head hardly depends on the micro-batch: one split serves all.
        dims = cost.layout.dims
        if dims not in self._splits:
            parts = cost.stage_costs
            self._splits[dims] = split_layers(
                cost.model.layers, dims.pp * dims.vpp, parts.layer, parts.embedding, parts.head
            )
        return self._splits[dims]


def _micro_batches(choice: Choice) -> list[int]:
    """Micro-batches worth trying: powers of two that divide a replica's share."""
    assert choice.dp is not None
    share, powers = choice.global_batch // choice.dp, range(LARGEST_MICRO_BATCH.bit_length())
    # Where dp does not divide the batch, the rule that says so is left to speak.
    return [2**p for p in powers if share % 2**p == 0] if choice.global_batch % choice.dp == 0 else [1]


def _default_schedule(choice: Choice) -> Schedule:
    if choice.vpp is not None and choice.vpp > 1:
        return Schedule.interleaved
    assert choice.pp is not None
    assert choice.micro_batches is not None
    # 1F1B needs as many micro-batches as stages; GPipe takes any number.
    return Schedule.one_f_one_b if choice.micro_batches >= choice.pp else Schedule.gpipe
