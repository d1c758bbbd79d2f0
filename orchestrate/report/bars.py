"""Sums drawn as bars: memory by stage, step time by layout. Widths are shares of the widest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrate.plan.plan import MemoryEstimate, Plan
from orchestrate.plan.units import gib, seconds
from orchestrate.report.colours import TERMS
from orchestrate.report.inputs import Option
from orchestrate.report.text import percent, ranges

TIME_TERMS = (
    "compute", "recompute", "tp communication", "cp communication", "optimizer", "dp communication",
    "pp communication", "fixed",
)  # fmt: skip
"""In the order of the colours, so that a term has the same one on every page."""
BUBBLE = "bubble"
NAMED = 7
"""Terms of the memory that have a colour of their own; what is left is shown as one."""
SMALL, OTHER = "smaller parts", 7
"""What it is called, and its colour, grey."""
LEAST = 1e-3
"""Terms below this share of the widest bar are too small to see."""


@dataclass(frozen=True)
class Part:
    name: str
    colour: int
    """Index of the colour; -1: hatched, since it is time in which nothing happens."""
    start: float
    """As shares of the drawing's width, as all lengths here."""
    width: float
    tip: str


@dataclass(frozen=True)
class Stack:
    name: str
    detail: str
    parts: tuple[Part, ...]
    value: str
    remark: str = ""
    alarm: bool = False
    """Whether the remark is a warning."""
    limit: float | None = None
    """Where the mark stands that must not be crossed."""


@dataclass(frozen=True)
class Chart:
    stacks: tuple[Stack, ...]
    legend: tuple[tuple[str, int], ...]
    """Terms that occur, with their colours."""
    table: tuple[tuple[str, ...], ...]
    """The numbers: a row of term names, then one for each stack."""


def memory_chart(plan: Plan, tolerated_risk: float) -> Chart:
    """Bytes of each pipeline rank by term, against the device's; neighbours that are alike share a bar.
    A risk of running out above ``tolerated_risk`` is an alarm."""
    widest = max(max(estimate.total, estimate.capacity) for estimate in plan.memory)
    names = list(dict.fromkeys(name for estimate in plan.memory for name in estimate.terms))
    most = {name: max(estimate.terms.get(name, 0.0) for estimate in plan.memory) for name in names}
    large = set(sorted(names, key=lambda name: -most[name])[:NAMED])
    colours = {name: at for at, name in enumerate(name for name in names if name in large)}
    colours |= {SMALL: OTHER} if len(names) > len(large) else {}
    stacks, table = [], []
    for ranks, estimate in _alike(plan.memory):
        name = ("stage " if len(ranks) == 1 else "stages ") + ranges(ranks)
        risk = estimate.probability_of_running_out
        rest = {term: size for term, size in estimate.terms.items() if term not in large}
        shown = {term: size for term, size in estimate.terms.items() if term in large}
        stacks.append(
            Stack(
                name=name,
                detail=_layers(plan, ranks),
                parts=_parts(
                    {**shown, SMALL: sum(rest.values())},
                    colours,
                    widest,
                    lambda size: f"{gib(size)} GiB",
                    {SMALL: "".join(f"\n{term} {gib(size)}" for term, size in rest.items())},
                ),
                value=f"{gib(estimate.total)} of {gib(estimate.capacity)} GiB",
                remark=f"{percent(risk)} risk" if estimate.fits else "does not fit",
                alarm=risk > tolerated_risk or not estimate.fits,
                limit=estimate.capacity / widest,
            )
        )
        table.append((name, *(gib(estimate.terms.get(term, 0.0)) for term in names), gib(estimate.total)))
    return Chart(tuple(stacks), tuple(colours.items()), (("GiB", *names, "sum"), *table))


def time_chart(options: Sequence[Option]) -> Chart:
    """Seconds of a step by term, one bar for each of ``options``."""
    widest = max(option.time.step for option in options)
    found = {name for option in options for name in option.time.terms}
    named = {name: at for at, name in enumerate(TIME_TERMS)} | {BUBBLE: -1}
    others = sorted(found - named.keys())
    colours = {name: named[name] for name in (*TIME_TERMS, BUBBLE) if name in found}
    colours |= {name: (len(TIME_TERMS) + at) % len(TERMS) for at, name in enumerate(others)}
    best, stacks, table = options[0].time.step, [], []
    for option in options:
        step, more = option.time.step, option.time.step / best - 1
        stacks.append(
            Stack(
                name=option.layout,
                detail="",
                parts=_parts(
                    {name: option.time.terms.get(name, 0.0) for name in colours}, colours, widest, seconds
                ),
                value=seconds(step),
                remark="chosen" if option is options[0] else f"{more:+.1%}",
            )
        )
        table.append(
            (option.layout, *(seconds(option.time.terms.get(term, 0.0)) for term in colours), seconds(step))
        )
    return Chart(tuple(stacks), tuple(colours.items()), (("layout", *colours, "step"), *table))


def _parts(
    terms: Mapping[str, float],
    colours: Mapping[str, int],
    widest: float,
    write: Callable[[float], str],
    details: Mapping[str, str] | None = None,
) -> tuple[Part, ...]:
    parts, start, whole = [], 0.0, sum(terms.values())
    for name, size in terms.items():
        width = size / widest
        if width >= LEAST:
            tip = f"{name}\n{write(size)}, {percent(size / whole)}{(details or {}).get(name, '')}"
            parts.append(Part(name, colours[name], start, width, tip))
        start += width
    return tuple(parts)


def _alike(estimates: Sequence[MemoryEstimate]) -> list[tuple[list[int], MemoryEstimate]]:
    """Neighbouring ranks whose totals print alike, with the first one's estimate."""
    rows: list[tuple[list[int], MemoryEstimate]] = []
    for rank, estimate in enumerate(estimates):
        if rows and gib(rows[-1][1].total) == gib(estimate.total):
            rows[-1][0].append(rank)
        else:
            rows.append(([rank], estimate))
    return rows


def _layers(plan: Plan, ranks: Sequence[int]) -> str:
    """Which layers ``ranks`` hold."""
    held = sorted(
        layer
        for rank in ranks
        for stage in plan.stages_of(rank)
        for layer in range(plan.stages[stage].first, plan.stages[stage].last)
    )
    return ("layer " if len(held) == 1 else "layers ") + ranges(held)
