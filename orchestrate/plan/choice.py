"""A layout's choices: `Choice` while some are still open, `Layout` once all are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from orchestrate.config import Config, Recompute, RecomputeConfig, Schedule, ZeroBackend
from orchestrate.plan.layout import AXES, ParallelDims

Violation = tuple[str, str]
"""A short reason, the same for all layouts that fail alike, and the sentence with the numbers."""


@dataclass(frozen=True)
class Layout:
    """Every choice that memory and time depend on."""

    dims: ParallelDims
    micro_batch: int
    """Sequences."""
    global_batch: int
    """Sequences."""
    schedule: Schedule
    sequence_parallel: bool
    zero_stage: int
    zero_engine: ZeroBackend
    recompute: RecomputeConfig

    @property
    def micro_batches(self) -> int:
        """Micro-batches that one replica works through per step."""
        return self.global_batch // (self.micro_batch * self.dims.dp)


@dataclass(frozen=True)
class Choice:
    """Degrees and settings; None where not chosen yet."""

    global_batch: int
    tp: int | None = None
    cp: int = 1
    pp: int | None = None
    dp: int | None = None
    vpp: int | None = None
    micro_batch: int | None = None
    schedule: Schedule | None = None
    sequence_parallel: bool | None = None
    zero_stage: int | None = None
    zero_engine: ZeroBackend = ZeroBackend.deepspeed
    recompute: Recompute | None = None
    recompute_layers: int | None = None
    order: tuple[str, ...] = AXES

    @property
    def micro_batches(self) -> int | None:
        """Micro-batches per replica and step; None while unknown."""
        if self.dp is None or self.micro_batch is None:
            return None
        return self.global_batch // (self.dp * self.micro_batch)

    @property
    def virtual_stages(self) -> int | None:
        """``pp * vpp``; None while unknown."""
        return None if self.pp is None or self.vpp is None else self.pp * self.vpp

    def complete(self) -> Layout:
        """The layout, once nothing is open."""
        assert self.tp is not None
        assert self.pp is not None
        assert self.dp is not None
        assert self.vpp is not None
        assert self.micro_batch is not None
        assert self.schedule is not None
        assert self.zero_stage is not None
        assert self.recompute is not None
        return Layout(
            dims=ParallelDims(self.tp, self.cp, self.dp, self.pp, self.vpp, self.order),
            micro_batch=self.micro_batch,
            global_batch=self.global_batch,
            schedule=self.schedule,
            sequence_parallel=bool(self.sequence_parallel) and self.tp > 1,
            zero_stage=self.zero_stage,
            zero_engine=self.zero_engine,
            recompute=RecomputeConfig(self.recompute, self.recompute_layers),
        )

    def __str__(self) -> str:
        """What has been chosen, as short as a table needs it: ``tp2 pp2 dp2 1f1b mb1 full``."""
        parts = [f"tp{self.tp}"] if self.tp else []
        parts += [f"cp{self.cp}"] if self.cp > 1 else []
        parts += [f"pp{self.pp}"] if self.pp else []
        parts += [f"dp{self.dp}"] if self.dp else []
        if self.schedule is not None and (self.pp or 2) > 1:
            parts.append(self.schedule.value + (f" vpp{self.vpp}" if (self.vpp or 1) > 1 else ""))
        parts += [f"mb{self.micro_batch}"] if self.micro_batch else []
        parts += [f"zero{self.zero_stage}"] if self.zero_stage is not None else []
        parts += [f"recompute {self.recompute.value}"] if self.recompute is not None else []
        return " ".join(parts)


def pinned(config: Config, world: int) -> Choice:
    """What ``config`` fixes; the rest is the planner's. A last open degree follows from the others and
    the ``world`` devices, where it can."""
    parallel = config.parallel
    choice = Choice(
        global_batch=config.train.global_batch,
        tp=parallel.tp,
        cp=parallel.cp,
        pp=parallel.pp,
        dp=parallel.dp,
        vpp=parallel.vpp,
        micro_batch=parallel.micro_batch,
        schedule=parallel.schedule,
        sequence_parallel=parallel.sequence_parallel,
        zero_stage=config.zero.stage,
        zero_engine=config.zero.engine,
        recompute=config.recompute.mode,
        recompute_layers=config.recompute.layers,
        order=tuple(parallel.order),
    )
    degrees = {axis: getattr(choice, axis) for axis in AXES}
    product = prod(degree for degree in degrees.values() if degree is not None)
    unknown = [axis for axis, degree in degrees.items() if degree is None]
    if len(unknown) != 1 or product < 1 or world % product:
        return choice
    share: dict[str, Any] = {unknown[0]: world // product}
    return replace(choice, **share)
