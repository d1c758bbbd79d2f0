"""What a report is drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.config import DType
from orchestrate.plan.pipeline.simulate import Timeline
from orchestrate.plan.plan import Plan, TimeEstimate


@dataclass(frozen=True)
class Option:
    """One of the best layouts, for the comparison of where their steps go."""

    layout: str
    """As short as the tables write it: ``tp4 pp8 dp4 1f1b mb1``."""
    time: TimeEstimate


@dataclass(frozen=True)
class ScalingPoint:
    """The best plan for one number of nodes."""

    nodes: int
    devices: int
    tokens_per_second: float
    efficiency: float
    """Tokens per second and device, over those of the smallest number of nodes."""
    layout: str = ""


@dataclass(frozen=True)
class Drawing:
    """The pipeline's step as simulated for the picture."""

    timeline: Timeline
    micro_batches: int
    """How many were simulated: those of the step, or fewer where they are too many to draw."""


@dataclass(frozen=True)
class Report:
    """Everything on the page. Sections whose input is empty are left out."""

    plan: Plan
    dtype: DType
    """Of weights and activations: what MFU is relative to."""
    tolerated_risk: float = 0.05
    """Probability of running out of memory above which the page warns."""
    tokens: float | None = None
    """To train on, for days and costs."""
    why: tuple[str, ...] = ()
    """Sentences that explain the choice."""
    pipeline: Drawing | None = None
    options: tuple[Option, ...] = ()
    """The best layouts, the plan's own first."""
    scaling: tuple[ScalingPoint, ...] = ()
    """By number of nodes, ascending."""
