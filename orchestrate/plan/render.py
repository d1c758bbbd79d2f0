"""A plan for people (tables) and for programs (plain values)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrate.config import Recompute, dump
from orchestrate.plan.flops import model_flops
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.parameters import count_parameters
from orchestrate.plan.plan import MemoryEstimate, Plan

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

GIB = 2**30
BAR = 20
"""Characters of a full memory bar."""
NODES_SHOWN = 4
"""Nodes that the map draws at each end of a long list."""


def plan_json(plan: Plan) -> dict[str, Any]:
    """``plan`` in plain values that JSON can write, with what follows from it: totals and reasons counted."""
    values: dict[str, Any] = dump(plan)
    tokens = plan.global_batch * plan.model.seq
    values["derived"] = {
        "world": plan.dims.world,
        "parameters": count_parameters(plan.model).total,
        "micro_batches": plan.micro_batches,
        "step_time_s": plan.time.step,
        "tokens_per_s": tokens / plan.time.step if plan.time.terms else None,
        "model_flops_per_step": model_flops(plan.model, tokens),
        "memory_bytes": [estimate.total for estimate in plan.memory],
        "rejections": dict(_reasons(plan)),
    }
    return values


def render_plan(plan: Plan) -> RenderableType:
    """``plan`` as tables that suit 80 columns and read as well in a file: layout, step time, memory by
    stage, layouts turned down, and the map of ranks."""
    from rich.console import Group

    parts: list[RenderableType] = [_title(plan), _layout(plan)]
    if plan.time.terms:
        parts += ["", _time(plan)]
    if plan.memory:
        parts += ["", _memory(plan)]
    if plan.rejected:
        parts += ["", _rejections(plan)]
    parts += ["", _map(plan)]
    return Group(*parts)


def _title(plan: Plan) -> str:
    cluster, nodes = plan.cluster, plan.cluster.nodes
    size = _count(count_parameters(plan.model).total)
    plural = "s" if len(nodes) > 1 else ""
    return (
        f"[bold]{plan.model.name}[/] ({size} parameters) on [bold]{cluster.name}[/]: "
        f"{len(nodes)} node{plural} of {nodes[0].devices} x {cluster.device.name}"
    )


def _layout(plan: Plan) -> Table:
    dims, table = plan.dims, _table("Layout", "", "Why")
    table.add_row("tensor parallel", str(dims.tp), _why_tp(plan))
    table.add_row("pipeline stages", str(dims.pp), _why_pp(plan))
    table.add_row("data parallel", str(dims.dp), f"the rest of {dims.world} devices")
    if dims.pp > 1:
        stages = f" x {dims.vpp} virtual" if dims.vpp > 1 else ""
        sizes = _runs([len(stage) for stage in plan.stages])
        table.add_row("schedule", plan.schedule.value + stages, f"layers per stage: {sizes}")
    replica = f"{plan.micro_batches} a step for each of {dims.dp} replicas: {plan.global_batch} sequences"
    table.add_row("micro-batch", str(plan.micro_batch), replica)
    if dims.tp > 1:
        along = "norms, dropout and residuals cut over the sequence" if plan.sequence_parallel else ""
        table.add_row("sequence parallel", "yes" if plan.sequence_parallel else "no", along)
    table.add_row("ZeRO stage", str(plan.zero_stage), _why_zero(plan))
    table.add_row("recompute", plan.recompute_mode.value, _why_recompute(plan))
    return table


def _why_tp(plan: Plan) -> str:
    tp, domain = plan.dims.tp, plan.cluster.nvlink_domain
    if tp == 1:
        return "no matrix is cut"
    inside = "within" if domain % tp == 0 else "beyond"
    return f"divides {plan.model.heads} heads; {inside} an NVLink domain of {domain} devices"


def _why_pp(plan: Plan) -> str:
    if plan.dims.pp == 1:
        return "every replica holds all layers"
    return f"{plan.model.layers} layers over {plan.dims.pp} ranks"


def _why_zero(plan: Plan) -> str:
    cut = ("nothing", "optimizer state", "optimizer state and gradients", "everything")[plan.zero_stage]
    if plan.zero_stage == 0:
        return "replicas hold everything" if plan.dims.dp > 1 else "there is one replica"
    return f"{cut} cut over {plan.dims.dp} replicas ({plan.zero_engine.value})"


def _why_recompute(plan: Plan) -> str:
    if plan.recompute_mode is Recompute.none:
        return "activations are kept"
    if plan.recompute_mode is Recompute.selective:
        return "the attention core is computed again in the backward pass"
    layers = plan.recompute.layers
    return "whole layers are computed again" + ("" if layers is None else f", the first {layers} of a stage")


def _time(plan: Plan) -> Table:
    step = plan.time.step
    table = _table("Predicted step", "", "", right=(1, 2))
    for name, seconds in plan.time.terms.items():
        table.add_row(name, _seconds(seconds), f"{seconds / step:.1%}")
    tokens = plan.global_batch * plan.model.seq
    table.add_row("[bold]step[/]", f"[bold]{_seconds(step)}[/]", f"{_count(tokens / step)} tokens/s")
    return table


def _memory(plan: Plan) -> Table:
    table = _table("Predicted memory", "GiB", "of", "", "Largest parts", right=(1, 2))
    for first, last, estimate in _alike(plan.memory):
        stage = f"stage {first}" if first == last else f"stages {first}-{last}"
        filled = min(BAR, round(BAR * estimate.total / estimate.capacity))
        bar = "#" * filled + "." * (BAR - filled)
        largest = sorted(estimate.terms.items(), key=lambda term: -term[1])[:2]
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in largest)
        table.add_row(stage, _gib(estimate.total), _gib(estimate.capacity), bar, parts)
    return table


def _alike(estimates: tuple[MemoryEstimate, ...]) -> list[tuple[int, int, MemoryEstimate]]:
    """Neighbouring stages whose totals print alike, as (first, last, the first's estimate)."""
    rows: list[tuple[int, int, MemoryEstimate]] = []
    for stage, estimate in enumerate(estimates):
        if rows and _gib(rows[-1][2].total) == _gib(estimate.total):
            rows[-1] = (rows[-1][0], stage, rows[-1][2])
        else:
            rows.append((stage, stage, estimate))
    return rows


def _rejections(plan: Plan) -> Table:
    table = _table(f"{len(plan.rejected)} turned down", "", "For example", right=(1,))
    for reason, times in _reasons(plan):
        # The search lists what it turned down best first.
        example = next(r for r in plan.rejected if r.reason == reason)
        table.add_row(reason, str(times), f"{example.layout}: {example.detail}")
    return table


def _reasons(plan: Plan) -> list[tuple[str, int]]:
    return Counter(rejection.reason for rejection in plan.rejected).most_common()


def _map(plan: Plan) -> Table:
    """Where each rank sits: one row per node, one cell per device."""
    nodes, dims = plan.cluster.nodes, plan.dims
    width = max(node.devices for node in nodes)
    rank_on = {device: rank for rank, device in enumerate(plan.placement.devices)}
    # Eight cells of three lines fit 80 columns, where eight of one line would not.
    between = " " if width <= 4 else "\n"
    table = _table("Rank map", *(str(i) for i in range(width)))
    left_out = max(0, len(nodes) - 2 * NODES_SHOWN)
    for index, node in enumerate(nodes):
        if left_out and NODES_SHOWN <= index < NODES_SHOWN + left_out:
            if index == NODES_SHOWN:
                table.add_row(f"... {left_out} more")
            continue
        ranks = [rank_on.get(device) for device in plan.cluster.devices_of(node)]
        table.add_row(node.host, *("-" if r is None else between.join(_axes(dims, r)) for r in ranks))
    return table


def _axes(dims: ParallelDims, rank: int) -> list[str]:
    at = dims.coordinates(rank)
    return [f"tp{at.tp}", *([f"cp{at.cp}"] if dims.cp > 1 else []), f"pp{at.pp}", f"dp{at.dp}"]


def _table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index in right else "left", overflow="fold")
    return table


def _runs(sizes: list[int]) -> str:
    """``9, 8 x 3`` for 9 8 8 8."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][0] == size:
            runs[-1][1] += 1
        else:
            runs.append([size, 1])
    return ", ".join(str(size) if times == 1 else f"{size} x {times}" for size, times in runs)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= 10 * GIB else f"{size / GIB:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _count(number: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
