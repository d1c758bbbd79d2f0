"""What the search found beside the plan, and answers to questions, in tables for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrate.config import DType
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.best_row import Row
from orchestrate.plan.search.questions import Survey
from orchestrate.plan.shown.figures import budget, figures, plan_figures
from orchestrate.plan.units import chance, count, gib, seconds

if TYPE_CHECKING:
    from rich.table import Table


def figures_line(plan: Plan, dtype: DType, tokens: float | None) -> str:
    """What people compare runs by, and what ``tokens`` to train on would take."""
    these = plan_figures(plan, dtype)
    told = (
        f"MFU {these.mfu:.1%}, HFU {these.hfu:.1%}; communication to computation "
        f"{these.communication_to_computation:.3f}; shard efficiency {these.shard_efficiency:.1%}"
    )
    if tokens is None:
        return told
    whole = budget(plan, tokens)
    cost = (
        ""
        if whole.cost is None
        else f", {whole.cost:,.0f} at {plan.cluster.device.price_per_hour:g} a device-hour"
    )
    return f"{told}\n{count(tokens)} tokens take {whole.days:,.1f} days{cost}"


def best_layouts(plan: Plan, dtype: DType) -> Table:
    """The chosen layout and the next best."""
    made = table("Best", "Layout", "Step", "MFU", "GiB", "Risk", "Loses most to", right=(0, 2, 3, 4, 5))
    of = [(plan.layout, plan.stages, plan.memory, plan.time)]
    of += [(other.layout, other.stages, other.memory, other.time) for other in plan.alternatives]
    for rank, (layout, stages, memory, time) in enumerate(of, 1):
        fullest = max(memory, key=lambda estimate: estimate.total)
        losses = {name: spent for name, spent in time.terms.items() if name != "compute"}
        most = max(losses, key=losses.__getitem__, default="")
        made.add_row(
            str(rank),
            str(layout),
            seconds(time.step),
            f"{figures(plan, dtype, (layout, stages, time)).mfu:.1%}",
            gib(fullest.total),
            chance(fullest.probability_of_running_out),
            f"{most} {losses[most] / time.step:.0%}" if most else "",
        )
    return made


def answer_table(answer: Survey) -> Table:
    """The rows of an answer, without the sizes that are the same in all of them and results that none has."""
    sizes = [(name, get) for name, get in _SIZES if len({get(row) for row in answer.rows}) > 1] or _SIZES[:1]
    compared = any(row.efficiency is not None for row in answer.rows)
    results = [(name, get) for name, get in _RESULTS if name != "per device" or compared]
    columns = [*sizes, *results]
    made = table(*(name for name, _get in columns), "layout", right=tuple(range(len(columns))))
    for row in answer.rows:
        made.add_row(*(get(row) for _name, get in columns), row.layout or "nothing fits")
    return made


_SIZES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("nodes", lambda row: f"{row.nodes:,}"),
    ("layers", lambda row: f"{row.layers:,}"),
    ("parameters", lambda row: count(row.parameters)),
    ("sequence", lambda row: f"{row.sequence:,}"),
)


def _known(show: Callable[[float], str], value: float | None) -> str:
    return "-" if value is None else show(value)


_RESULTS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("step", lambda row: _known(seconds, row.step_s)),
    ("tokens/s", lambda row: _known(count, row.tokens_per_s)),
    ("MFU", lambda row: _known("{:.1%}".format, row.mfu)),
    ("per device", lambda row: _known("{:.0%}".format, row.efficiency)),
    ("GiB", lambda row: _known("{:.1f}".format, row.memory_gib)),
    ("risk", lambda row: _known(chance, row.risk)),
)


def table(*columns: str, right: tuple[int, ...] = (), title: str | None = None) -> Table:
    """A table that suits a terminal and a file alike; the columns numbered in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    if title is not None:
        made.title, made.title_justify, made.title_style = f"\n{title}", "left", "bold"
    for index, name in enumerate(columns):
        if index in right:
            made.add_column(name, justify="right", no_wrap=True)
        else:
            made.add_column(name, overflow="fold")
    return made
