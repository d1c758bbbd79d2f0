"""The pipeline's step as a picture: a row for each pipeline rank, a bar for each action.

Where a step has too many micro-batches, its start and its end are drawn and the middle, which only
repeats, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrate.plan.pipeline.actions import Kind
from orchestrate.plan.pipeline.simulate import Event, Timeline
from orchestrate.plan.plan import Plan
from orchestrate.plan.units import seconds
from orchestrate.report.inputs import Drawing
from orchestrate.report.text import plural

WIDTH = 1156.0
"""Of the picture, in pixels, as all lengths here."""
LEFT = 64.0
"""Room for the names of the ranks."""
RIGHT = 62.0
"""Room for the share of each rank's time that is idle."""
GAP = 26.0
"""Where the middle is left out."""
ROW = 26.0
BAR = 20.0
TOP = 24.0
"""Room for the time axis."""
NARROWEST = 36.0
"""Of a micro-batch, forward and backward, in one virtual stage: what still reads well."""
DIGIT, MARGIN = 6.5, 3.0
"""What a bar has to be wide to say which micro-batch it is: so much for each digit, and so much more."""
AFTER = ("dp communication", "optimizer", "fixed")
"""Terms of the step that the pipeline has no part in."""
ROWS = 16
"""Pipeline ranks drawn; of more, as many spread evenly."""


KINDS = {
    Kind.forward: "forward",
    Kind.backward: "backward",
    Kind.inputs: "backward: inputs",
    Kind.weights: "backward: weights",
}
"""What the legend calls them."""


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    kind: Kind
    chunk: int
    """Which of the rank's virtual stages, 0 first."""
    text: str
    tip: str


@dataclass(frozen=True)
class Row:
    rank: int
    y: float
    idle: float
    """Share of the pipeline's time in which the rank waits."""
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Tick:
    x: float
    text: str


@dataclass(frozen=True)
class Stretch:
    """A part of the time axis that is drawn: seconds from ``start`` to ``end``, ``x`` on in pixels."""

    start: float
    end: float
    x: float
    width: float

    def at(self, time: float) -> float:
        """Where ``time`` is drawn, the stretch's edge where it is outside."""
        inside = min(max(time, self.start), self.end)
        return self.x + (inside - self.start) / (self.end - self.start) * self.width


@dataclass(frozen=True)
class Picture:
    height: float
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    stretches: tuple[Stretch, ...]
    kinds: tuple[Kind, ...]
    """Those that occur, for the legend."""
    chunks: int
    note: str
    """What of the step is drawn."""
    width: float = WIDTH


def picture(plan: Plan, drawing: Drawing) -> Picture:
    """``drawing`` to scale, in a broken line where the middle is left out."""
    timeline = drawing.timeline
    stretches = _stretches(timeline, plan.dims.pp, plan.dims.vpp, drawing.micro_batches)
    shown = _ranks(len(timeline.actions))
    rows = tuple(_row(plan, timeline, rank, TOP + ROW * at, stretches) for at, rank in enumerate(shown))
    kinds = {bar.kind for row in rows for bar in row.bars}
    return Picture(
        height=TOP + ROW * len(rows) + 4,
        rows=rows,
        ticks=tuple(tick for stretch in stretches for tick in _ticks(stretch, timeline.seconds)),
        stretches=stretches,
        kinds=tuple(kind for kind in KINDS if kind in kinds),
        chunks=plan.dims.vpp,
        note=_note(plan, drawing, len(shown), len(stretches) > 1),
    )


def _stretches(timeline: Timeline, pp: int, vpp: int, micro_batches: int) -> tuple[Stretch, ...]:
    """All of the time where it fits; else a start and an end, each long enough to fill and to drain."""
    room, end = WIDTH - LEFT - RIGHT, timeline.seconds
    unit = max(sum(e.end - e.start for e in events) for events in timeline.actions) / micro_batches
    drawn = max(room / (NARROWEST * vpp), 2 * (pp + 2)) * unit
    if drawn >= 0.9 * end:
        return (Stretch(0.0, end, LEFT, room),)
    half, width = drawn / 2, (room - GAP) / 2
    return Stretch(0.0, half, LEFT, width), Stretch(end - half, end, LEFT + width + GAP, width)


def _ranks(ranks: int) -> Sequence[int]:
    if ranks <= ROWS:
        return range(ranks)
    return [round(at * (ranks - 1) / (ROWS - 1)) for at in range(ROWS)]


def _row(plan: Plan, timeline: Timeline, rank: int, y: float, stretches: Sequence[Stretch]) -> Row:
    events = timeline.actions[rank]
    chunks = {stage: chunk for chunk, stage in enumerate(plan.stages_of(rank))}
    bars = [bar for event in events for bar in _bars(event, chunks[event.stage], plan.dims.vpp, stretches)]
    busy = sum(event.end - event.start for event in events)
    return Row(rank, y, max(0.0, 1 - busy / timeline.seconds), tuple(bars))


def _bars(event: Event, chunk: int, vpp: int, stretches: Sequence[Stretch]) -> Iterator[Bar]:
    for stretch in stretches:
        x, right = stretch.at(event.start), stretch.at(event.end)
        if right - x < 0.05:
            continue
        kind = event.kind
        stage = f", virtual stage {event.stage}" if vpp > 1 else ""
        tip = (
            f"{KINDS[kind]}, micro-batch {event.micro_batch}{stage}\n"
            f"{seconds(event.start)} to {seconds(event.end)}: {seconds(event.end - event.start)}"
        )
        text = str(event.micro_batch)
        if right - x < DIGIT * len(text) + MARGIN:
            text = ""
        yield Bar(round(x, 2), round(right - x, 2), kind, chunk % 4, text, tip)


def _ticks(stretch: Stretch, end: float) -> Iterator[Tick]:
    """Times along ``stretch``; none where the line breaks, as there two would meet."""
    parts = 6 if stretch.end - stretch.start == end else 3
    for part in range(parts + 1):
        time = stretch.start + (stretch.end - stretch.start) * part / parts
        if time in (0.0, end) or 0 < part < parts:
            yield Tick(round(stretch.at(time), 1), seconds(time) if time else "0")


def _note(plan: Plan, drawing: Drawing, rows: int, cut: bool) -> str:
    steps, stages = plan.micro_batches, plural(plan.dims.pp, "stage")
    parts = [f"{plural(steps, 'micro-batch', 'es')} pass through each replica's {stages} per step."]
    if drawing.micro_batches < steps:
        parts.append(
            f"The drawing simulates {drawing.micro_batches} of them: the rest would repeat the middle, and "
            "the idle share of the whole step is smaller in proportion."
        )
    if cut:
        parts.append("The start and the end are drawn; the middle, which only repeats, is left out.")
    if rows < plan.dims.pp:
        parts.append(f"{rows} of the {plan.dims.pp} ranks are drawn.")
    after = sum(plan.time.terms.get(term, 0.0) for term in AFTER)
    if after > 0:
        parts.append(
            f"Then come {seconds(after)} of gradient reduction, weight update and the like, not drawn here."
        )
    return " ".join(parts)
