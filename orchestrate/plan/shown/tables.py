"""A plan in tables, for people."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from orchestrate.config import DType, Recompute
from orchestrate.plan.layout import AXES, ParallelDims
from orchestrate.plan.parameters import count_parameters
from orchestrate.plan.plan import MemoryEstimate, Plan
from orchestrate.plan.shown.search_tables import best_layouts, figures_line, table
from orchestrate.plan.units import count, gib, seconds

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BAR = 20
"""Characters of a full memory bar."""
LISTED = 12
"""Most stages whose layers are listed one by one."""
NODES_SHOWN = 4
"""Nodes that the map draws at each end of a long list."""


def render_plan(plan: Plan, dtype: DType | None = None, tokens: float | None = None) -> RenderableType:
    """``plan`` as tables that suit 80 columns and read as well in a file: layout, step time, memory by
    stage, layouts turned down, and the map of ranks. With the ``dtype`` of weights and activations also
    the best layouts beside one another and the figures, with ``tokens`` to train on the days it takes."""
    from rich.console import Group

    parts: list[RenderableType] = [_title(plan), _layout(plan)]
    if plan.time.terms:
        parts += ["", _time(plan)]
        if dtype is not None:
            parts += [figures_line(plan, dtype, tokens)]
    if plan.memory:
        parts += ["", _memory(plan)]
    if dtype is not None and plan.alternatives:
        parts += ["", best_layouts(plan, dtype)]
    if plan.explanation and dtype is not None:
        parts += ["", "[bold]Why this one[/]", *plan.explanation]
    if plan.rejected:
        parts += ["", _rejections(plan)]
    parts += ["", _map(plan)]
    return Group(*parts)


def _title(plan: Plan) -> str:
    cluster, nodes = plan.cluster, plan.cluster.nodes
    size = count(count_parameters(plan.model).total)
    plural = "s" if len(nodes) > 1 else ""
    alike = len({node.devices for node in nodes}) == 1
    of = (
        f"{nodes[0].devices} x {cluster.device_names}"
        if alike
        else f"{cluster.device_names}: {cluster.shape}"
    )
    return (
        f"[bold]{plan.model.name}[/] ({size} parameters) on [bold]{cluster.name}[/]: "
        f"{len(nodes)} node{plural} of {of}"
    )


def _layout(plan: Plan) -> Table:
    dims, made = plan.dims, table("Layout", "", "Why")
    made.add_row("tensor parallel", str(dims.tp), _why_tp(plan))
    made.add_row("pipeline stages", str(dims.pp), _why_pp(plan))
    if dims.cp > 1:
        made.add_row(
            "context parallel", str(dims.cp), f"every sequence cut in {2 * dims.cp} slices, two each"
        )
    cut = dims.tp * dims.cp * dims.pp
    rest = f"the rest of {dims.world} devices" + (f", {cut} to a replica" if cut > 1 else "")
    made.add_row("data parallel", str(dims.dp), rest)
    if dims.order != AXES:
        made.add_row("axis order", " ".join(dims.order), "innermost first")
    if dims.pp > 1:
        stages = f" x {dims.vpp} virtual" if dims.vpp > 1 else ""
        made.add_row("schedule", plan.schedule.value + stages, _sizes([len(stage) for stage in plan.stages]))
    each = f" for each of {dims.dp} replicas" if dims.dp > 1 else ""
    made.add_row(
        "micro-batch",
        str(plan.micro_batch),
        f"{plan.micro_batches} a step{each}: {plan.global_batch} sequences",
    )
    if dims.tp > 1:
        held = "cut over the sequence" if plan.sequence_parallel else "whole on every tensor-parallel rank"
        made.add_row(
            "sequence parallel",
            "yes" if plan.sequence_parallel else "no",
            f"norms, dropout and residuals {held}",
        )
    made.add_row("ZeRO stage", str(plan.zero_stage), _why_zero(plan))
    made.add_row("recompute", plan.recompute_mode.value, _why_recompute(plan))
    return made


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
    made = table("Predicted step", "", "", right=(1, 2))
    for name, spent in plan.time.terms.items():
        made.add_row(name, seconds(spent), f"{spent / step:.1%}")
    tokens = plan.global_batch * plan.model.seq
    made.add_row("[bold]step[/]", f"[bold]{seconds(step)}[/]", f"{count(tokens / step)} tokens/s")
    return made


def _memory(plan: Plan) -> Table:
    made = table("Predicted memory", "GiB", "of", "", "Largest parts", right=(1, 2))
    for first, last, estimate in _alike(plan.memory):
        stage = f"stage {first}" if first == last else f"stages {first}-{last}"
        filled = min(BAR, round(BAR * estimate.total / estimate.capacity))
        bar = "#" * filled + "." * (BAR - filled)
        largest = sorted(estimate.terms.items(), key=lambda term: -term[1])[:2]
        parts = ", ".join(f"{name} {gib(size)}" for name, size in largest)
        made.add_row(stage, gib(estimate.total), gib(estimate.capacity), bar, parts)
    return made


def _alike(estimates: tuple[MemoryEstimate, ...]) -> list[tuple[int, int, MemoryEstimate]]:
    """Neighbouring stages whose totals print alike, as (first, last, the first's estimate)."""
    rows: list[tuple[int, int, MemoryEstimate]] = []
    for stage, estimate in enumerate(estimates):
        if rows and gib(rows[-1][2].total) == gib(estimate.total):
            rows[-1] = (rows[-1][0], stage, rows[-1][2])
        else:
            rows.append((stage, stage, estimate))
    return rows


def _rejections(plan: Plan) -> Table:
    total = sum(rejection.layouts for rejection in plan.rejected)
    made = table(f"{total:,} turned down", "", "For example", right=(1,))
    for rejection in plan.rejected:
        made.add_row(rejection.reason, f"{rejection.layouts:,}", f"{rejection.layout}: {rejection.detail}")
    return made


def _map(plan: Plan) -> Table:
    """Where each rank sits: one row per node, one cell per device."""
    nodes, dims = plan.cluster.nodes, plan.dims
    width = max(node.devices for node in nodes)
    rank_on = {device: rank for rank, device in enumerate(plan.placement.devices)}
    # Eight cells of three lines fit 80 columns, where eight of one line would not.
    between = " " if width <= 4 else "\n"
    made = table("Rank map", *(str(i) for i in range(width)))
    left_out = max(0, len(nodes) - 2 * NODES_SHOWN)
    for index, node in enumerate(nodes):
        if left_out and NODES_SHOWN <= index < NODES_SHOWN + left_out:
            if index == NODES_SHOWN:
                made.add_row(f"... {left_out} more")
            continue
        ranks = [rank_on.get(device) for device in plan.cluster.devices_of(node)]
        made.add_row(node.host, *("-" if r is None else between.join(_axes(dims, r)) for r in ranks))
    return made


def _axes(dims: ParallelDims, rank: int) -> list[str]:
    at = dims.coordinates(rank)
    return [f"tp{at.tp}", *([f"cp{at.cp}"] if dims.cp > 1 else []), f"pp{at.pp}", f"dp{at.dp}"]


def _sizes(sizes: list[int]) -> str:
    """How many layers each stage has: one by one where that is short."""
    if len(set(sizes)) == 1:
        return f"{sizes[0]} layer{'s' if sizes[0] > 1 else ''} to each of {len(sizes)} stages"
    if len(sizes) <= LISTED:
        return f"layers by stage: {' '.join(map(str, sizes))}"
    runs = [(size, len(list(alike))) for size, alike in itertools.groupby(sizes)]
    return "layers by stage: " + ", ".join(
        f"{times} times {size}" if times > 1 else str(size) for size, times in runs
    )
