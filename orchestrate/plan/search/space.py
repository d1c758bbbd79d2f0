"""The space of layouts as a tree: which ways each open choice of a config can go, level by level.

Degrees first, then sequence parallelism and micro-batch, then schedule, virtual stages and
recomputation, then ZeRO: what decides most of the time and the memory comes first, so that whole
branches can be judged together (`orchestrate.plan.search.bounds`). Choices that the config pins go one way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import chain
from math import ceil
from typing import NamedTuple

from orchestrate.config import Config, Recompute, RecomputeConfig, Schedule
from orchestrate.plan.choice import Choice, Layout
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.numbers import divisors
from orchestrate.plan.search.rules import first_violation
from orchestrate.plan.search.tally import Tally
from orchestrate.topology.cluster import Cluster

LARGEST_MICRO_BATCH = 64
"""Larger micro-batches are not searched, a choice that bounds the space: there may be faster ones, where a
model is so small that its operators take less than starting them. Pinned ones may be larger."""
PARTIAL_RECOMPUTE = (0.25, 0.5, 0.75)
"""Shares of a virtual stage's layers that are tried between recomputing none and all of them."""


LEVELS = (("sequence_parallel", "micro_batch"), ("schedule", "vpp"), ("recompute",), ("zero_stage",))
"""What is chosen together, below the degrees."""


