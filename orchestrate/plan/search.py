"""From a config to a plan: every layout that the open choices allow, each rejected with its reason or
kept with its predicted step time; the fastest one wins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from orchestrate.config import Config, Recompute, RecomputeConfig, Schedule
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.choice import Choice, pinned
from orchestrate.plan.cost import CostModel
from orchestrate.plan.layout import AXES, ParallelDims, Placement
from orchestrate.plan.memory import GIB, MemoryModel
from orchestrate.plan.placement import Reach, place, reach, require_tp_inside_domains
from orchestrate.plan.plan import MemoryEstimate, Plan, Rejection, StageLayers, TimeEstimate
from orchestrate.plan.rules import divisors, first_violation
from orchestrate.plan.stages import from_sizes, split_layers
from orchestrate.topology.cluster import Cluster, build_cluster

LARGEST_MICRO_BATCH = 64
"""Larger micro-batches are not searched: they only cost memory."""


@dataclass(frozen=True)
class Candidate:
    """A layout that obeys the rules, with what it will take."""

    choice: Choice
    stages: tuple[StageLayers, ...]
    memory: tuple[MemoryEstimate, ...]
    time: TimeEstimate

    @property
    def peak(self) -> MemoryEstimate:
        """Of the fullest pipeline rank."""
        return max(self.memory, key=lambda estimate: estimate.total)

    @property
    def fits(self) -> bool:
        return self.peak.fits


def search(config: Config) -> Plan:
    """The fastest layout that ``config`` allows and the cluster's memory holds.

    Choices left open (``auto``) are searched, pinned ones are kept. With ``plan.file`` the plan is
    read instead, and checked against the cluster and the model.

    Raises:
        ConfigError: pinned choices contradict one another or the cluster, no layout obeys the rules,
            or none fits the memory (with the least that would hold it).
    """
    cluster = build_cluster(config.cluster)
    if config.plan.file is not None:
        return _given(config, cluster, Path(config.plan.file))
    start = pinned(config)
    if (violation := first_violation(config, cluster, start)) is not None:
        raise ConfigError(violation[1])
    space = Space(config, cluster)
    candidates = list(space.candidates(start))
    fitting = [candidate for candidate in candidates if candidate.fits]
    if not candidates:
        raise ConfigError(_none_valid(cluster, space.rejected))
    if not fitting:
        raise ConfigError(_none_fits(config, cluster, start, candidates))
    best = min(fitting, key=_preference)
    rejected = [*space.rejected, *(_turned_down(c, best) for c in candidates if c is not best)]
    return _plan(config, cluster, space, best, tuple(rejected))


class Space:
    """The layouts of one config on one cluster, and those turned down on the way."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self.config, self.cluster = config, cluster
        self.rejected: list[Rejection] = []
        self._placement = Placement(cluster.devices)
        self._reaches: dict[tuple[int, ...], dict[str, Reach]] = {}
        self._splits: dict[tuple[int, int, int], tuple[StageLayers, ...]] = {}

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
        cost, memory, stages = self._models(choice)
        return Candidate(choice, stages, memory.estimate(), cost.estimate(stages))

    def _models(self, choice: Choice) -> tuple[CostModel, MemoryModel, tuple[StageLayers, ...]]:
        assert choice.tp and choice.pp and choice.dp and choice.vpp and choice.micro_batch
        assert choice.schedule and choice.micro_batches and choice.zero_stage is not None
        recompute = RecomputeConfig(choice.recompute, choice.recompute_layers)
        sequence_parallel = bool(choice.sequence_parallel) and choice.tp > 1
        cost = CostModel(
            cluster=self.cluster,
            model=self.config.model,
            dtype=self.config.precision.dtype,
            tp=choice.tp,
            pp=choice.pp,
            dp=choice.dp,
            vpp=choice.vpp,
            schedule=choice.schedule,
            micro_batch=choice.micro_batch,
            micro_batches=choice.micro_batches,
            sequence_parallel=sequence_parallel,
            zero_stage=choice.zero_stage,
            recompute=recompute,
            reach=self._reach(self.dims(choice)),
        )
        stages = self._split(cost)
        memory = MemoryModel(
            cluster=self.cluster,
            model=self.config.model,
            dtype=self.config.precision.dtype,
            tp=choice.tp,
            pp=choice.pp,
            dp=choice.dp,
            stages=stages,
            schedule=choice.schedule,
            micro_batch=choice.micro_batch,
            micro_batches=choice.micro_batches,
            sequence_parallel=sequence_parallel,
            zero_stage=choice.zero_stage,
            zero_engine=choice.zero_engine,
            recompute=recompute,
        )
        return cost, memory, stages

    def dims(self, choice: Choice) -> ParallelDims:
        """The degrees of a complete ``choice``."""
        assert choice.tp and choice.pp and choice.dp and choice.vpp
        return ParallelDims(
            choice.tp, choice.cp, choice.dp, choice.pp, choice.vpp, tuple(self.config.parallel.order)
        )

    def _reach(self, dims: ParallelDims) -> dict[str, Reach]:
        key = (dims.tp, dims.cp, dims.dp, dims.pp)
        if key not in self._reaches:
            # Nodes are alike and ranks placed in order, so the first group of an axis stands for all.
            self._reaches[key] = {
                axis: reach(self.cluster, self._placement, islice(dims.groups(axis), 1)) for axis in AXES
            }
        return self._reaches[key]

    def _split(self, cost: CostModel) -> tuple[StageLayers, ...]:
        if self.config.parallel.stage_layers is not None:
            return from_sizes(self.config.parallel.stage_layers)
        # What a layer costs beside the head hardly depends on the micro-batch: one split serves all.
        key = (cost.tp, cost.pp, cost.vpp)
        if key not in self._splits:
            parts = cost.stage_costs
            self._splits[key] = split_layers(
                cost.model.layers, cost.pp * cost.vpp, parts.layer, parts.embedding, parts.head
            )
        return self._splits[key]


