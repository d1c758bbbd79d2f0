"""The plan: the frozen answer of planning, and all that training needs to know about the layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import erfc, sqrt
from pathlib import Path
from typing import Any

from orchestrate.config import ModelConfig, Recompute, RecomputeConfig, Schedule, ZeroBackend, dump
from orchestrate.errors import ConfigError
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import ParallelDims, Placement, pipeline_rank, stages_by_rank
from orchestrate.topology.cluster import Cluster


@dataclass(frozen=True)
class StageLayers:
    """The slice of the model in one virtual stage: layers ``first`` up to but not including ``last``."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each rank of one pipeline stage, by term."""

    terms: dict[str, float]
    capacity: float
    """Bytes that the device has."""
    spread: float = 0.0
    """Standard deviation of the total's relative error, from runs that were measured."""

    @property
    def total(self) -> float:
        return sum(self.terms.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.capacity

    @property
    def probability_of_running_out(self) -> float:
        """That the device has too little: the total's relative error is normal, of size `spread`."""
        if self.spread <= 0 or self.total <= 0:
            return float(not self.fits)
        return 0.5 * erfc((self.capacity / self.total - 1) / (self.spread * sqrt(2)))


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of one optimizer step, by term; the terms add up to the step."""

    terms: dict[str, float]
    busy: tuple[float, ...] = ()
    """By pipeline rank, seconds in which it does not wait for another stage."""

    @property
    def step(self) -> float:
        return sum(self.terms.values())


@dataclass(frozen=True)
class Rejection:
    """Layouts that were considered and turned down for one reason, with the best of them as an example."""

    layout: str
    reason: str
    detail: str
    layouts: int = 1
    """How many. One that a rule forbids before everything is chosen counts once."""


@dataclass(frozen=True)
class Alternative:
    """A layout that came close to being chosen, and what it would take."""

    layout: Layout
    stages: tuple[StageLayers, ...]
    """By virtual stage."""
    memory: tuple[MemoryEstimate, ...]
    """By pipeline rank."""
    time: TimeEstimate


@dataclass(frozen=True)
class Plan:
    """Everything about the layout, decided. Planning writes it, launching and training read it."""

    cluster: Cluster
    model: ModelConfig
    dims: ParallelDims
    placement: Placement
    stages: tuple[StageLayers, ...]
    """By virtual stage, first to last: ``pp * vpp`` of them."""
    schedule: Schedule
    micro_batch: int
    """Sequences."""
    global_batch: int
    """Sequences."""
    sequence_parallel: bool
    zero_stage: int
    zero_engine: ZeroBackend
    recompute: RecomputeConfig
    tp_across_domains: bool = False
    """Whether a tensor-parallel group may leave its fast-link domain, as the user allowed."""
    memory: tuple[MemoryEstimate, ...] = ()
    """By pipeline rank."""
    time: TimeEstimate = TimeEstimate({})
    rejected: tuple[Rejection, ...] = field(default=(), compare=False)
    """One per reason, the commonest first."""
    alternatives: tuple[Alternative, ...] = field(default=(), compare=False)
    """The next best layouts, the best first; they are among the rejected too."""
    explanation: tuple[str, ...] = field(default=(), compare=False)
    """Why this one, in sentences."""

    def __post_init__(self) -> None:
        assert len(self.stages) == self.dims.pp * self.dims.vpp, "one slice of layers per virtual stage"
        assert len(self.placement.devices) == self.dims.world, "one device per rank"
        assert self.recompute.mode is not None, "the planner has decided on recomputation"

    @property
    def micro_batches(self) -> int:
        """Micro-batches that one replica works through per step."""
        return self.global_batch // (self.micro_batch * self.dims.dp)

    @property
    def layout(self) -> Layout:
        """What memory and time depend on."""
        return Layout(
            dims=self.dims,
            micro_batch=self.micro_batch,
            global_batch=self.global_batch,
            schedule=self.schedule,
            sequence_parallel=self.sequence_parallel,
            zero_stage=self.zero_stage,
            zero_engine=self.zero_engine,
            recompute=self.recompute,
        )

    def pipeline_rank(self, stage: int) -> int:
        """The pipeline rank that holds virtual ``stage``."""
        return pipeline_rank(self.schedule, self.dims.pp, stage)

    def stages_of(self, pipeline_rank: int) -> tuple[int, ...]:
        """Virtual stages that ``pipeline_rank`` holds, first to last."""
        return stages_by_rank(self.schedule, self.dims.pp, len(self.stages))[pipeline_rank]

    @property
    def recompute_mode(self) -> Recompute:
        assert self.recompute.mode is not None
        return self.recompute.mode


SEARCHED = ("rejected", "alternatives", "explanation")
"""What a plan knows of the search that found it."""


def save(plan: Plan, path: Path) -> None:
    """Write ``plan`` as YAML, without the layouts that were not chosen: training has no use for them."""
    import yaml

    # libyaml writes and reads a plan of thousands of ranks some ten times faster, where it is there.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    values = {key: value for key, value in dump(plan).items() if key not in SEARCHED}
    path.write_text(yaml.dump(values, Dumper=dumper, sort_keys=False, default_flow_style=None, width=120))


def load(path: Path) -> Plan:
    """Read a plan that `save` wrote.

    Raises:
        ConfigError: the file is missing, or is not a plan.
    """
    import yaml
    from pydantic import ValidationError

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        plan: Plan = _adapter().validate_python(yaml.load(path.read_text(), Loader=loader))
        return plan
    except FileNotFoundError:
        raise ConfigError(f"plan={path}: no such file") from None
    except (yaml.YAMLError, ValidationError, AssertionError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        at = [".".join(map(str, first["loc"]))] if first and first["loc"] else []
        reason = ": ".join([*at, first["msg"] if first else str(error).splitlines()[0]])
        raise ConfigError(f"plan={path} is not a plan: {reason}") from None


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)
