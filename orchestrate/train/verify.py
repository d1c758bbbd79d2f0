"""What ``orchestrate verify`` compares with, how close is close enough, and the tables it prints."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Group
from rich.table import Table

from orchestrate.config import Config, DType, Recompute, RecomputeConfig, Schedule
from orchestrate.plan.layout import ParallelDims, Placement
from orchestrate.plan.plan import Plan, StageLayers, TimeEstimate
from orchestrate.plan.shown.search_tables import table
from orchestrate.train.compare import GRADIENT, INITIAL, LOSS, QUANTITIES, WEIGHT, Difference, Report

TOLERANCE = {DType.fp64: 1e-10, DType.fp32: 1e-5, DType.bf16: 0.05, DType.fp16: 0.05}
"""Largest relative difference that rounding explains, by precision."""


def reference_plan(plan: Plan) -> Plan:
    """The plan of one process that works through the same global batch, micro-batch by micro-batch.

    Nothing is cut, nothing is recomputed, and the optimizer is whole.
    """
    return replace(
        plan,
        dims=ParallelDims(order=plan.dims.order),
        placement=Placement(plan.placement.devices[:1]),
        stages=(StageLayers(0, plan.model.layers),),
        schedule=Schedule.one_f_one_b,
        sequence_parallel=False,
        zero_stage=0,
        recompute=RecomputeConfig(mode=Recompute.none),
        memory=(),
        time=TimeEstimate({}),
        rejected=(),
    )


def tolerance(config: Config) -> float:
    """The largest relative difference that passes."""
    chosen = config.verify.tolerance
    return TOLERANCE[config.precision.dtype] if chosen is None else chosen


def tables(report: Report) -> Group:
    """Every parameter, then the largest relative difference of each quantity."""
    return Group(_parameters(report), _summary(report))


def _parameters(report: Report) -> Table:
    shown = (INITIAL, GRADIENT, WEIGHT)
    title = "Largest relative difference over the steps, per parameter"
    made = table("parameter", *shown, right=(1, 2, 3), title=title)
    for name in report.parameters:
        made.add_row(name, *(_figure(report.worst(quantity, name)) for quantity in shown))
    return made


def _summary(report: Report) -> Table:
    columns = ("quantity", "difference", "tolerance", "", "where")
    made = table(*columns, right=(1, 2), title="Largest relative difference from one process")
    for quantity in QUANTITIES:
        worst = report.worst(quantity)
        if worst is None:
            continue
        failed = sum(not d.ok for d in report.differences if d.quantity == quantity)
        verdict = f"[red]{failed} beyond[/red]" if failed else "[green]ok[/green]"
        made.add_row(quantity, _figure(worst), _tolerance(worst), verdict, _where(worst))
    return made


def _tolerance(worst: Difference) -> str:
    return f"{worst.tolerance:.0e}" if worst.tolerance else "same bits"


def _where(worst: Difference) -> str:
    if not worst.relative:
        return ""
    return f"{worst.name} at step {worst.step}".removeprefix(" at ")


def _figure(worst: Difference | None) -> str:
    if worst is None:
        return ""
    figure = f"{worst.relative:.1e}" if worst.relative else "0"
    return figure if worst.ok else f"[red]{figure}[/red]"


def verdict(report: Report) -> str:
    """One line: how close the losses are, and what lies beyond tolerance."""
    loss = report.worst(LOSS)
    assert loss is not None
    if report.ok:
        return f"equal to one process: loss within {loss.relative:.1e}"
    beyond = [d for d in report.differences if not d.ok]
    first = beyond[0]
    return (
        f"NOT equal to one process: {len(beyond)} of {len(report.differences)} arrays beyond tolerance, "
        f"first {first.quantity} {first.name or ''} at step {first.step}".replace("  ", " ")
    )