def _micro_batches(choice: Choice) -> list[int]:
    """Micro-batches worth trying: powers of two that divide a replica's share."""
    assert choice.dp is not None
    share, powers = choice.global_batch // choice.dp, range(LARGEST_MICRO_BATCH.bit_length())
    # Where dp does not divide the batch, the rule that says so is left to speak.
    return [2**p for p in powers if share % 2**p == 0] if choice.global_batch % choice.dp == 0 else [1]


def _default_schedule(choice: Choice) -> Schedule:
    if choice.vpp is not None and choice.vpp > 1:
        return Schedule.interleaved
    assert choice.pp is not None and choice.micro_batches is not None
    # 1F1B needs as many micro-batches as stages; GPipe takes any number.
    return Schedule.one_f_one_b if choice.micro_batches >= choice.pp else Schedule.gpipe


def _preference(candidate: Candidate) -> tuple[float, int, int, int]:
    """Fastest first; among equally fast the least cut up."""
    choice = candidate.choice
    return candidate.time.step, choice.pp or 1, choice.tp or 1, -(choice.micro_batch or 1)


def _turned_down(candidate: Candidate, best: Candidate) -> Rejection:
    layout, peak = str(candidate.choice), candidate.peak
    if not candidate.fits:
        stage = candidate.memory.index(peak)
        return Rejection(
            layout,
            "does not fit the memory",
            f"stage {stage} needs {peak.total / GIB:.1f} GiB of {peak.capacity / GIB:.1f} GiB",
        )
    return Rejection(
        layout,
        "slower",
        f"{candidate.time.step:.3g} s a step, {candidate.time.step / best.time.step - 1:.1%} more than the chosen layout",
    )


def _none_valid(cluster: Cluster, rejected: list[Rejection]) -> str:
    reason, times = Counter(r.reason for r in rejected).most_common(1)[0]
    example = next(r for r in rejected if r.reason == reason)
    return (
        f"no layout suits the {cluster.world} devices of {cluster.name}; {times} of {len(rejected)} turned down "
        f"because {reason}, such as {example.layout or 'the pinned choices'}: {example.detail}"
    )


def _none_fits(config: Config, cluster: Cluster, start: Choice, candidates: list[Candidate]) -> str:
    leanest = min(candidates, key=lambda candidate: candidate.peak.total)
    peak = leanest.peak
    return (
        f"model {config.model.name} does not fit on {cluster.world} x {cluster.device.name}: the leanest layout "
        f"({leanest.choice}) needs {peak.total / GIB:.1f} GiB of {peak.capacity / GIB:.1f} GiB per device; "
        f"{_least_nodes(config, start)}"
    )


def _least_nodes(config: Config, start: Choice) -> str:
    """What number of nodes would hold the model, with the same pinned choices; dp may grow where open."""
    lean = replace(start, micro_batch=start.micro_batch or 1, recompute=start.recompute or Recompute.full)
    nodes = config.cluster.nodes
    for more in [*range(nodes + 1, nodes + 9), *(nodes * 2**power for power in range(4, 13))]:
        cluster = build_cluster(replace(config.cluster, nodes=more, hosts=()))
        if first_violation(config, cluster, lean) is not None:
            continue
        if any(candidate.fits for candidate in Space(config, cluster).candidates(lean)):
            return f"cluster.nodes={more} would hold it"
    needed = "more memory per device, or fewer pinned choices"
    return f"no number of such nodes up to {nodes * 4096} would hold it: it takes {needed}"


def _plan(
    config: Config, cluster: Cluster, space: Space, best: Candidate, rejected: tuple[Rejection, ...]
) -> Plan:
    choice = best.choice
    assert choice.tp and choice.micro_batch and choice.schedule and choice.zero_stage is not None
    dims = space.dims(choice)
    placement = place(cluster, dims)
    if not config.parallel.allow_tp_across_nodes:
        require_tp_inside_domains(cluster, dims, placement)
    return Plan(
        cluster=cluster,
        model=config.model,
        dims=dims,
        placement=placement,
        stages=best.stages,
        schedule=choice.schedule,
        micro_batch=choice.micro_batch,
        global_batch=choice.global_batch,
        sequence_parallel=bool(choice.sequence_parallel) and choice.tp > 1,
        zero_stage=choice.zero_stage,
        zero_engine=choice.zero_engine,
        recompute=RecomputeConfig(choice.recompute, choice.recompute_layers),
        memory=best.memory,
        time=best.time,
        rejected=rejected,
    )


def _given(config: Config, cluster: Cluster, path: Path) -> Plan:
    plan = plans.load(path)
    given, wanted = plan.cluster, cluster
    if set(plan.placement.devices) != set(wanted.devices):
        raise ConfigError(
            f"plan={path} was made for {len(given.nodes)} x {given.nodes[0].devices} devices of {given.name}, but the "
            f"cluster is {len(wanted.nodes)} x {wanted.nodes[0].devices} of {wanted.name}: plan again"
        )
    if plan.model != config.model:
        raise ConfigError(
            f"plan={path} was made for another model than model={config.model.name}: plan again"
        )
    if plan.global_batch != config.train.global_batch:
        raise ConfigError(
            f"plan={path} was made for train.global_batch={plan.global_batch}, not {config.train.global_batch}"
        )
    return plan