class TreeNode(NamedTuple):
    """A place in the tree: what is chosen; None where still open."""

    tp: int
    cp: int
    pp: int
    dp: int
    sequence_parallel: bool | None = None
    micro_batch: int | None = None
    schedule: Schedule | None = None
    vpp: int | None = None
    recompute: RecomputeConfig | None = None
    zero_stage: int | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is open."""
        return self.zero_stage is not None


class Space:
    """The layouts that one config allows on one cluster; ``tally`` hears what rules turn down."""

    def __init__(self, config: Config, cluster: Cluster, start: Choice, tally: Tally) -> None:
        self.config, self.cluster, self.start, self.tally = config, cluster, start, tally
        self._pipelines: dict[tuple[int, int], tuple[tuple[Schedule, int], ...]] = {}
        self._recomputed: dict[int, tuple[RecomputeConfig, ...]] = {}
        self._zeros: dict[tuple[int, int], tuple[int, ...]] = {}

    def roots(self) -> Iterator[TreeNode]:
        """Every way to cut the devices into tp x cp x pp x dp that obeys the rules."""
        for choice in self._degrees(self.start):
            yield TreeNode(*choice.degrees)

    def children(self, node: TreeNode) -> Iterator[TreeNode]:
        """``node`` with its next open choices made in every way that obeys the rules."""
        if node.micro_batch is None:
            for sequence_parallel in self._sequence_parallel(node):
                for micro_batch in self._micro_batches(node):
                    yield node._replace(sequence_parallel=sequence_parallel, micro_batch=micro_batch)
        elif node.schedule is None:
            for schedule, vpp in self._pipelines_of(node):
                yield node._replace(schedule=schedule, vpp=vpp)
        elif node.recompute is None:
            for recompute in self._recomputes(node):
                yield node._replace(recompute=recompute)
        elif node.zero_stage is None:
            for stage in self.zero_stages(node):
                yield node._replace(zero_stage=stage)

    def count(self, node: TreeNode) -> int:
        """Complete layouts at or below ``node``."""
        if node.complete:
            return 1
        if node.recompute is not None:
            return len(self.zero_stages(node))
        if node.vpp is not None:
            return len(self._recomputes(node)) * len(self.zero_stages(node))
        return sum(self.count(child) for child in self.children(node))

    def leaves(self) -> Iterator[TreeNode]:
        """Every complete layout; for spaces small enough."""
        nodes = self.roots()
        for _level in LEVELS:
            nodes = chain.from_iterable(map(self.children, nodes))
        return nodes

    def micro_batches(self, node: TreeNode) -> int:
        """Micro-batches per replica and step, once their size is chosen."""
        assert node.micro_batch is not None
        return self.start.global_batch // (node.dp * node.micro_batch)

    def choice(self, node: TreeNode) -> Choice:
        """``node`` in words that the rules and people understand."""
        recompute = node.recompute or RecomputeConfig()
        return replace(
            self.start,
            tp=node.tp,
            cp=node.cp,
            pp=node.pp,
            dp=node.dp,
            sequence_parallel=node.sequence_parallel,
            micro_batch=node.micro_batch,
            schedule=node.schedule,
            vpp=node.vpp,
            recompute=recompute.mode,
            recompute_layers=recompute.layers,
            zero_stage=node.zero_stage,
        )

    def layout(self, node: TreeNode) -> Layout:
        """The layout of a complete ``node``."""
        assert node.sequence_parallel is not None
        assert node.micro_batch is not None
        assert node.schedule is not None
        assert node.vpp is not None
        assert node.recompute is not None
        assert node.zero_stage is not None
        return Layout(
            dims=ParallelDims(node.tp, node.cp, node.dp, node.pp, node.vpp, self.start.order),
            micro_batch=node.micro_batch,
            global_batch=self.start.global_batch,
            schedule=node.schedule,
            sequence_parallel=node.sequence_parallel,
            zero_stage=node.zero_stage,
            zero_engine=self.start.zero_engine,
            recompute=node.recompute,
        )

    def _degrees(self, choice: Choice) -> Iterator[Choice]:
        if not self._obeys(choice):
            return
        world, tp, cp, pp, dp = self.cluster.world, choice.tp, choice.cp, choice.pp, choice.dp
        if tp is None:
            options = [replace(choice, tp=d) for d in divisors(world // ((cp or 1) * (pp or 1) * (dp or 1)))]
        elif cp is None:
            options = [replace(choice, cp=d) for d in divisors(world // (tp * (pp or 1) * (dp or 1)))]
        elif pp is None:
            share = world // (tp * cp * (dp or 1))
            options = [replace(choice, pp=d) for d in (divisors(share) if dp is None else [share])]
        elif dp is None:
            options = [replace(choice, dp=world // (tp * cp * pp))]
        else:
            yield choice
            return
        for option in options:
            yield from self._degrees(option)

    def _obeys(self, choice: Choice) -> bool:
        violation = first_violation(self.config, self.cluster, choice)
        if violation is not None:
            self.tally.forbid(choice, violation)
        return violation is None

    def _sequence_parallel(self, node: TreeNode) -> list[bool]:
        if node.tp == 1:
            return [False]
        if self.start.sequence_parallel is not None:
            return [self.start.sequence_parallel]
        unit = node.tp * (2 * node.cp if node.cp > 1 else 1)
        return [True, False] if self.config.model.seq % unit == 0 else [False]

    def _micro_batches(self, node: TreeNode) -> list[int]:
        if self.start.micro_batch is not None:
            return [self.start.micro_batch]
        share = self.start.global_batch // node.dp
        return [size for size in divisors(share) if size <= LARGEST_MICRO_BATCH]

    def _pipelines_of(self, node: TreeNode) -> tuple[tuple[Schedule, int], ...]:
        """Schedules and virtual stages: they depend on the stages and the micro-batches alone, so equal
        numbers of both share the answer."""
        key = node.pp, self.micro_batches(node)
        if key not in self._pipelines:
            self._pipelines[key] = tuple(
                (schedule, vpp)
                for schedule in self._schedules(node)
                for vpp in self._virtual(node, schedule)
                if self._obeys(replace(self.choice(node), schedule=schedule, vpp=vpp))
            )
        return self._pipelines[key]

    def _schedules(self, node: TreeNode) -> list[Schedule]:
        if self.start.schedule is not None:
            return [self.start.schedule]
        return list(Schedule) if node.pp > 1 else [Schedule.one_f_one_b]

    def _virtual(self, node: TreeNode, schedule: Schedule) -> list[int]:
        if self.start.vpp is not None:
            return [self.start.vpp]
        if node.pp == 1 or schedule in (Schedule.gpipe, Schedule.one_f_one_b):
            return [1]
        if schedule is Schedule.zbv:
            return [2]
        layers = self.config.model.layers
        if self.config.parallel.stage_layers is not None:
            return [max(2, len(self.config.parallel.stage_layers) // node.pp)]
        # The largest virtual stage sets the pace: of all vpp with one as large, the least sends least.
        sizes = {-(-layers // (node.pp * vpp)): vpp for vpp in range(layers // node.pp, 1, -1)}
        return sorted(sizes.values()) or [2]

    def _recomputes(self, node: TreeNode) -> tuple[RecomputeConfig, ...]:
        assert node.vpp is not None
        stages = node.pp * node.vpp
        if stages not in self._recomputed:
            self._recomputed[stages] = tuple(self._recompute_options(stages))
        return self._recomputed[stages]

    def _recompute_options(self, stages: int) -> Iterator[RecomputeConfig]:
        if (mode := self.start.recompute) is not None:
            yield RecomputeConfig(mode, self.start.recompute_layers)
            return
        yield RecomputeConfig(Recompute.none)
        if self.config.model.attention_dropout > 0:
            # A fused attention core keeps nothing that could be made again.
            yield RecomputeConfig(Recompute.selective)
        most = -(-self.config.model.layers // stages)
        for layers in sorted({ceil(most * share) for share in PARTIAL_RECOMPUTE} - {most}):
            yield RecomputeConfig(Recompute.full, layers)
        yield RecomputeConfig(Recompute.full)

    def zero_stages(self, node: TreeNode) -> tuple[int, ...]:
        """ZeRO stages that the rules allow with the degrees of ``node``."""
        key = node.pp, node.dp
        if key not in self._zeros:
            wanted = self.start.zero_stage
            stages = [wanted] if wanted is not None else range(4) if node.dp > 1 else [0]
            degrees = self.choice(TreeNode(node.tp, node.cp, node.pp, node.dp))
            self._zeros[key] = tuple(s for s in stages if self._obeys(replace(degrees, zero_stage=s)))
        return self._zeros[key]

    @cached_property
    def size(self) -> int:
        """Complete layouts in all."""
        return sum(map(self.count, self.roots()))
