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

    def __str__(self) -> str:
        return str(Choice.of(self))


@dataclass(frozen=True)
class Choice:
    """Degrees and settings; None where not chosen yet."""

    global_batch: int
    tp: int | None = None
    cp: int | None = 1
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
    def degrees(self) -> tuple[int, int, int, int]:
        """tp, cp, pp and dp, once all are chosen."""
        assert self.tp is not None
        assert self.cp is not None
        assert self.pp is not None
        assert self.dp is not None
        return self.tp, self.cp, self.pp, self.dp

    @property
    def virtual_stages(self) -> int | None:
        """``pp * vpp``; None while unknown."""
        return None if self.pp is None or self.vpp is None else self.pp * self.vpp

    @staticmethod
    def of(layout: Layout) -> Choice:
        """The choice that `complete` turns into ``layout``."""
        dims, recompute = layout.dims, layout.recompute
        return Choice(
            global_batch=layout.global_batch,
            tp=dims.tp,
            cp=dims.cp,
            pp=dims.pp,
            dp=dims.dp,
            vpp=dims.vpp,
            micro_batch=layout.micro_batch,
            schedule=layout.schedule,
            sequence_parallel=layout.sequence_parallel,
            zero_stage=layout.zero_stage,
            zero_engine=layout.zero_engine,
            recompute=recompute.mode,
            recompute_layers=recompute.layers,
            order=dims.order,
        )

    def complete(self) -> Layout:
        """The layout, once nothing is open."""
        tp, cp, pp, dp = self.degrees
        assert self.vpp is not None
        assert self.micro_batch is not None
        assert self.schedule is not None
        assert self.zero_stage is not None
        assert self.recompute is not None
        return Layout(
            dims=ParallelDims(tp, cp, dp, pp, self.vpp, self.order),
            micro_batch=self.micro_batch,
            global_batch=self.global_batch,
            schedule=self.schedule,
            sequence_parallel=bool(self.sequence_parallel) and tp > 1,
            zero_stage=self.zero_stage,
            zero_engine=self.zero_engine,
            recompute=RecomputeConfig(self.recompute, self.recompute_layers),
        )

    def __str__(self) -> str:
        """What has been chosen, as short as a table needs it: ``tp2 sp pp2 dp2 1f1b mb1 zero1 full``."""
        parts = [f"tp{self.tp}"] if self.tp else []
        parts += ["sp"] if self.sequence_parallel and self.tp != 1 else []
        parts += [f"cp{self.cp}"] if (self.cp or 1) > 1 else []
        parts += [f"pp{self.pp}"] if self.pp else []
        parts += [f"dp{self.dp}"] if self.dp else []
        if self.schedule is not None and (self.pp or 2) > 1:
            parts.append(self.schedule.value)
        parts += [f"vpp{self.vpp}"] if (self.vpp or 1) > 1 and self.schedule is not Schedule.zbv else []
        parts += [f"mb{self.micro_batch}"] if self.micro_batch else []
        if self.zero_stage is not None:
            named = self.zero_stage > 0 and self.zero_engine is not ZeroBackend.deepspeed
            parts.append(f"zero{self.zero_stage}" + (f"-{self.zero_engine.value}" if named else ""))
        if self.recompute is not None:
            layers = "" if self.recompute_layers is None else f"-{self.recompute_layers}"
            parts.append(f"recompute-{self.recompute.value}{layers}")
        return " ".join(parts)


def pinned(config: Config, world: int) -> Choice:
    """What ``config`` fixes; the rest is the planner's. A last open degree follows from the others and
    the ``world`` devices, where it can."""
    return derived(fixed(config), world)


def fixed(config: Config) -> Choice:
    """What ``config`` itself fixes."""
    parallel = config.parallel
    return Choice(
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
        order=parallel.order or AXES,
    )


def derived(choice: Choice, world: int) -> Choice:
    """``choice`` with a last open degree that follows from the others and the ``world`` devices."""
    degrees = {axis: getattr(choice, axis) for axis in AXES}
    product = prod(degree for degree in degrees.values() if degree is not None)
    unknown = [axis for axis, degree in degrees.items() if degree is None]
    if len(unknown) != 1 or product < 1 or world % product:
        return choice
    share: dict[str, Any] = {unknown[0]: world // product}
    return replace(choice, **share)
