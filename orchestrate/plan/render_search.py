"""What the search found beside the plan, and answers to questions, in tables for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrate.config import DType
from orchestrate.plan.best_row import Row
from orchestrate.plan.figures import budget, figures, plan_figures
from orchestrate.plan.plan import Plan
from orchestrate.plan.questions import Survey
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
    """The rows of an answer, without the columns that are the same in all of them."""
    varies = [
        (name, get) for name, get in _SIZES if len({get(row) for row in answer.rows}) > 1 or name == "nodes"
    ]
    names = [name for name, _get in varies]
    results = ("step", "tokens/s", "MFU", "per device", "GiB", "risk")
    last = len(names) + len(results)
    made = table(*names, *results, "layout", right=tuple(range(last)))
    for row in answer.rows:
        sizes = [get(row) for _name, get in varies]
        if row.layout is None:
            made.add_row(*sizes, *("-" for _name in results), "nothing fits")
        else:
            made.add_row(*sizes, *_results(row), row.layout)
    return made


_SIZES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("nodes", lambda row: f"{row.nodes:,}"),
    ("layers", lambda row: f"{row.layers:,}"),
    ("parameters", lambda row: count(row.parameters)),
    ("sequence", lambda row: f"{row.sequence:,}"),
)


def _results(row: Row) -> list[str]:
    assert row.step_s is not None
    assert row.tokens_per_s is not None
    assert row.mfu is not None
    assert row.memory_gib is not None
    assert row.risk is not None
    return [
        seconds(row.step_s),
        count(row.tokens_per_s),
        f"{row.mfu:.1%}",
        "" if row.efficiency is None else f"{row.efficiency:.0%}",
        f"{row.memory_gib:.1f}",
        chance(row.risk),
    ]


def table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    """A table that suits a terminal and a file alike; the columns numbered in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index in right else "left", overflow="fold")
    return made
